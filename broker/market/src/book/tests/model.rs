//! A slow, obvious book: a list of offers, looked through from the start each time.

use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::{Address, OfferId, UnixSeconds};

use super::super::{BookLimits, HoldId, NoMatch, PlaceError, Slot};
use crate::geo::Direction;
use crate::matching::{Facts, Placed, Wanted};
use crate::offer::{Offer, Placement, PortRange, Protocols, Tier, WeeklyHours};
use crate::place::{AddressType, City, Country, Measured, Region};
use crate::request::Filter;
use crate::services::ServiceName;
use crate::sold::sold_at;

/// An offer as it was given.
struct Given<'a>(&'a Offer, &'a Placement);

impl Placed for Given<'_> {
    fn provider(&self) -> Address {
        self.0.provider
    }
    fn address(&self) -> IpAddr {
        self.1.address
    }
    fn sold(&self) -> IpNet {
        sold_at(&self.0.prefixes, self.1.address)
    }
    fn country(&self) -> Option<Country> {
        self.1.country
    }
    fn region(&self) -> Option<Region> {
        self.1.region
    }
    fn city(&self) -> Option<&City> {
        self.1.city.as_ref()
    }
    fn direction(&self) -> Option<Direction> {
        self.1.point.map(Direction::from)
    }
    fn asn(&self) -> Option<u32> {
        self.1.asn
    }
    fn address_type(&self) -> Option<AddressType> {
        self.1.address_type
    }
}

impl Facts for Given<'_> {
    fn measured(&self) -> Measured {
        self.1.measured
    }
    fn protocols(&self) -> Protocols {
        self.0.protocols
    }
    fn tier(&self) -> Tier {
        self.0.tier
    }
    fn ports(&self) -> &[PortRange] {
        &self.0.ports
    }
    fn services(&self) -> &[ServiceName] {
        &self.0.services
    }
    fn rates(&self) -> (u32, u32) {
        (self.0.capacity.mbit_up, self.0.capacity.mbit_down)
    }
    fn durations(&self) -> (u32, u32) {
        (self.0.min_seconds, self.0.max_seconds)
    }
    fn weekly_hours(&self) -> &WeeklyHours {
        &self.0.weekly_hours
    }
}

/// The obvious book.
#[derive(Default)]
pub(super) struct Model {
    pub(super) limits: BookLimits,
    /// In order of age.
    pub(super) offers: Vec<(Offer, Placement)>,
    pub(super) holds: Vec<(HoldId, Slot, u32, u32)>,
    /// Offers that are in and not for sale.
    pub(super) hidden: Vec<OfferId>,
}

impl Model {
    pub(super) fn place(
        &mut self,
        offer: Offer,
        placement: Placement,
    ) -> Result<Option<OfferId>, PlaceError> {
        let same = |o: &Offer| Slot::of(o) == Slot::of(&offer);
        let id = offer.id();
        self.hidden.retain(|hidden| *hidden != id);
        let old = self.offers.iter().position(|(o, _)| same(o));
        if let Some(old) = old {
            let (there, _) = &self.offers[old];
            if *there == offer {
                // It keeps its age, wherever it is placed now.
                self.offers[old].1 = placement;
                return Ok(None);
            }
            if there.nonce >= offer.nonce {
                return Err(PlaceError::Stale(there.nonce));
            }
            let (gone, _) = self.offers.remove(old);
            self.offers.push((offer, placement));
            return Ok(Some(gone.id()));
        }
        let own = self
            .offers
            .iter()
            .filter(|(o, _)| o.provider == offer.provider);
        if own.count() >= self.limits.offers_per_provider {
            return Err(PlaceError::TooManyOffers(self.limits.offers_per_provider));
        }
        if self.offers.len() >= self.limits.offers {
            return Err(PlaceError::BookFull(self.limits.offers));
        }
        self.offers.push((offer, placement));
        Ok(None)
    }

    pub(super) fn keep(&mut self, stays: impl Fn(&Offer) -> bool) -> usize {
        let before = self.offers.len();
        self.offers.retain(|(o, _)| stays(o));
        before - self.offers.len()
    }

    pub(super) fn held(&self, offer: &Offer) -> (u32, u32, u32) {
        let own = self
            .holds
            .iter()
            .filter(|(_, slot, ..)| *slot == Slot::of(offer));
        own.fold((0, 0, 0), |(n, up, down), (_, _, u, d)| {
            (n + 1, up + u, down + d)
        })
    }

    fn free(&self, offer: &Offer, filter: &Filter) -> bool {
        let (leases, up, down) = self.held(offer);
        leases < offer.capacity.leases
            && up + filter.mbit_up <= offer.capacity.mbit_up
            && down + filter.mbit_down <= offer.capacity.mbit_down
    }

    fn is_seen(&self, offer: &Offer, now: UnixSeconds) -> bool {
        offer.expires_at >= now && !self.hidden.contains(&offer.id())
    }

    /// Offers that pass, best first; the sort is stable, so equal ones stay in order of age.
    pub(super) fn passing(
        &self,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
    ) -> Vec<&(Offer, Placement)> {
        let conditions = wanted.conditions(now);
        let mut passing: Vec<_> = self
            .offers
            .iter()
            .filter(|(o, p)| self.is_seen(o, now) && conditions.unmet(&Given(o, p)).is_none())
            .collect();
        passing.sort_by_key(|(o, p)| {
            let score = p.measured.reputation.unwrap_or(0);
            let latency = p.measured.latency_ms.unwrap_or(u16::MAX);
            let prices = (o.prices.per_second, o.prices.per_gib);
            (
                wanted.cost(&o.prices),
                prices,
                std::cmp::Reverse(score),
                latency,
            )
        });
        passing
    }

    pub(super) fn take(
        &mut self,
        hold: HoldId,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<OfferId, NoMatch> {
        let mut passing = self.passing(wanted, now);
        passing.retain(|(o, _)| !excluded.contains(&o.id()));
        let fits = |o: &Offer| wanted.affords(&o.prices);
        let best = passing
            .iter()
            .find(|(o, _)| fits(o) && self.free(o, wanted.filter));
        if let Some((offer, _)) = best {
            let (id, slot) = (offer.id(), Slot::of(offer));
            self.holds
                .push((hold, slot, wanted.filter.mbit_up, wanted.filter.mbit_down));
            return Ok(id);
        }
        let dearer = passing
            .iter()
            .find(|(o, _)| !fits(o) && self.free(o, wanted.filter));
        let dearer = dearer.map(|(o, _)| o.prices);
        if passing.is_empty() {
            let valid = self
                .offers
                .iter()
                .filter(|(o, _)| self.is_seen(o, now) && !excluded.contains(&o.id()));
            let conditions = wanted.conditions(now);
            let nearest = valid
                .filter_map(|(o, p)| conditions.unmet(&Given(o, p)))
                .max();
            return Err(NoMatch::NoFilterMatch { nearest });
        }
        if let (Some(cheapest), false) = (dearer, passing.iter().any(|(o, _)| fits(o))) {
            return Err(NoMatch::PriceTooLow { cheapest });
        }
        Err(NoMatch::SoldOut { dearer })
    }

    pub(super) fn release(&mut self, hold: HoldId) -> bool {
        let before = self.holds.len();
        self.holds.retain(|(id, ..)| *id != hold);
        before != self.holds.len()
    }
}
