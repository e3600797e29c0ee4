//! Whether a deal that the broker calls bound is: both signatures and the network's word.

use ipsx_market::deal::{Binding, Deal, Outcome};
use ipsx_metering::{DealId, Reservation, Signature, Signed, TypedData, VerifyError, verify};

use super::settings::Network;

/// A deal that is not bound, or not as signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBound {
    /// Not what this provider signed.
    #[error("the deal is not the one that this provider signed")]
    OtherDeal,
    /// The requester did not sign it.
    #[error("the requester's signature is wrong: {0}")]
    Requester(VerifyError),
    /// The operator did not sign the outcome.
    #[error("the outcome is not signed by the network's operator: {0}")]
    Operator(VerifyError),
    /// The outcome is about another deal, or says something else.
    #[error("the outcome is about another deal, or says something else")]
    OtherOutcome,
    /// The reservation is for another channel.
    #[error("the reservation is for another payment channel")]
    OtherChannel,
}

/// Checks everything that can be checked without the chain.
pub(crate) fn check_bound(
    signed: &Deal,
    told: &Deal,
    requester_signature: &Signature,
    outcome: &Signed<Outcome>,
    reservation: &Signed<Reservation>,
    network: &Network,
) -> Result<(), NotBound> {
    if signed != told {
        return Err(NotBound::OtherDeal);
    }
    check_outcome(signed.id(), Binding::Bound, outcome, network)?;
    let hash = signed.signing_hash(&network.domain);
    verify(hash, requester_signature, signed.requester).map_err(NotBound::Requester)?;
    if reservation.message.channel_id != signed.channel().id() {
        return Err(NotBound::OtherChannel);
    }
    Ok(())
}

/// Checks that the network says `expected` about a deal.
pub(crate) fn check_outcome(
    deal_id: DealId,
    expected: Binding,
    outcome: &Signed<Outcome>,
    network: &Network,
) -> Result<(), NotBound> {
    if outcome.message.deal_id != deal_id || outcome.message.outcome != expected {
        return Err(NotBound::OtherOutcome);
    }
    outcome
        .verify(&network.domain, network.operator)
        .map_err(NotBound::Operator)
}
