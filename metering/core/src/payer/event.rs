//! What the payer's meter tells its shell.

use crate::{
    Amount, ChannelId, Domain, EndCause, ProviderFault, Receipt, Signed, TypedData, Usage, Voucher,
};

/// A voucher that is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoucherOrder {
    /// The channel.
    pub channel_id: ChannelId,
    /// What the voucher promises in all.
    pub cumulative: Amount,
    /// The receipt that it answers; `None` for the first of a deal.
    pub answers: Option<Receipt>,
}

impl VoucherOrder {
    /// The message to sign.
    pub fn voucher(&self, domain: &Domain) -> Voucher {
        Voucher {
            channel_id: self.channel_id,
            cumulative: self.cumulative,
            receipt_hash: self
                .answers
                .as_ref()
                .map_or_else(Default::default, |receipt| receipt.signing_hash(domain)),
        }
    }
}

/// What became of a valid receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// The newest so far.
    Newer,
    /// Not newer than what is known: a duplicate, overtaken on the way, or of an earlier deal.
    Stale,
}

/// What the shell has to do, or may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayerEvent {
    /// Sign this with the channel's voucher key, and hand it back with `handle_signed`.
    SignVoucher(VoucherOrder),
    /// Write the meter's `state()` to disk if it holds a newer voucher than what is there, then send this to the
    /// provider. It is repeated each second: for the provider it is also the sign that the payer is there.
    SendVoucher(Signed<Voucher>),
    /// The provider claims more than was measured here. Payment stays at what was measured; the lease ends if the
    /// two do not come together.
    Disputed(ProviderFault),
    /// The two sides agree again.
    Settled,
    /// The lease is over. Receipts are still taken, and what they prove is paid.
    Ended {
        /// Why.
        cause: EndCause,
        /// The lease's totals as measured here.
        usage: Usage,
        /// What the provider claims, as far as it was accepted.
        amount: Amount,
        /// What this lease's vouchers promise, prepaid and unused included.
        paid: Amount,
    },
}
