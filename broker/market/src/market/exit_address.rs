//! Which address a lease is sold, when an offer has several.

use std::collections::HashMap;
use std::net::IpAddr;

use ipsx_metering::B256;

use super::Market;
use crate::avoid::Avoided;
use crate::book::Listing;
use crate::request::Filter;
use crate::sold::{addresses, sold_at};

impl Market {
    /// The address that a new lease of an offer leaves from: of the prefix that holds the address where the agent was
    /// seen, the one with the fewest leases. Of a range some addresses were probed; for the others the requester's own
    /// check of the exit decides. Among equals `seed` chooses, so that nobody gets the address that somebody has just left,
    /// except by chance.
    pub(super) fn exit_address(&self, listing: &Listing, filter: &Filter, seed: B256) -> IpAddr {
        let seen = listing.placement.address;
        let sold = sold_at(&listing.offer.prefixes, seen);
        if sold == seen.into() {
            return seen;
        }
        let avoided = Avoided::from(&filter.avoid);
        let wanted = |address: &IpAddr| {
            let within = filter.prefixes.iter().any(|net| net.contains(address));
            (filter.prefixes.is_empty() || within) && !avoided.has_address(*address)
        };
        let addresses: Vec<IpAddr> = addresses(sold).filter(wanted).collect();
        let mut leases: HashMap<IpAddr, usize> = HashMap::new();
        let provider = listing.offer.provider;
        let going_on = self.deals_of(provider);
        let going_on = going_on.iter().filter_map(|id| self.deal(*id));
        let asked = self
            .pending
            .iter()
            .map(|(_, p)| p)
            .filter(|p| p.provider == provider);
        for address in going_on
            .map(|record| record.deal.exit_address)
            .chain(asked.map(|pending| pending.proposal.exit_address))
        {
            *leases.entry(address).or_default() += 1;
        }
        let [a, b, c, d, ..] = seed.0;
        let start = u32::from_be_bytes([a, b, c, d]) as usize % addresses.len().max(1);
        let (before, after) = addresses.split_at(start);
        after
            .iter()
            .chain(before)
            .min_by_key(|address| leases.get(address).copied().unwrap_or(0))
            .copied()
            .unwrap_or(seen)
    }
}

#[cfg(test)]
#[path = "exit_address_tests.rs"]
mod tests;
