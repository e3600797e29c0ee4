//! Whether a proposal becomes a deal: every condition under which this provider signs.

use std::net::IpAddr;

use ipsx_market::deal::{Deal, Proposal, ProviderTerms};
use ipsx_market::offer::Offer;
use ipsx_market::ports::has_port;
use ipsx_market::request::{Filter, IpVersion, Request, Unsigned};
use ipsx_market::start::StartWindow;
use ipsx_metering::{Address, Amount, B256, ChannelId, UnixSeconds, Usage};
use ipsx_tunnel_core::Rates;

use super::settings::{ExposureLimits, Settings};

/// Deals that one payer may have signed and not started: nobody drains the capacity for free.
const MAX_UNSTARTED: usize = 2;
/// Furthest ahead that a deal may wait for its signatures, seconds.
const LONGEST_SIGNING: u64 = 3_600;
/// Furthest ahead that a lease may start, seconds.
const LONGEST_START: u64 = 48 * 3_600;

/// Why a proposal is turned down; the text goes to the broker and to people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// The program is ending.
    #[error("this provider is shutting down")]
    ShuttingDown,
    /// Not an offer of this run, or not any more.
    #[error("the offer is not this provider's, or has expired")]
    UnknownOffer,
    /// The request names another network.
    #[error("the request is for another network")]
    OtherNetwork,
    /// The request is not signed by all who must.
    #[error("the request: {0}")]
    Unsigned(#[from] Unsigned),
    /// The request is void.
    #[error("the request has expired")]
    RequestExpired,
    /// This lease of the request is being served already.
    #[error("this request has a deal already")]
    Repeated,
    /// The request asks for fewer leases.
    #[error("the request asks for {0} leases only")]
    NoSuchLeg(usize),
    /// Too short or too long.
    #[error("a lease of {asked} s is not offered: {min} to {max} s are")]
    Duration {
        /// Seconds asked for.
        asked: u32,
        /// Shortest.
        min: u32,
        /// Longest.
        max: u32,
    },
    /// Pays less than the offer costs.
    #[error("the request pays less than the offer costs")]
    Price,
    /// The budget buys less than the shortest lease.
    #[error("a budget of {budget} does not pay for the shortest lease, which costs {least}")]
    Budget {
        /// What the lease may cost.
        budget: Amount,
        /// What the shortest costs.
        least: Amount,
    },
    /// The offer does not have what the filter wants.
    #[error("the offer does not have the {0} that the request wants")]
    Filter(&'static str),
    /// The address is not one that is offered.
    #[error("{0} is not an address of this offer")]
    NotOffered(IpAddr),
    /// Outside the hours for sale.
    #[error("the lease would run outside the hours that are offered")]
    Schedule,
    /// Deadlines that no honest clock gives.
    #[error(
        "the deadlines make no sense by this provider's clock: sign by {sign_by}, start by {start_by}, now {now}"
    )]
    Deadlines {
        /// Signatures are due.
        sign_by: UnixSeconds,
        /// Start is due.
        start_by: UnixSeconds,
        /// This clock.
        now: UnixSeconds,
    },
    /// A zero address or key.
    #[error("the request has no usable {0}")]
    NoKey(&'static str),
    /// Another lease has the requester's tunnel key.
    #[error(
        "the requester's tunnel key is in use by another lease of this provider: use a new one"
    )]
    KeyInUse,
    /// Another lease pays through the channel.
    #[error("the payment channel serves another lease: use another channel salt")]
    ChannelInUse,
    /// No more leases at once.
    #[error("all {0} leases are taken")]
    SoldOut(u32),
    /// No more rate.
    #[error("the rate that the request wants is taken by other leases")]
    RateTaken,
    /// Signed deals of this payer wait to be started.
    #[error("{MAX_UNSTARTED} deals of this payer wait to be started")]
    Unstarted,
    /// The month's traffic is used up.
    #[error("this month's traffic is used up")]
    MonthUsedUp,
    /// Too much is unclaimed.
    #[error("too much of this {0} is unclaimed; try again after the next claim")]
    Exposure(&'static str),
}

/// A lease that holds capacity now.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) request: ipsx_metering::RequestId,
    /// Which of its leases.
    pub(crate) leg: u8,
    pub(crate) payer: Address,
    pub(crate) tunnel_key: B256,
    pub(crate) channel: ChannelId,
    pub(crate) mbit_up: u32,
    pub(crate) mbit_down: u32,
    pub(crate) weights: Rates,
    pub(crate) started: bool,
}

/// Everything besides the proposal that a judgement depends on.
pub(crate) struct Situation<'a> {
    pub(crate) settings: &'a Settings,
    /// The offer that the proposal names, if this provider stands by it.
    pub(crate) offer: Option<&'a Offer>,
    /// Address that the broker sees; sold when the offer has no prefixes.
    pub(crate) observed: Option<IpAddr>,
    pub(crate) taken: &'a [Taken],
    pub(crate) unclaimed_of_payer: Amount,
    pub(crate) unclaimed_of_network: Amount,
    pub(crate) month_left: u64,
    pub(crate) shutting_down: bool,
    pub(crate) now: UnixSeconds,
}

/// The deal to sign, or why not. `terms` are what this provider would add for this requester.
pub(crate) fn judge(
    proposal: &Proposal,
    terms: &ProviderTerms,
    situation: &Situation<'_>,
) -> Result<Deal, Declined> {
    if situation.shutting_down {
        return Err(Declined::ShuttingDown);
    }
    let offer = situation.offer.ok_or(Declined::UnknownOffer)?;
    let request = &proposal.request.message;
    check_deadlines(proposal, situation.now)?;
    check_request(request, offer, situation)?;
    let leg = request.leg(proposal.leg);
    let leg = leg.ok_or_else(|| Declined::NoSuchLeg(request.count()))?;
    if leg.tunnel_key.0.is_zero() {
        return Err(Declined::NoKey("tunnel key"));
    }
    check_filter(&request.filter, offer, proposal.exit_address)?;
    check_address(proposal.exit_address, offer, situation.observed)?;
    let (hours, starts_at) = (&offer.weekly_hours, proposal.starts_at);
    let open = StartWindow::NOW.earliest_within(hours, request.seconds, starts_at);
    if open.is_none() {
        return Err(Declined::Schedule);
    }
    let deal = Deal::new(proposal, offer, terms);
    check_capacity(&deal, &request.filter, offer, situation.taken)?;
    check_limits(situation)?;
    let domain = &situation.settings.network.domain;
    // The costliest check comes last.
    proposal.request.verify(domain)?;
    Ok(deal)
}

fn check_deadlines(proposal: &Proposal, now: UnixSeconds) -> Result<(), Declined> {
    let (sign_by, start_by) = (proposal.sign_by, proposal.start_by);
    let sane = sign_by >= now
        && start_by >= sign_by
        && start_by >= proposal.starts_at
        && sign_by <= now.after(LONGEST_SIGNING)
        && start_by <= now.after(LONGEST_START)
        && proposal
            .request
            .message
            .start
            .allows(proposal.starts_at, now);
    sane.then_some(()).ok_or(Declined::Deadlines {
        sign_by,
        start_by,
        now,
    })
}

fn check_request(
    request: &Request,
    offer: &Offer,
    situation: &Situation<'_>,
) -> Result<(), Declined> {
    if request.network != situation.settings.network.id {
        return Err(Declined::OtherNetwork);
    }
    if request.expires_at <= situation.now {
        return Err(Declined::RequestExpired);
    }
    if !(offer.min_seconds..=offer.max_seconds).contains(&request.seconds) {
        return Err(Declined::Duration {
            asked: request.seconds,
            min: offer.min_seconds,
            max: offer.max_seconds,
        });
    }
    let (asked, paid) = (offer.prices, request.max_prices);
    if asked.per_second > paid.per_second || asked.per_gib > paid.per_gib {
        return Err(Declined::Price);
    }
    let shortest = Usage {
        secs: u64::from(offer.min_seconds),
        ..Usage::default()
    };
    let least = asked.due(&shortest).unwrap_or(Amount::MAX).max(Amount(1));
    if request.budget < least {
        return Err(Declined::Budget {
            budget: request.budget,
            least,
        });
    }
    for (address, name) in [
        (request.requester, "requester"),
        (request.payer, "payer"),
        (request.payer_signer, "voucher key"),
    ] {
        if address.is_zero() {
            return Err(Declined::NoKey(name));
        }
    }
    Ok(())
}

fn check_filter(filter: &Filter, offer: &Offer, exit: IpAddr) -> Result<(), Declined> {
    let wanted = [
        (offer.protocols.contains(filter.protocols), "protocols"),
        (offer.tier >= filter.tier, "tier"),
        (
            filter
                .ports
                .iter()
                .all(|port| has_port(&offer.ports, *port)),
            "ports",
        ),
        (
            filter
                .services
                .iter()
                .all(|name| offer.services.contains(name)),
            "services",
        ),
        (offer.capacity.mbit_up >= filter.mbit_up, "rate up"),
        (offer.capacity.mbit_down >= filter.mbit_down, "rate down"),
        (
            filter.prefixes.is_empty() || filter.prefixes.iter().any(|net| net.contains(&exit)),
            "prefix",
        ),
        (
            match filter.ip_version {
                IpVersion::Any => true,
                IpVersion::V4 => exit.is_ipv4(),
                IpVersion::V6 => exit.is_ipv6(),
            },
            "IP version",
        ),
        (
            !filter.avoid.providers.contains(&offer.provider)
                && !filter.avoid.prefixes.iter().any(|net| net.contains(&exit)),
            "distance from what is to be avoided",
        ),
    ];
    match wanted.into_iter().find(|(has, _)| !has) {
        Some((_, what)) => Err(Declined::Filter(what)),
        None => Ok(()),
    }
}

fn check_address(exit: IpAddr, offer: &Offer, observed: Option<IpAddr>) -> Result<(), Declined> {
    let offered = if offer.prefixes.is_empty() {
        observed == Some(exit)
    } else {
        offer.prefixes.iter().any(|net| net.contains(&exit))
    };
    offered.then_some(()).ok_or(Declined::NotOffered(exit))
}

fn check_capacity(
    deal: &Deal,
    filter: &Filter,
    offer: &Offer,
    taken: &[Taken],
) -> Result<(), Declined> {
    let channel = deal.channel().id();
    for lease in taken {
        if (lease.request, lease.leg) == (deal.request, deal.leg) {
            return Err(Declined::Repeated);
        }
        if lease.tunnel_key == deal.requester_tunnel_key.0 {
            return Err(Declined::KeyInUse);
        }
        if lease.channel == channel {
            return Err(Declined::ChannelInUse);
        }
    }
    if deal.requester_tunnel_key == deal.provider_tunnel_key {
        return Err(Declined::KeyInUse);
    }
    if taken.len() >= offer.capacity.leases as usize {
        return Err(Declined::SoldOut(offer.capacity.leases));
    }
    let sum = |rate: fn(&Taken) -> u32| {
        taken
            .iter()
            .map(|lease| u64::from(rate(lease)))
            .sum::<u64>()
    };
    let fits = |used: u64, more: u32, all: u32| used + u64::from(more) <= u64::from(all);
    if !fits(sum(|l| l.mbit_up), filter.mbit_up, offer.capacity.mbit_up)
        || !fits(
            sum(|l| l.mbit_down),
            filter.mbit_down,
            offer.capacity.mbit_down,
        )
    {
        return Err(Declined::RateTaken);
    }
    let unstarted = taken
        .iter()
        .filter(|lease| lease.payer == deal.payer && !lease.started)
        .count();
    if unstarted >= MAX_UNSTARTED {
        return Err(Declined::Unstarted);
    }
    Ok(())
}

fn check_limits(situation: &Situation<'_>) -> Result<(), Declined> {
    if situation.month_left == 0 {
        return Err(Declined::MonthUsedUp);
    }
    let ExposureLimits {
        per_payer,
        per_network,
    } = situation.settings.exposure;
    if situation.unclaimed_of_payer >= per_payer {
        return Err(Declined::Exposure("payer"));
    }
    if situation.unclaimed_of_network >= per_network {
        return Err(Declined::Exposure("network"));
    }
    Ok(())
}
