//! What a request must be like.

use ipsx_metering::{Address, Amount};

use super::filter::check_filter;
use super::{CheckContext, MAX_REQUEST_SECONDS, MAX_RESTING_ENTRIES, Unusable, field};
use crate::bundle::MAX_LEGS;
use crate::offer::{LONGEST_LEASE, SHORTEST_LEASE};
use crate::request::{Request, SignedRequest};
use crate::start::LONGEST_AHEAD;

/// Deposits fit 96 bits, so no larger budget can be covered.
const MAX_BUDGET: u128 = (1 << 96) - 1;

impl CheckContext {
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
    Ok(())
}
