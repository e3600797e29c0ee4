//! Why the desk did not do what was asked.

use ipsx_market::check::Unusable;
use ipsx_market::market::{
    AppealRefusal, DealRefusal, ProbeRefusal, RequestFailure, RequestRefusal,
};
use ipsx_metering::{Address, Amount, DealId, Refused, UnixSeconds};
use ipsx_settlement::ContractError;

use crate::relay::NoRelay;
use crate::store::StoreError;

/// What was asked was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeskError {
    /// The broker is stopping, or its store has failed.
    #[error("the broker is stopping; try again later")]
    Stopped,
    /// Another broker has this part of the market now.
    #[error("another broker has just taken this over; try again in a moment")]
    Moved,
    /// The operator has the broker drained.
    #[error("the broker takes no new requests for now; try again later, or at another broker")]
    Draining,
    /// The disk is full.
    #[error(
        "the broker has no room left on its disk and takes nothing new until its operator has freed some; what was sent before may still be done then. Try again later, or at another broker"
    )]
    NoRoom,
    /// The store failed just now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vouchers' store failed.
    #[error("the voucher was not kept: {0}")]
    Vouchers(#[from] ipsx_settlement::StoreError),
    /// The chain did not answer, or refused.
    #[error("{0}")]
    Contract(#[from] ContractError),
    /// A request or an offer can't be used.
    #[error("the {what} can't be used: {reason}")]
    Unusable {
        /// Which.
        what: &'static str,
        /// Why.
        reason: Unusable,
    },
    /// The request was posted before.
    #[error("a request with nonce {0} was posted before; sign one with another nonce")]
    Replayed(u64),
    /// The same came to nothing, once and for all.
    #[error("it was posted before, and refused: {0}")]
    WasRefused(String),
    /// No deal came of a request.
    #[error(transparent)]
    Failure(#[from] RequestFailure),
    /// No provider's answer came, not even a timeout.
    #[error("no provider answered in time; try again")]
    NoAnswer,
    /// The deal's state does not allow it.
    #[error(transparent)]
    Deal(#[from] DealRefusal),
    /// There is no port of a relay.
    #[error(transparent)]
    Relay(#[from] NoRelay),
    /// A resting request is not what was thought.
    #[error(transparent)]
    Request(#[from] RequestRefusal),
    /// What a prober says does not count.
    #[error(transparent)]
    Probe(#[from] ProbeRefusal),
    /// An appeal that is not taken.
    #[error(transparent)]
    Appeal(#[from] AppealRefusal),
    /// The same was asked a moment ago.
    #[error("deal {0} is being funded; ask for its outcome in a moment")]
    BeingFunded(DealId),
    /// The deposit does not cover a lease's first reservation.
    #[error(
        "payer {payer} has {available} left of its deposit, and this lease needs {needed} to begin; deposit more, lower the budget, or wait until earlier leases are settled"
    )]
    Deposit {
        /// Whose deposit.
        payer: Address,
        /// What the first reservation takes.
        needed: Amount,
        /// What is left.
        available: Amount,
    },
    /// The payer's state on the chain changed each time it was read.
    #[error("the account of {0} keeps changing on the chain; try again in a moment")]
    Unsettled(Address),
    /// The database with what was promised before is lost.
    #[error(
        "this broker has no record of what was promised on its network before, and promises nothing until {0}, when the last of it has lapsed; try again then, or at another broker"
    )]
    Forgotten(UnixSeconds),
    /// The ledger makes no such promise.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The session key does not live long enough.
    #[error(
        "payer {payer} lets the session key {signer} sign until {valid_to}, and a lease begins only with one that lasts until {needed} or later, not revoked; the payer has to authorise it for longer"
    )]
    SignerTooShort {
        /// The key.
        signer: Address,
        /// Who has to authorise it.
        payer: Address,
        /// Until when it counts; 0 for never.
        valid_to: UnixSeconds,
        /// What is needed.
        needed: UnixSeconds,
    },
    /// The authorization is for something else.
    #[error(
        "the authorization's {field} is not the deal's; sign one for network, payer and signer of the deal"
    )]
    WrongAuthorization {
        /// Which field.
        field: &'static str,
    },
    /// A voucher that does not hold.
    #[error("the voucher can't be used: {0}")]
    Voucher(String),
    /// A body is fine, a value in it is not.
    #[error("{0}")]
    Invalid(String),
}
