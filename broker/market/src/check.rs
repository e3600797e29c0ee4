//! What an offer or a request must be like before anybody looks at its price.

use ipsx_metering::{Address, Amount, Domain, NetworkId, Signed, UnixSeconds, Usage, VerifyError};

use crate::bundle::MAX_LEGS;
use crate::deal::ProviderTerms;
use crate::geo::{Circle, FURTHEST_KM};
use crate::offer::{LONGEST_LEASE, Offer, Placement, SHORTEST_LEASE};
use crate::place::{AddressType, MAX_REPUTATION};
use crate::ports::is_canonical;
use crate::request::{Filter, Request, SignedRequest, Unsigned};
use crate::services::ServiceName;
use crate::start::LONGEST_AHEAD;

/// Most prefixes of an offer, and most countries, systems, prefixes or providers in a list of a filter.
pub const MAX_LIST: usize = 256;
/// Most ranges of ports of an offer.
pub const MAX_RANGES: usize = 64;
/// Most services of an offer or a filter.
pub const MAX_SERVICES: usize = 16;
/// Most circles of a filter.
pub const MAX_CIRCLES: usize = 16;
/// Most leases that one offer sells at the same time.
pub const MAX_LEASES: u32 = 1_000_000;
/// Longest validity of an offer, in seconds: 31 days.
pub const MAX_OFFER_SECONDS: u64 = 31 * 24 * 3600;
/// Most entries of all lists together in the filter of a request that may rest: it is kept in memory until an offer comes.
pub const MAX_RESTING_ENTRIES: usize = 64;
/// Longest validity of a request, in seconds.
pub const MAX_REQUEST_SECONDS: u64 = 24 * 3600;

/// An offer, a request or a provider's terms can't be used; the text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The signature does not hold.
    #[error("{what}: {reason}")]
    Signature {
        /// What was signed.
        what: &'static str,
        /// What is wrong.
        reason: VerifyError,
    },
    /// The request is not signed by all who must.
    #[error("the request: {0}")]
    Unsigned(#[from] Unsigned),
    /// Made for another network.
    #[error("it is for network {0}, this is {1}")]
    OtherNetwork(NetworkId, NetworkId),
    /// A field has a value that is not allowed.
    #[error("{field} is {value}: it must be {allowed}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

fn field(field: &'static str, value: impl ToString, allowed: impl ToString) -> Unusable {
    Unusable::Field {
        field,
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

/// Who checks, and when.
#[derive(Clone, Copy, Debug)]
pub struct CheckContext {
    /// The network whose book it is.
    pub network: NetworkId,
    /// Its chain and contract.
    pub domain: Domain,
    /// The broker's clock.
    pub now: UnixSeconds,
}

impl CheckContext {
    /// Checks an offer that the agent of `provider` sent, placed at `placement`.
    pub fn offer(
        &self,
        signed: &Signed<Offer>,
        provider: Address,
        placement: &Placement,
    ) -> Result<(), Unusable> {
        let offer = &signed.message;
        self.network(offer.network)?;
        if offer.provider != provider {
            return Err(field(
                "provider",
                offer.provider,
                format!("the agent's wallet {provider}"),
            ));
        }
        self.window("expires_at", offer.expires_at, MAX_OFFER_SECONDS)?;
        check_place(offer, placement)?;
        check_terms_of_sale(offer)?;
        let verified = signed.verify(&self.domain, provider);
        verified.map_err(|reason| Unusable::Signature {
            what: "the offer's signature",
            reason,
        })
    }

    /// Checks a request that `requester` posted.
    pub fn request(&self, signed: &SignedRequest, requester: Address) -> Result<(), Unusable> {
        let request = &signed.message;
        self.network(request.network)?;
        if request.requester != requester {
            return Err(field(
                "requester",
                request.requester,
                format!("the session's wallet {requester}"),
            ));
        }
        self.window("expires_at", request.expires_at, MAX_REQUEST_SECONDS)?;
        check_wish(request)?;
        self.check_start(request)?;
        self.check_rest(request)?;
        Ok(signed.verify(&self.domain)?)
    }

    /// When it may start.
    fn check_start(&self, request: &Request) -> Result<(), Unusable> {
        let (start, last) = (request.start, self.now.after(LONGEST_AHEAD));
        let possible = self.now <= start.latest && start.latest <= last;
        if start.is_now() || (possible && start.earliest <= start.latest) {
            return Ok(());
        }
        let allowed = format!(
            "both 0, or the earliest before the latest, and the latest from now, {}, to {last}",
            self.now
        );
        let value = format!("from {} to {}", start.earliest, start.latest);
        Err(field("start", value, allowed))
    }

    /// How long it may wait for an offer, and how much memory it may take meanwhile.
    fn check_rest(&self, request: &Request) -> Result<(), Unusable> {
        let mut last = request.expires_at;
        if !request.start.is_now() {
            last = last.min(request.start.latest);
        }
        let until = request.rest_until;
        if until.0 == 0 {
            return Ok(());
        }
        if !(self.now..=last).contains(&until) {
            let allowed = format!(
                "0, or from now, {}, to expires_at and the latest start, {last}",
                self.now
            );
            return Err(field("rest_until", until, allowed));
        }
        let f = &request.filter;
        let entries = f.countries.len()
            + f.regions.len()
            + f.cities.len()
            + f.circles.len()
            + f.asns.len()
            + f.prefixes.len()
            + f.ports.len()
            + f.avoid.entries();
        if entries > MAX_RESTING_ENTRIES {
            let allowed = format!(
                "at most {MAX_RESTING_ENTRIES} entries in all lists of a request that rests"
            );
            return Err(field("filter", format!("{entries} entries"), allowed));
        }
        Ok(())
    }

    fn network(&self, network: NetworkId) -> Result<(), Unusable> {
        if network == self.network {
            Ok(())
        } else {
            Err(Unusable::OtherNetwork(network, self.network))
        }
    }

    fn window(&self, name: &'static str, at: UnixSeconds, longest: u64) -> Result<(), Unusable> {
        let last = self.now.after(longest);
        if (self.now..=last).contains(&at) {
            Ok(())
        } else {
            Err(field(
                name,
                at,
                format!(
                    "from now, {}, to {last}; check this machine's clock",
                    self.now
                ),
            ))
        }
    }
}

/// Where the address is that is sold: it must be the one that the broker sees.
fn check_place(offer: &Offer, placement: &Placement) -> Result<(), Unusable> {
    if offer.prefixes.len() > MAX_LIST {
        return Err(field(
            "prefixes",
            offer.prefixes.len(),
            format!("at most {MAX_LIST} entries"),
        ));
    }
    let sees_itself = offer
        .prefixes
        .iter()
        .any(|p| p.contains(&placement.address));
    if !offer.prefixes.is_empty() && !sees_itself {
        let seen = format!(
            "prefixes with {}, where the agent connects from",
            placement.address
        );
        return Err(field("prefixes", join(&offer.prefixes), seen));
    }
    Ok(())
}

/// What is sold, how much of it, and for how long.
fn check_terms_of_sale(offer: &Offer) -> Result<(), Unusable> {
    if offer.protocols.is_empty() {
        return Err(field("protocols", "empty", "at least one protocol"));
    }
    if !(1..=MAX_LEASES).contains(&offer.capacity.leases) {
        return Err(field(
            "capacity.leases",
            offer.capacity.leases,
            format!("from 1 to {MAX_LEASES}"),
        ));
    }
    if offer.ports.len() > MAX_RANGES || !is_canonical(&offer.ports) {
        let allowed = format!("at most {MAX_RANGES} ranges, in order and apart from each other");
        return Err(field("ports", format!("{:?}", offer.ports), allowed));
    }
    check_services("services", &offer.services)?;
    let (min, max) = (offer.min_seconds, offer.max_seconds);
    if min < SHORTEST_LEASE || max > LONGEST_LEASE || min > max {
        let allowed = format!("from {SHORTEST_LEASE} to {LONGEST_LEASE}, the shortest first");
        return Err(field(
            "min_seconds to max_seconds",
            format!("{min} to {max}"),
            allowed,
        ));
    }
    if offer.weekly_hours.0.is_zero() || offer.weekly_hours.0.bit_len() > 168 {
        return Err(field(
            "weekly_hours",
            offer.weekly_hours.0,
            "some of the week's 168 hours",
        ));
    }
    // A price that overflows within the longest lease could never be billed.
    let most = Usage {
        secs: max.into(),
        bytes_up: u64::MAX,
        bytes_down: u64::MAX,
    };
    if offer.prices.due(&most).is_err() {
        return Err(field(
            "prices",
            format!("{:?}", offer.prices),
            "such that the longest lease costs below 2^128",
        ));
    }
    Ok(())
}

/// What is asked for, how long, and by what it is paid.
fn check_wish(request: &Request) -> Result<(), Unusable> {
    if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&request.seconds) {
        return Err(field(
            "seconds",
            request.seconds,
            format!("from {SHORTEST_LEASE} to {LONGEST_LEASE}"),
        ));
    }
    if request.budget == Amount::ZERO || request.budget.0 > MAX_BUDGET {
        return Err(field("budget", request.budget, "above 0 and below 2^96"));
    }
    if request.payer.is_zero() {
        return Err(field("payer", request.payer, "the owner of the deposit"));
    }
    if request.payer_signer.is_zero() {
        return Err(field(
            "payer_signer",
            request.payer_signer,
            "the address of a session key",
        ));
    }
    if request.tunnel_key.0.is_zero() {
        return Err(field(
            "tunnel_key",
            request.tunnel_key.0,
            "a WireGuard public key",
        ));
    }
    check_bundle(request)?;
    check_filter(&request.filter)
}

/// What is leased together.
fn check_bundle(request: &Request) -> Result<(), Unusable> {
    if request.count() > MAX_LEGS {
        let allowed = format!("at most {} besides the first", MAX_LEGS - 1);
        return Err(field(
            "bundle.legs",
            format!("a list of {}", request.bundle.legs.len()),
            allowed,
        ));
    }
    if request.legs().any(|leg| leg.tunnel_key.0.is_zero()) || !request.has_keys_apart() {
        let allowed = "a tunnel key and a channel salt of its own for each lease";
        return Err(field(
            "bundle.legs",
            "keys that are used twice or zero",
            allowed,
        ));
    }
    let at_once = request.start.is_now() && request.rest_until.0 == 0;
    if request.count() > 1 && !at_once {
        let allowed = "left out where a request rests or starts later: only single leases do";
        return Err(field(
            "bundle",
            format!("{} leases", request.count()),
            allowed,
        ));
    }
    Ok(())
}

/// What is asked of an offer.
fn check_filter(filter: &Filter) -> Result<(), Unusable> {
    let avoid = &filter.avoid;
    let lists = [
        ("filter.countries", filter.countries.len(), MAX_LIST),
        ("filter.regions", filter.regions.len(), MAX_LIST),
        ("filter.cities", filter.cities.len(), MAX_LIST),
        ("filter.circles", filter.circles.len(), MAX_CIRCLES),
        ("filter.asns", filter.asns.len(), MAX_LIST),
        ("filter.prefixes", filter.prefixes.len(), MAX_LIST),
        ("filter.ports", filter.ports.len(), MAX_LIST),
        ("filter.avoid.prefixes", avoid.prefixes.len(), MAX_LIST),
        ("filter.avoid.asns", avoid.asns.len(), MAX_LIST),
        ("filter.avoid.providers", avoid.providers.len(), MAX_LIST),
        (
            "filter.address_types",
            filter.address_types.len(),
            AddressType::ALL.len(),
        ),
    ];
    for (name, entries, most) in lists {
        if entries > most {
            let value = format!("a list of {entries}");
            return Err(field(name, value, format!("at most {most} entries")));
        }
    }
    let possible = |c: &Circle| c.center.is_valid() && (1..=FURTHEST_KM).contains(&c.km);
    if let Some(circle) = filter.circles.iter().find(|circle| !possible(circle)) {
        let allowed = format!("points of the earth, with 1 to {FURTHEST_KM} km around them");
        return Err(field("filter.circles", circle, allowed));
    }
    if filter.ports.contains(&0) {
        return Err(field("filter.ports", 0, "ports from 1 to 65535"));
    }
    if filter.min_reputation > MAX_REPUTATION {
        let allowed = format!("at most {MAX_REPUTATION}");
        return Err(field(
            "filter.min_reputation",
            filter.min_reputation,
            allowed,
        ));
    }
    check_services("filter.services", &filter.services)
}

fn check_services(name: &'static str, services: &[ServiceName]) -> Result<(), Unusable> {
    let twice = (1..services.len()).any(|at| services[..at].contains(&services[at]));
    if services.len() > MAX_SERVICES || twice {
        let allowed = format!("at most {MAX_SERVICES} names, each once");
        return Err(field(name, format!("{services:?}"), allowed));
    }
    Ok(())
}

/// Deposits fit 96 bits, so no larger budget can be covered.
const MAX_BUDGET: u128 = (1 << 96) - 1;

/// Checks what a provider adds to a proposal.
pub fn check_terms(terms: &ProviderTerms) -> Result<(), Unusable> {
    if terms.payout.is_zero() {
        return Err(field("payout", terms.payout, "an address of the provider"));
    }
    if terms.agent_key.is_zero() {
        return Err(field(
            "agent_key",
            terms.agent_key,
            "the address of the agent's key",
        ));
    }
    if terms.tunnel_key.0.is_zero() {
        return Err(field(
            "tunnel_key",
            terms.tunnel_key.0,
            "a WireGuard public key",
        ));
    }
    Ok(())
}

fn join(prefixes: &[ipnet::IpNet]) -> String {
    // Long lists would fill the log and the message; the first few tell enough.
    let first: Vec<_> = prefixes.iter().take(4).map(ToString::to_string).collect();
    let more = if prefixes.len() > 4 { ", …" } else { "" };
    first.join(", ") + more
}
