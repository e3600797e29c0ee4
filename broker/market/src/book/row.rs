//! Offers as the book keeps them: each once, small, and what many have in common only once for all.

mod facts;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;
use ipnet::IpNet;
use ipsx_metering::{
    Address, Amount, B256, NetworkId, OfferId, PricePerGib, PricePerSecond, Prices, UnixSeconds,
};

use self::facts::RowFacts;
use super::shared::{ShareId, Shared};
use super::{Listing, Slot};
use crate::evidence::Evidence;
use crate::geo::{Direction, Point};
use crate::offer::{Capacity, Offer, Placement, PortRange, Protocols, Tier, WeeklyHours};
use crate::place::{AddressType, City, Country, MAX_REPUTATION, Measured, Region};
use crate::services::ServiceName;

/// Names a row for as long as its offer is in the book; then it names another one's.
pub(super) type RowId = u32;

/// No row.
const NONE: RowId = RowId::MAX;

/// Place in the order of price: the lowest price per second first, then per GiB, then the best reputation, the shortest
/// round trip, the oldest. What is not known counts as the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) per_second: u128,
    pub(super) per_gib: u128,
    pub(super) standing: u32,
    /// Its age.
    pub(super) sequence: u64,
    pub(super) row: RowId,
}

impl Rank {
    fn of(offer: &Offer, measured: &Measured, sequence: u64, row: RowId) -> Self {
        Self {
            per_second: offer.prices.per_second.0.0,
            per_gib: offer.prices.per_gib.0.0,
            standing: standing(measured),
            sequence,
            row,
        }
    }

    /// Before every row of a price per second.
    pub(super) fn first_at(per_second: u128) -> Self {
        Self {
            per_second,
            per_gib: 0,
            standing: 0,
            sequence: 0,
            row: 0,
        }
    }

    /// What its offer asks.
    pub(super) fn prices(&self) -> Prices {
        Prices {
            per_second: PricePerSecond(Amount(self.per_second)),
            per_gib: PricePerGib(Amount(self.per_gib)),
        }
    }
}

/// Orders by the best reputation, then by the shortest round trip.
fn standing(measured: &Measured) -> u32 {
    let score = measured.reputation.unwrap_or(0).min(MAX_REPUTATION);
    let latency = measured.latency_ms.unwrap_or(u16::MAX);
    u32::from(MAX_REPUTATION - score) << 16 | u32::from(latency)
}

/// How much of a slot is let.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) leases: u32,
    pub(super) mbit_up: u64,
    pub(super) mbit_down: u64,
}

/// Where an address is; many have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    region: Option<Region>,
    /// Its spelling counts: the offer's placement is given back as it came.
    city: Option<(Box<str>, City)>,
    point: Option<(Point, Direction)>,
}

/// Who runs the network of an address, and by what that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct System {
    asn: Option<u32>,
    name: Option<Box<str>>,
    evidence: Option<Evidence>,
}

/// An exit, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Exit {
    network: NetworkId,
    policy_hash: B256,
    ports: Box<[PortRange]>,
    services: Box<[ServiceName]>,
}

/// An offer in the book.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: OfferId,
    pub(super) nonce: u64,
    pub(super) expires_at: UnixSeconds,
    pub(super) bytes_per_month: u64,
    /// What is let of its slot, kept equal to the book's own count.
    pub(super) held: Held,
    /// Nearly always empty, so that two words are enough.
    prefixes: Option<Box<[IpNet]>>,
    pub(super) provider: Address,
    pub(super) address: IpAddr,
    pub(super) measured: Measured,
    pub(super) leases: u32,
    pub(super) mbit_up: u32,
    pub(super) mbit_down: u32,
    pub(super) min_seconds: u32,
    pub(super) max_seconds: u32,
    exit: ShareId,
    hours: ShareId,
    pub(super) place: ShareId,
    pub(super) system: ShareId,
    /// The provider's next row.
    next: RowId,
    pub(super) country: Option<Country>,
    pub(super) protocols: Protocols,
    pub(super) tier: Tier,
    pub(super) address_type: Option<AddressType>,
    /// Whether the orders and indexes have it.
    pub(super) for_sale: bool,
}

impl Row {
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

/// What a row had before it was [renewed](Rows::renew).
pub(super) struct Was {
    pub(super) measured: Measured,
    pub(super) expires_at: UnixSeconds,
    pub(super) rank: Rank,
}

/// Every row, and the values they share.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Option<Row>>,
    vacant: Vec<RowId>,
    /// Each row's place in the order of price, apart from the rest: this is what most rows are passed over by.
    ranks: Vec<Rank>,
    hasher: RandomState,
    by_id: HashTable<RowId>,
    /// The first row of each provider.
    by_provider: HashTable<RowId>,
    exits: Shared<Exit>,
    hours: Shared<WeeklyHours>,
    places: Shared<Place>,
    systems: Shared<System>,
}

impl Rows {
    /// Adds an offer; `sequence` is its age.
    pub(super) fn insert(&mut self, listing: Listing, sequence: u64, held: Held) -> RowId {
        let at = self.vacant.pop().unwrap_or(self.rows.len() as RowId);
        let rank = Rank::of(&listing.offer, &listing.placement.measured, sequence, at);
        let row = self.row(listing, held);
        let (id, provider) = (row.id, row.provider);
        if let Some(place) = self.rows.get_mut(at as usize) {
            *place = Some(row);
            self.ranks[at as usize] = rank;
        } else {
            self.rows.push(Some(row));
            self.ranks.push(rank);
        }
        self.enter_id(at, id);
        let Self {
            rows,
            hasher,
            by_provider,
            ..
        } = self;
        let of = |at: &RowId| rows.get(*at as usize).and_then(Option::as_ref);
        let hash = hasher.hash_one(provider);
        let same = |at: &RowId| of(at).is_some_and(|row| row.provider == provider);
        let mut next = NONE;
        if let Some(first) = by_provider.find_mut(hash, same) {
            next = std::mem::replace(first, at);
        } else {
            by_provider.insert_unique(hash, at, |at| {
                of(at).map_or(0, |row| hasher.hash_one(row.provider))
            });
        }
        if let Some(row) = self.get_mut(at) {
            row.next = next;
        }
        at
    }

    fn enter_id(&mut self, at: RowId, id: OfferId) {
        let Self {
            rows,
            hasher,
            by_id,
            ..
        } = self;
        by_id.insert_unique(hasher.hash_one(id), at, |at| {
            let row = rows.get(*at as usize).and_then(Option::as_ref);
            row.map_or(0, |row| hasher.hash_one(row.id))
        });
    }

    fn forget_id(&mut self, at: RowId, id: OfferId) {
        let hash = self.hasher.hash_one(id);
        if let Ok(entry) = self.by_id.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
    }

    fn row(&mut self, listing: Listing, held: Held) -> Row {
        let Listing {
            id,
            offer,
            placement,
        } = listing;
        Row {
            id,
            nonce: offer.nonce,
            expires_at: offer.expires_at,
            bytes_per_month: offer.capacity.bytes_per_month,
            held,
            prefixes: (!offer.prefixes.is_empty()).then(|| offer.prefixes.into_boxed_slice()),
            provider: offer.provider,
            address: placement.address,
            measured: placement.measured,
            leases: offer.capacity.leases,
            mbit_up: offer.capacity.mbit_up,
            mbit_down: offer.capacity.mbit_down,
            min_seconds: offer.min_seconds,
            max_seconds: offer.max_seconds,
            exit: self.exits.add(Exit {
                network: offer.network,
                policy_hash: offer.policy_hash,
                ports: offer.ports.into_boxed_slice(),
                services: offer.services.into_boxed_slice(),
            }),
            hours: self.hours.add(offer.weekly_hours),
            place: self.places.add(Place {
                region: placement.region,
                city: placement.city.map(|city| (city.as_str().into(), city)),
                point: placement.point.map(|point| (point, point.into())),
            }),
            system: self.systems.add(System {
                asn: placement.asn,
                name: placement.as_name.map(String::into_boxed_str),
                evidence: placement.evidence,
            }),
            next: NONE,
            country: placement.country,
            protocols: offer.protocols,
            tier: offer.tier,
            address_type: placement.address_type,
            for_sale: false,
        }
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, at: RowId) -> Option<Row> {
        self.unlink(at)?;
        let row = self.rows.get_mut(at as usize)?.take()?;
        self.vacant.push(at);
        self.exits.drop_one(row.exit);
        self.hours.drop_one(row.hours);
        self.places.drop_one(row.place);
        self.systems.drop_one(row.system);
        Some(row)
    }

    /// Takes a row out of both tables.
    fn unlink(&mut self, at: RowId) -> Option<()> {
        let row = self.get(at)?;
        let (id, next) = (row.id, row.next);
        let hash = self.hasher.hash_one(row.provider);
        let mut before = self.first_of(row.provider)?;
        self.forget_id(at, id);
        if before != at {
            while let Some(row) = self.get(before).filter(|row| row.next != at) {
                before = row.next;
            }
            self.get_mut(before)?.next = next;
        } else if next != NONE {
            *self.by_provider.find_mut(hash, |first| *first == at)? = next;
        } else if let Ok(entry) = self.by_provider.find_entry(hash, |first| *first == at) {
            entry.remove();
        }
        Some(())
    }

    pub(super) fn get(&self, at: RowId) -> Option<&Row> {
        self.rows.get(at as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: RowId) -> Option<&mut Row> {
        self.rows.get_mut(at as usize)?.as_mut()
    }

    /// Every row, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (RowId, &Row)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(at, row)| Some((at as RowId, row.as_ref()?)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.vacant.len()
    }

    /// The row of an offer.
    pub(super) fn of_id(&self, id: OfferId) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| row.id == id);
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    /// The row of a slot.
    pub(super) fn of_slot(&self, slot: &Slot) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| slot.covers(row.prefixes()));
        self.of_provider(slot.provider).find(same)
    }

    /// A provider's rows, in no order.
    pub(super) fn of_provider(&self, provider: Address) -> impl Iterator<Item = RowId> {
        let first = self.first_of(provider);
        std::iter::successors(first, |at| {
            let next = self.get(*at).map(|row| row.next);
            next.filter(|next| *next != NONE)
        })
    }

    fn first_of(&self, provider: Address) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| row.provider == provider);
        let hash = self.hasher.hash_one(provider);
        self.by_provider.find(hash, same).copied()
    }

    /// A row's place in the order of price.
    pub(super) fn rank(&self, at: RowId) -> &Rank {
        &self.ranks[at as usize]
    }

    /// A row's place in the order of expiry.
    pub(super) fn expiry(&self, at: RowId) -> (UnixSeconds, RowId) {
        let row = self.get(at);
        (row.map_or(UnixSeconds(0), |row| row.expires_at), at)
    }

    /// Puts an offer in the place of one that [differs](Self::differs_in_terms) in nothing else than its nonce, its
    /// prices, its expiry and what was measured. Returns what of these its places in the indexes depend on.
    pub(super) fn renew(&mut self, at: RowId, listing: &Listing, sequence: u64) -> Option<Was> {
        let (id, offer) = (listing.id, &listing.offer);
        let measured = listing.placement.measured;
        let rank = Rank::of(offer, &measured, sequence, at);
        let row = self.get_mut(at)?;
        let was_id = std::mem::replace(&mut row.id, id);
        row.nonce = offer.nonce;
        let was = Was {
            measured: std::mem::replace(&mut row.measured, measured),
            expires_at: std::mem::replace(&mut row.expires_at, offer.expires_at),
            rank: std::mem::replace(&mut self.ranks[at as usize], rank),
        };
        if was_id != id {
            self.forget_id(at, was_id);
            self.enter_id(at, id);
        }
        Some(was)
    }

    /// Whether an offer of the same slot, at the same place, differs in nothing else than [`Self::renew`] changes.
    pub(super) fn differs_in_terms(&self, row: &Row, listing: &Listing) -> bool {
        let offer = &listing.offer;
        let exit = self.exits.get(row.exit);
        let (sold, rates) = (offer.capacity, (row.mbit_up, row.mbit_down));
        self.is_at(row, &listing.placement)
            && exit.network == offer.network
            && exit.policy_hash == offer.policy_hash
            && *exit.ports == *offer.ports
            && *exit.services == *offer.services
            && *self.hours.get(row.hours) == offer.weekly_hours
            && row.prefixes() == offer.prefixes
            && row.protocols == offer.protocols
            && row.tier == offer.tier
            && (row.leases, row.bytes_per_month) == (sold.leases, sold.bytes_per_month)
            && rates == (sold.mbit_up, sold.mbit_down)
            && (row.min_seconds, row.max_seconds) == (offer.min_seconds, offer.max_seconds)
    }

    /// What conditions are checked by.
    pub(super) fn facts<'r>(&'r self, row: &'r Row) -> RowFacts<'r> {
        RowFacts { rows: self, row }
    }

    /// Where a row is.
    pub(super) fn point(&self, row: &Row) -> Option<Point> {
        self.places.get(row.place).point.map(|(point, _)| point)
    }

    /// Where a place is that rows share.
    pub(super) fn direction(&self, place: ShareId) -> Option<Direction> {
        self.places.get(place).point.map(|(_, direction)| direction)
    }

    /// Whether a row is where this says, whatever was measured.
    pub(super) fn is_at(&self, row: &Row, placement: &Placement) -> bool {
        let place = self.places.get(row.place);
        let system = self.systems.get(row.system);
        let city = place.city.as_ref().map(|(_, city)| city.as_str());
        row.address == placement.address
            && row.country == placement.country
            && place.region == placement.region
            && city == placement.city.as_ref().map(City::as_str)
            && place.point.map(|(point, _)| point) == placement.point
            && system.asn == placement.asn
            && system.name.as_deref() == placement.as_name.as_deref()
            && system.evidence == placement.evidence
            && row.address_type == placement.address_type
    }

    /// The offer as it was given.
    pub(super) fn listing(&self, at: RowId) -> Option<Listing> {
        let row = self.get(at)?;
        let exit = self.exits.get(row.exit);
        let place = self.places.get(row.place);
        let system = self.systems.get(row.system);
        let offer = Offer {
            network: exit.network,
            provider: row.provider,
            nonce: row.nonce,
            prefixes: row.prefixes().to_vec(),
            protocols: row.protocols,
            policy_hash: exit.policy_hash,
            tier: row.tier,
            ports: exit.ports.to_vec(),
            services: exit.services.to_vec(),
            capacity: Capacity {
                leases: row.leases,
                mbit_up: row.mbit_up,
                mbit_down: row.mbit_down,
                bytes_per_month: row.bytes_per_month,
            },
            prices: self.rank(at).prices(),
            min_seconds: row.min_seconds,
            max_seconds: row.max_seconds,
            weekly_hours: *self.hours.get(row.hours),
            expires_at: row.expires_at,
        };
        let placement = Placement {
            address: row.address,
            country: row.country,
            region: place.region,
            city: place.city.as_ref().map(|(_, city)| city.clone()),
            point: place.point.map(|(point, _)| point),
            asn: system.asn,
            as_name: system.name.as_deref().map(str::to_owned),
            address_type: row.address_type,
            evidence: system.evidence.clone(),
            measured: row.measured,
        };
        Some(Listing {
            id: row.id,
            offer,
            placement,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_small() {
        let bytes = size_of::<Option<Row>>() + size_of::<Rank>();
        assert!(bytes <= 264, "{bytes}");
    }
}
