//! Which address a lease is sold, when an offer has several.

use std::collections::HashMap;
use std::net::IpAddr;

use ipsx_metering::B256;

use super::Market;
use crate::book::Listing;
use crate::proof::Subject;
use crate::request::Filter;

/// Addresses of a prefix that are considered: no offer has more leases.
const CONSIDERED: usize = 1_024;

impl Market {
    /// The address that a new lease of an offer leaves from: of the prefix that holds the address where the agent was
    /// seen, the one with the fewest leases. Of a range some addresses were probed; for the others the requester's own
    /// check of the exit decides. Among equals `seed` chooses, so that nobody gets the address that somebody has just left,
    /// except by chance.
    pub(super) fn exit_address(&self, listing: &Listing, filter: &Filter, seed: B256) -> IpAddr {
        let addresses = Self::exit_addresses(listing, filter);
        let mut leases: HashMap<IpAddr, usize> = HashMap::new();
        let provider = listing.offer.provider;
        let sold = self.deals_of(provider);
        let sold = sold.iter().filter_map(|id| self.deal(*id));
        let asked = self.pending.values().filter(|p| p.provider == provider);
        for address in sold
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
            .unwrap_or(listing.placement.address)
    }

    /// The addresses that leases of an offer may leave from.
    fn exit_addresses(listing: &Listing, filter: &Filter) -> Vec<IpAddr> {
        let prefix = Subject::of(&listing.offer, listing.placement.address).prefix;
        let wanted = |address: &IpAddr| {
            filter.prefixes.is_empty() || filter.prefixes.iter().any(|net| net.contains(address))
        };
        prefix.hosts().take(CONSIDERED).filter(wanted).collect()
    }
}

#[cfg(test)]
#[path = "exit_address_tests.rs"]
mod tests;
