//! What an offer or a request must be like before anybody looks at its price.

mod filter;
mod request;

use ipsx_metering::{Address, Domain, NetworkId, Signed, UnixSeconds, Usage, VerifyError};

use crate::deal::ProviderTerms;
use crate::offer::{LONGEST_LEASE, Offer, Placement, SHORTEST_LEASE};
use crate::ports::is_canonical;
use crate::request::Unsigned;
use filter::check_services;

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
