//! What a requester believes of what the broker and the provider send: nothing that it has not checked.

use std::net::IpAddr;

use ipsx_market::deal::{Binding, Deal};
use ipsx_market::http::{BoundDeal, ProposedDeal};
use ipsx_market::matching::{Condition, misplaced};
use ipsx_market::messages::Ready;
use ipsx_market::request::{Filter, Request};
use ipsx_metering::{
    Amount, Prices, Reservation, Signed, TypedData, UnixSeconds, VerifyError, verify,
};

use crate::provider::Network;

/// A deal may start this long after it was proposed at most: later ones are paid for in advance.
pub const LONGEST_WAIT_SECS: u64 = 48 * 3_600;
/// Smallest inner packet size that IPv6 allows, and the largest that an Ethernet frame carries, in bytes.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 576..=1_500;

/// Why a proposed deal is not signed. The first sentence names who is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalFault {
    /// A field that the request fixes is another one in the deal.
    #[error(
        "the broker proposed a deal with another {field} than was asked for; nothing was signed"
    )]
    Changed {
        /// Which field.
        field: &'static str,
    },
    /// The price is above what was allowed.
    #[error(
        "the broker proposed a deal at {found:?}, above the {most:?} that were allowed; nothing was signed"
    )]
    Price {
        /// In the deal.
        found: Prices,
        /// In the request.
        most: Prices,
    },
    /// The address is not one that was asked for.
    #[error("the broker proposed {address}, which {reason}; nothing was signed")]
    Place {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The provider did not sign this deal.
    #[error("the proposed deal is not signed by its provider: {0}; nothing was signed")]
    Signature(#[from] VerifyError),
    /// A key that pays or signs is missing or the requester's own.
    #[error("the proposed deal names {what}; nothing was signed")]
    Key {
        /// Which.
        what: &'static str,
    },
    /// The times make no sense.
    #[error(
        "the proposed deal must be signed by {sign_by}, starts at {starts_at} and must start by {start_by}, but it is {now}; nothing was signed"
    )]
    Time {
        /// Last second for the signature.
        sign_by: UnixSeconds,
        /// When it starts.
        starts_at: UnixSeconds,
        /// Last second for the start.
        start_by: UnixSeconds,
        /// This side's clock.
        now: UnixSeconds,
    },
}

/// Checks a proposed deal, field by field, against the request that it should fill. Only then may it be signed.
pub fn check_proposal(
    request: &Request,
    network: &Network,
    proposed: &ProposedDeal,
    now: UnixSeconds,
) -> Result<(), ProposalFault> {
    let deal = &proposed.deal;
    let leg = request.leg(deal.leg);
    let same = [
        ("id", proposed.deal_id == deal.id()),
        (
            "network",
            deal.network == request.network && deal.network == network.id,
        ),
        ("request", deal.request == request.id()),
        ("requester", deal.requester == request.requester),
        ("payer", deal.payer == request.payer),
        ("voucher key", deal.payer_signer == request.payer_signer),
        (
            "channel",
            leg.is_some_and(|leg| deal.channel_salt == leg.channel_salt),
        ),
        (
            "tunnel key",
            leg.is_some_and(|leg| deal.requester_tunnel_key == leg.tunnel_key),
        ),
        ("budget", deal.budget == request.budget),
        ("duration", deal.seconds == request.seconds),
        (
            "byte counter",
            deal.counter_source == request.counter_source,
        ),
    ];
    if let Some((field, _)) = same.into_iter().find(|(_, same)| !same) {
        return Err(ProposalFault::Changed { field });
    }
    check_price(deal, request)?;
    check_place(request, proposed)?;
    check_keys(deal)?;
    let asked = request.start.allows(deal.starts_at, now) && deal.starts_at <= deal.start_by;
    let late = now > deal.sign_by || now > deal.start_by;
    if late || !asked || deal.start_by.since(now) > LONGEST_WAIT_SECS {
        return Err(ProposalFault::Time {
            sign_by: deal.sign_by,
            starts_at: deal.starts_at,
            start_by: deal.start_by,
            now,
        });
    }
    let hash = deal.signing_hash(&network.domain);
    Ok(verify(hash, &proposed.provider_signature, deal.provider)?)
}

/// Checks the deals that are proposed for a request for several addresses: each by itself, that all are there that were
/// asked for, and that any two differ.
pub fn check_bundle(
    request: &Request,
    network: &Network,
    proposed: &[ProposedDeal],
    now: UnixSeconds,
) -> Result<(), ProposalFault> {
    for (number, one) in proposed.iter().enumerate() {
        check_proposal(request, network, one, now)?;
        if usize::from(one.deal.leg) != number {
            return Err(ProposalFault::Changed { field: "lease" });
        }
        let (start, first) = (one.deal.starts_at, proposed[0].deal.starts_at);
        if start != first && !request.start.is_now() {
            return Err(ProposalFault::Changed { field: "start" });
        }
        let mut others = Filter::default();
        for other in &proposed[..number] {
            let distinct = request.bundle.distinct;
            distinct.avoid_like(&mut others.avoid, &other.placement, other.deal.provider);
        }
        if misplaced(&others, &one.placement, one.deal.provider).is_some() {
            return Err(ProposalFault::Place {
                address: one.deal.exit_address,
                reason: "differs less from another one of the leases than was asked for",
            });
        }
    }
    let missing = proposed.len() < request.count() && request.bundle.all_or_nothing;
    if missing || proposed.is_empty() {
        let field = "number of leases";
        return Err(ProposalFault::Changed { field });
    }
    Ok(())
}

fn check_price(deal: &Deal, request: &Request) -> Result<(), ProposalFault> {
    let (found, most) = (deal.prices, request.max_prices);
    if found.per_second > most.per_second || found.per_gib > most.per_gib {
        return Err(ProposalFault::Price { found, most });
    }
    Ok(())
}

/// The placement is the broker's word; that it contradicts the request or itself can be seen all the same.
fn check_place(request: &Request, proposed: &ProposedDeal) -> Result<(), ProposalFault> {
    let (filter, placement) = (&request.filter, &proposed.placement);
    let address = proposed.deal.exit_address;
    let wrong = |reason| Err(ProposalFault::Place { address, reason });
    if placement.address != address {
        return wrong("is not the address that was placed");
    }
    match misplaced(filter, placement, proposed.deal.provider) {
        None => Ok(()),
        Some(Condition::Country) => wrong("is in another country than was asked for"),
        Some(Condition::Asn) => wrong("is in another network (ASN) than was asked for"),
        Some(Condition::Prefix) => wrong("is outside the prefixes that were asked for"),
        Some(Condition::IpVersion) => wrong("is of another IP version than was asked for"),
        Some(Condition::AddressType) => wrong("is of another type than was asked for"),
        Some(Condition::Avoided) => wrong("is one of those that were to be avoided"),
        Some(_) => wrong("is in another place than was asked for"),
    }
}

fn check_keys(deal: &Deal) -> Result<(), ProposalFault> {
    let wrong = |what| Err(ProposalFault::Key { what });
    if deal.provider.is_zero() || deal.payout.is_zero() || deal.agent_key.is_zero() {
        return wrong("the zero address as provider, payout address or receipt key");
    }
    if deal.payout == deal.payer
        || deal.payout == deal.payer_signer
        || deal.agent_key == deal.payer_signer
    {
        return wrong("the requester's own key on the provider's side");
    }
    if deal.provider_tunnel_key.0.is_zero() || deal.provider_tunnel_key == deal.requester_tunnel_key
    {
        return wrong("no usable WireGuard key of the provider");
    }
    Ok(())
}

/// Why an answer to a signature is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingFault {
    /// The network did not bind the deal; nothing is owed.
    #[error(
        "the network aborted the deal because a signature was late; nothing is owed, try again"
    )]
    Aborted,
    /// The word is about some other deal.
    #[error("the broker answered for another deal than was signed")]
    OtherDeal,
    /// The word is not the operator's.
    #[error("the network's word on the deal is not signed by its operator: {0}")]
    Outcome(VerifyError),
    /// Bound, but nothing is promised to the provider: it cannot start.
    #[error("the network bound the deal without a payment reservation")]
    NoReservation,
    /// The reservation is not the operator's.
    #[error("the payment reservation is not signed by the network's operator: {0}")]
    Reservation(VerifyError),
    /// The reservation is for some other channel.
    #[error("the payment reservation is for another channel than the deal's")]
    OtherChannel,
}

/// Checks that the operator says that `deal` is bound. Returns the reservation that it promised with it.
pub fn check_bound<'a>(
    deal: &Deal,
    network: &Network,
    bound: &'a BoundDeal,
) -> Result<&'a Signed<Reservation>, BindingFault> {
    if bound.outcome.message.deal_id != deal.id() {
        return Err(BindingFault::OtherDeal);
    }
    bound
        .outcome
        .verify(&network.domain, network.operator)
        .map_err(BindingFault::Outcome)?;
    if bound.outcome.message.outcome == Binding::Aborted {
        return Err(BindingFault::Aborted);
    }
    let reservation = bound
        .reservation
        .as_ref()
        .ok_or(BindingFault::NoReservation)?;
    reservation
        .verify(&network.domain, network.operator)
        .map_err(BindingFault::Reservation)?;
    if reservation.message.channel_id != deal.channel().id() {
        return Err(BindingFault::OtherChannel);
    }
    Ok(reservation)
}

/// Why a lease that is said to be ready cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadyFault {
    /// Addresses or sizes that no tunnel can have.
    #[error("the provider's tunnel parameters cannot be used: {0}")]
    Parameters(&'static str),
    /// A voucher that the requester never signed.
    #[error("the provider shows a voucher that this wallet's key did not sign: {0}")]
    Voucher(VerifyError),
    /// A voucher for some other channel.
    #[error("the provider shows a voucher of another channel")]
    OtherChannel,
}

/// Checks how a lease is said to be reached. Returns what the channel had been paid by the provider's records,
/// in vouchers that the requester did sign.
pub fn check_ready(deal: &Deal, network: &Network, ready: &Ready) -> Result<Amount, ReadyFault> {
    let wrong = |what| Err(ReadyFault::Parameters(what));
    let endpoint = ready.endpoint;
    if endpoint.port() == 0 || endpoint.ip().is_unspecified() || endpoint.ip().is_multicast() {
        return wrong("the endpoint is no address that can be reached");
    }
    if ready.control_port == 0 {
        return wrong("the control port is 0");
    }
    if !ready.address_v4.is_private()
        || !ready.gateway.is_private()
        || ready.address_v4 == ready.gateway
    {
        return wrong("the inner addresses are not two private ones");
    }
    if ready.address_v6.is_some_and(|v6| !v6.is_unique_local()) {
        return wrong("the inner IPv6 address is no unique local one");
    }
    if !MTU_RANGE.contains(&ready.mtu) {
        return wrong("the packet size is out of range");
    }
    let Some(voucher) = &ready.latest_voucher else {
        return Ok(Amount::ZERO);
    };
    if voucher.message.channel_id != deal.channel().id() {
        return Err(ReadyFault::OtherChannel);
    }
    voucher
        .verify(&network.domain, deal.payer_signer)
        .map_err(ReadyFault::Voucher)?;
    Ok(voucher.message.cumulative)
}
