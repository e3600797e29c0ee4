//! Offers as the book keeps them: each once, small, and what many have in common only once for all.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use ipnet::IpNet;
use ipsx_metering::{Address, B256, NetworkId, OfferId, Prices, UnixSeconds};

use super::Listing;
use crate::matching::Facts;
use crate::offer::{Capacity, Offer, Placement, Protocols, Tier, WeeklyHours};

/// Names a row for as long as its offer is in the book; then it names another one's.
pub(super) type RowId = u32;

/// Names a value that several rows have.
type ShareId = u32;

/// Place in the order of price: the lowest price per second first, then per GiB, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    per_second: u128,
    per_gib: u128,
    sequence: u64,
    pub(super) row: RowId,
}

impl Rank {
    pub(super) fn per_second(&self) -> u128 {
        self.per_second
    }
}

/// How much of a slot is let.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) leases: u32,
    pub(super) mbit_up: u64,
    pub(super) mbit_down: u64,
}

/// An offer in the book.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: OfferId,
    pub(super) nonce: u64,
    pub(super) prices: Prices,
    pub(super) expires_at: UnixSeconds,
    pub(super) placement: Placement,
    pub(super) protocols: Protocols,
    pub(super) tier: Tier,
    /// What is let of its slot, kept equal to the book's own count.
    pub(super) held: Held,
    sequence: u64,
    bytes_per_month: u64,
    /// Nearly always empty, so that two words are enough.
    prefixes: Option<Box<[IpNet]>>,
    leases: u32,
    mbit_up: u32,
    mbit_down: u32,
    min_seconds: u32,
    max_seconds: u32,
    provider: ShareId,
    policy: ShareId,
    hours: ShareId,
}

impl Row {
    pub(super) fn rank(&self, row: RowId) -> Rank {
        Rank {
            per_second: self.prices.per_second.0.0,
            per_gib: self.prices.per_gib.0.0,
            sequence: self.sequence,
            row,
        }
    }

    pub(super) fn prefixes(&self) -> &[IpNet] {
        self.prefixes.as_deref().unwrap_or_default()
    }

    /// Leases that could start now.
    pub(super) fn free_leases(&self) -> u32 {
        self.leases.saturating_sub(self.held.leases)
    }

    /// Whether one more lease of this rate fits.
    pub(super) fn has_room(&self, mbit_up: u32, mbit_down: u32) -> bool {
        self.held.leases < self.leases
            && self.held.mbit_up + u64::from(mbit_up) <= u64::from(self.mbit_up)
            && self.held.mbit_down + u64::from(mbit_down) <= u64::from(self.mbit_down)
    }
}

/// Every row, and the values they share.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Option<Row>>,
    vacant: Vec<RowId>,
    /// The price per second of each row, as something that compares quickly; see [`coarse`].
    coarse: Vec<u64>,
    providers: Shared<Address>,
    by_provider: BTreeSet<(ShareId, RowId)>,
    policies: Shared<(NetworkId, B256)>,
    hours: Shared<WeeklyHours>,
}

impl Rows {
    /// Adds an offer; `sequence` is its age.
    pub(super) fn insert(
        &mut self,
        id: OfferId,
        offer: Offer,
        placement: Placement,
        sequence: u64,
        held: Held,
    ) -> RowId {
        let row = Row {
            id,
            nonce: offer.nonce,
            prices: offer.prices,
            expires_at: offer.expires_at,
            placement,
            protocols: offer.protocols,
            tier: offer.tier,
            held,
            sequence,
            bytes_per_month: offer.capacity.bytes_per_month,
            prefixes: (!offer.prefixes.is_empty()).then(|| offer.prefixes.into_boxed_slice()),
            leases: offer.capacity.leases,
            mbit_up: offer.capacity.mbit_up,
            mbit_down: offer.capacity.mbit_down,
            min_seconds: offer.min_seconds,
            max_seconds: offer.max_seconds,
            provider: self.providers.add(offer.provider),
            policy: self.policies.add((offer.network, offer.policy_hash)),
            hours: self.hours.add(offer.weekly_hours),
        };
        let (price, provider) = (coarse(row.prices.per_second.0.0), row.provider);
        let at = if let Some(at) = self.vacant.pop() {
            self.rows[at as usize] = Some(row);
            self.coarse[at as usize] = price;
            at
        } else {
            self.rows.push(Some(row));
            self.coarse.push(price);
            (self.rows.len() - 1) as RowId
        };
        self.by_provider.insert((provider, at));
        at
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, at: RowId) -> Option<Row> {
        let row = self.rows.get_mut(at as usize)?.take()?;
        self.vacant.push(at);
        self.by_provider.remove(&(row.provider, at));
        self.providers.drop_one(row.provider);
        self.policies.drop_one(row.policy);
        self.hours.drop_one(row.hours);
        Some(row)
    }

    pub(super) fn get(&self, at: RowId) -> Option<&Row> {
        self.rows.get(at as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: RowId) -> Option<&mut Row> {
        self.rows.get_mut(at as usize)?.as_mut()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.vacant.len()
    }

    /// A provider's rows.
    pub(super) fn of_provider(&self, provider: Address) -> Vec<RowId> {
        let share = self.providers.find(provider);
        let own = share.map(|share| self.by_provider.range((share, 0)..=(share, RowId::MAX)));
        own.into_iter().flatten().map(|(_, at)| *at).collect()
    }

    /// Orders as the price per second does, as far as 64 bits go.
    pub(super) fn coarse_price(&self, at: RowId) -> u64 {
        self.coarse[at as usize]
    }

    pub(super) fn provider(&self, row: &Row) -> Address {
        *self.providers.get(row.provider)
    }

    /// What conditions are checked by.
    pub(super) fn facts<'r>(&'r self, row: &'r Row) -> Facts<'r> {
        Facts {
            placement: &row.placement,
            protocols: row.protocols,
            tier: row.tier,
            mbit_up: row.mbit_up,
            mbit_down: row.mbit_down,
            min_seconds: row.min_seconds,
            max_seconds: row.max_seconds,
            weekly_hours: self.hours.get(row.hours),
        }
    }

    /// The offer as it was given.
    pub(super) fn listing(&self, row: &Row) -> Listing {
        let &(network, policy_hash) = self.policies.get(row.policy);
        let offer = Offer {
            network,
            provider: self.provider(row),
            nonce: row.nonce,
            prefixes: row.prefixes().to_vec(),
            protocols: row.protocols,
            policy_hash,
            tier: row.tier,
            capacity: Capacity {
                leases: row.leases,
                mbit_up: row.mbit_up,
                mbit_down: row.mbit_down,
                bytes_per_month: row.bytes_per_month,
            },
            prices: row.prices,
            min_seconds: row.min_seconds,
            max_seconds: row.max_seconds,
            weekly_hours: *self.hours.get(row.hours),
            expires_at: row.expires_at,
        };
        Listing {
            id: row.id,
            offer,
            placement: row.placement.clone(),
        }
    }
}

/// A number that orders as the price does, equal ones apart: how many bits it has, and the first 57 of them.
fn coarse(price: u128) -> u64 {
    if price == 0 {
        return 0;
    }
    let bits = 128 - price.leading_zeros();
    let aligned = price << (128 - bits);
    // The first bit is always set, and says nothing.
    (u64::from(bits) << 56) | ((aligned << 1) >> 72) as u64
}

/// Values of which each is kept once, for as long as somebody has it.
#[derive(Clone, Debug)]
struct Shared<T> {
    values: Vec<(T, u32)>,
    vacant: Vec<ShareId>,
    by_value: HashMap<T, ShareId>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            vacant: Vec::new(),
            by_value: HashMap::new(),
        }
    }
}

impl<T: Copy + Eq + Hash> Shared<T> {
    fn add(&mut self, value: T) -> ShareId {
        if let Some(&at) = self.by_value.get(&value) {
            self.values[at as usize].1 += 1;
            return at;
        }
        let at = if let Some(at) = self.vacant.pop() {
            self.values[at as usize] = (value, 1);
            at
        } else {
            self.values.push((value, 1));
            (self.values.len() - 1) as ShareId
        };
        self.by_value.insert(value, at);
        at
    }

    fn drop_one(&mut self, at: ShareId) {
        let (value, count) = &mut self.values[at as usize];
        *count -= 1;
        if *count == 0 {
            self.by_value.remove(value);
            self.vacant.push(at);
        }
    }

    fn find(&self, value: T) -> Option<ShareId> {
        self.by_value.get(&value).copied()
    }

    fn get(&self, at: ShareId) -> &T {
        &self.values[at as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coarse_prices_never_contradict_the_exact_ones(a in any::<u128>(), b in any::<u128>(), shift in 0u32..128) {
            let (a, b) = (a >> shift, b >> shift);
            for (a, b) in [(a, b), (a, a.saturating_add(1)), (a, a / 2)] {
                prop_assert!(coarse(a).cmp(&coarse(b)) == a.cmp(&b) || coarse(a) == coarse(b));
            }
        }
    }

    #[test]
    fn a_row_is_small() {
        assert!(
            size_of::<Option<Row>>() <= 240,
            "{}",
            size_of::<Option<Row>>()
        );
    }

    #[test]
    fn a_shared_value_goes_with_its_last_holder() {
        let mut shared = Shared::default();
        let a = shared.add('a');
        assert_eq!((shared.add('a'), shared.add('b')), (a, 1));
        shared.drop_one(a);
        assert_eq!(shared.by_value.len(), 2);
        shared.drop_one(a);
        assert_eq!(shared.add('c'), a);
        assert_eq!(shared.get(1), &'b');
    }
}
