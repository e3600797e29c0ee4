//! What a side has to remember about a channel to go on after a restart.

use serde::{Deserialize, Serialize};

use crate::{Amount, DealId, Receipt, Signed, Usage, Voucher};

/// One side's memory of a channel; under 3 kB. Stored durably whenever a meter asks for it, and handed to the next
/// meter of the same channel, whether that goes on with the same deal or starts another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// The highest voucher, signed (payer) or accepted (provider).
    pub voucher: Option<Signed<Voucher>>,
    /// The receipt that the voucher answers: what was signed for. `None` when it answers none, or that was lost.
    pub answered: Option<Signed<Receipt>>,
    /// The latest receipt that the payer accepted; unused by providers.
    pub receipt: Option<Signed<Receipt>>,
    /// A receipt number that was never used; unused by payers.
    pub next_seq: u64,
    /// The deal that was being served.
    pub deal: Option<DealProgress>,
}

/// How far a deal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealProgress {
    /// The deal.
    pub deal_id: DealId,
    /// What the channel had paid before it.
    pub base: Amount,
    /// Its totals, as this side measured them.
    pub usage: Usage,
    /// Different vouchers seen for it, counted up to 2: none opens no gate, one earns no credit.
    pub vouchers: u8,
}

impl ChannelState {
    /// Total of all vouchers so far.
    pub fn cumulative(&self) -> Amount {
        self.voucher
            .as_ref()
            .map_or(Amount::ZERO, |voucher| voucher.message.cumulative)
    }

    /// The progress of `deal`: what is remembered of it, or a fresh start on top of what the channel has paid.
    pub(crate) fn resume(&self, deal_id: DealId) -> DealProgress {
        match self.deal {
            Some(progress) if progress.deal_id == deal_id => progress,
            _ => DealProgress {
                deal_id,
                base: self.cumulative(),
                usage: Usage::default(),
                vouchers: 0,
            },
        }
    }
}
