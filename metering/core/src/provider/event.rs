//! What the provider's meter tells its shell.

use serde::{Deserialize, Serialize};

use crate::{Amount, EndCause, Receipt, Signed, Usage, Voucher};

/// What the packet path may do for this lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceGate {
    /// Nothing passes.
    Closed,
    /// Traffic passes until the lease's total bytes, both directions, reach the limit.
    Open {
        /// Total of the lease as given to `handle_counters`, both directions added up; `u64::MAX` is no limit.
        byte_limit: u64,
    },
    /// As `Open`, but slowly: the payer is using up its credit.
    Throttled {
        /// As in `Open`.
        byte_limit: u64,
        /// Both directions added up.
        bytes_per_second: u64,
    },
}

/// Why service is on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldCause {
    /// What was prepaid and the credit are used up.
    Unpaid,
    /// Neither vouchers nor traffic arrive from the peer.
    PeerSilent,
}

/// What became of a valid voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoucherOutcome {
    /// The highest so far; it counts once it is stored.
    Higher,
    /// No higher than what is known: a duplicate, or overtaken on the way.
    Stale,
}

/// What the shell has to do, or may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderEvent {
    /// Sign this with the deal's agent key, hand it back with `handle_signed`, and send it to the payer.
    SignReceipt(Receipt),
    /// Write the meter's `state()`, which holds this voucher, to disk, then call `handle_stored` with its amount.
    ///
    /// It also comes for a voucher that is stored already, when the rest of the state has moved on.
    StoreVoucher(Signed<Voucher>),
    /// Write this voucher to disk, to be claimed. It earns no service: it answers none of the lease's receipts, so that
    /// nothing shows that the payer agrees with them. `handle_stored` may be called with its amount, or not.
    KeepVoucher(Signed<Voucher>),
    /// From now on the packet path obeys this.
    Gate(ServiceGate),
    /// Send the latest voucher to the operator and ask for a reservation of this capacity; repeated while needed.
    RenewReservation {
        /// The capacity to ask for.
        capacity: Amount,
    },
    /// The payer is behind; traffic is throttled.
    Warned {
        /// Due and not paid.
        unpaid: Amount,
        /// How much of it is tolerated before service goes on hold.
        credit: Amount,
    },
    /// Service stopped; it resumes when the payer pays or is heard again, or else ends.
    Held {
        /// Why.
        cause: HoldCause,
        /// The lease's totals.
        usage: Usage,
        /// Due and not paid.
        unpaid: Amount,
    },
    /// Service goes on after a hold.
    Resumed,
    /// The lease is over. Vouchers are still taken.
    Ended {
        /// Why.
        cause: EndCause,
        /// The lease's totals.
        usage: Usage,
        /// What they cost.
        amount: Amount,
        /// What this lease's stored vouchers pay, as far as the reservation covers it.
        paid: Amount,
    },
}
