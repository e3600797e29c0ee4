//! A row made of an offer, the offer given back, and both compared.

use super::facts::RowFacts;
use super::table::Rows;
use super::{Exit, Held, NONE, Place, Row, RowId, System};
use crate::book::Listing;
use crate::book::shared::ShareId;
use crate::geo::{Direction, Point};
use crate::offer::{Capacity, Offer, Placement};
use crate::place::City;

impl Rows {
    /// A row for an offer, with what it shares entered.
    pub(super) fn row(&mut self, listing: Listing, held: Held) -> Row {
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

    /// Whether an offer of the same slot, at the same place, differs in nothing else than [`Self::renew`] changes.
    pub(in crate::book) fn differs_in_terms(&self, row: &Row, listing: &Listing) -> bool {
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

    /// Whether a row is where this says, whatever was measured.
    pub(in crate::book) fn is_at(&self, row: &Row, placement: &Placement) -> bool {
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

    /// What conditions are checked by.
    pub(in crate::book) fn facts<'r>(&'r self, row: &'r Row) -> RowFacts<'r> {
        RowFacts { rows: self, row }
    }

    /// Where a row is.
    pub(in crate::book) fn point(&self, row: &Row) -> Option<Point> {
        self.places.get(row.place).point.map(|(point, _)| point)
    }

    /// Where a place is that rows share.
    pub(in crate::book) fn direction(&self, place: ShareId) -> Option<Direction> {
        self.places.get(place).point.map(|(_, direction)| direction)
    }

    /// The offer as it was given.
    pub(in crate::book) fn listing(&self, at: RowId) -> Option<Listing> {
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
