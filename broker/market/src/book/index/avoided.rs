//! Which rows are avoided, as far as bitmaps tell: never one too many, as these are taken out unseen.

use ipnet::IpNet;
use roaring::RoaringBitmap;

use super::{Index, bits};
use crate::avoid::Avoided;

/// Most bitmaps in which each row is looked up.
const FEW_SETS: usize = 4;

/// Rows that are avoided for sure. Others may be too, which only looking at them tells.
#[derive(Debug)]
pub(in crate::book) struct AvoidedRows<'i> {
    /// By their network.
    networks: Vec<&'i RoaringBitmap>,
    /// By the address that they were seen at.
    addresses: Vec<&'i RoaringBitmap>,
    /// Rows that sell other addresses too.
    ranges: &'i RoaringBitmap,
}

impl AvoidedRows<'_> {
    /// Whether there are none.
    pub(in crate::book) fn is_empty(&self) -> bool {
        self.sets() == 0
    }

    /// How many there are, or more: one of several sets counts in each.
    pub(in crate::book) fn at_most(&self) -> u64 {
        let sets = self.networks.iter().chain(&self.addresses);
        sets.map(|set| set.len()).sum()
    }

    /// Whether each row can be told quickly to be one of these.
    pub(in crate::book) fn are_few_sets(&self) -> bool {
        self.sets() <= FEW_SETS
    }

    /// Whether a row is one of these, if that can be told quickly.
    pub(in crate::book) fn probe(&self, at: u32) -> bool {
        let is_in = |sets: &[&RoaringBitmap]| sets.iter().any(|set| set.contains(at));
        self.are_few_sets()
            && (is_in(&self.networks) || (is_in(&self.addresses) && !self.ranges.contains(at)))
    }

    /// Takes them out of others.
    pub(in crate::book) fn leave(&self, rows: &mut RoaringBitmap) {
        for set in &self.networks {
            *rows -= *set;
        }
        for set in &self.addresses {
            *rows -= *set - self.ranges;
        }
    }

    fn sets(&self) -> usize {
        self.networks.len() + self.addresses.len()
    }
}

impl Index {
    /// Rows that are avoided, of the networks and prefixes that have many.
    pub(in crate::book) fn avoided(&self, avoided: &Avoided) -> AvoidedRows<'_> {
        let asns = avoided.asns().iter();
        let systems = asns.filter_map(|asn| self.asns.get(asn)).flatten();
        let known = systems.filter_map(|system| self.systems.get(*system)?.set());
        let unknown = (!avoided.asns().is_empty()).then_some(&self.no_asn);
        let within = |prefix: &IpNet| {
            let family = match prefix {
                IpNet::V4(_) => &self.v4,
                IpNet::V6(_) => &self.v6,
            };
            family.surely_within(bits(prefix.network()), prefix.prefix_len())
        };
        AvoidedRows {
            networks: known.chain(unknown).collect(),
            addresses: avoided.prefixes().iter().flat_map(within).collect(),
            ranges: &self.ranges,
        }
    }
}
