//! Random histories: the book agrees with the obvious one after every step.

use ipsx_metering::{
    Amount, B256, NetworkId, OfferId, PricePerGib, PricePerSecond, Prices, UnixSeconds,
};
use proptest::prelude::*;

use super::super::find::Effort;
use super::super::{BookLimits, HoldId, Listing, OfferBook, Position, Slot};
use super::model::Model;
use super::{NOW, provider};
use crate::avoid::Avoid;
use crate::evidence::{Evidence, TypeEvidence, TypeRule};
use crate::geo::Point;
use crate::matching::Wanted;
use crate::offer::{Capacity, Offer, Placement, Protocol, Protocols, Tier, WeeklyHours};
use crate::place::{AddressType, City, Country, Measured, Reachability, Region};
use crate::request::{Filter, IpVersion};
use crate::services::ServiceName;
use crate::start::StartWindow;

#[derive(Clone, Debug)]
enum Step {
    Place(Offer, Placement),
    Measure(usize, Placement),
    Sell(usize, bool),
    Withdraw(usize, u8),
    WithdrawAll(u8),
    Take(Filter, Prices, u32, StartWindow, u64, bool),
    Release(usize),
    Wait(u64),
    Search(Filter, Prices, u64),
}

pub(crate) fn prices() -> impl Strategy<Value = Prices> {
    (0u128..4, 0u128..3).prop_map(|(second, gib)| Prices {
        per_second: PricePerSecond(Amount(second)),
        per_gib: PricePerGib(Amount(gib)),
    })
}

fn address() -> impl Strategy<Value = std::net::IpAddr> {
    prop_oneof![
        (0u8..4).prop_map(|n| std::net::IpAddr::from([192, 0, 2, n])),
        (0u16..2).prop_map(|n| std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])),
    ]
}

fn country() -> impl Strategy<Value = Country> {
    prop::sample::select(vec!["FR", "DE", "JP"]).prop_map(|c| c.parse().unwrap())
}

fn prefixes() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    prop::collection::vec(
        prefix(vec!["192.0.2.0/31", "192.0.2.2/31", "2001:db8::/64"]),
        0..2,
    )
}

fn prefix(texts: Vec<&'static str>) -> impl Strategy<Value = ipnet::IpNet> {
    prop::sample::select(texts).prop_map(|text| text.parse().unwrap())
}

fn avoid() -> impl Strategy<Value = Avoid> {
    let prefixes = vec![
        "192.0.2.0/32",
        "192.0.2.1/32",
        "192.0.2.2/31",
        "192.0.2.0/30",
        "192.0.0.0/15",
        "0.0.0.0/1",
        "2001:db8::/127",
        "2001:db8::1/128",
        "2001::/16",
        "2000::/3",
        "::/0",
    ];
    let lists = (
        prop::collection::vec(prefix(prefixes), 0..3),
        rarely(1u32..3),
        rarely((0u8..3).prop_map(provider)),
    );
    let some = lists.prop_map(|(prefixes, asns, providers)| Avoid {
        prefixes,
        asns,
        providers,
    });
    prop_oneof![2 => Just(Avoid::default()), 1 => some]
}

fn protocols() -> impl Strategy<Value = Protocols> {
    prop::collection::vec(prop::sample::select(Protocol::ALL.to_vec()), 0..3)
        .prop_map(|some| some.into_iter().collect())
}

fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(vec![Tier::Web, Tier::WebUdp, Tier::Open])
}

fn region() -> impl Strategy<Value = Region> {
    prop::sample::select(vec!["FR-IDF", "FR-BRE"]).prop_map(|r| r.parse().unwrap())
}

fn city() -> impl Strategy<Value = City> {
    prop::sample::select(vec!["Paris", "PARIS", "Brest"]).prop_map(|c| c.parse().unwrap())
}

fn services() -> impl Strategy<Value = Vec<ServiceName>> {
    let some = vec![vec![], vec!["probe"], vec!["probe", "insurance"]];
    prop::sample::select(some)
        .prop_map(|names| names.into_iter().map(|n| n.parse().unwrap()).collect())
}

fn address_type() -> impl Strategy<Value = AddressType> {
    prop::sample::select(AddressType::ALL.to_vec())
}

fn reachability() -> impl Strategy<Value = Reachability> {
    prop::sample::select(Reachability::ALL.to_vec())
}

fn placement() -> impl Strategy<Value = Placement> {
    let place = (
        address(),
        prop::option::of(country()),
        prop::option::of(region()),
        prop::option::of(city()),
        prop::option::of((0i32..3, 0i32..3)),
        prop::option::of(1u32..3),
        prop::option::of(address_type()),
    );
    let measured = (
        prop::option::of(prop::sample::select(vec![9u16, 10, 11, 500])),
        prop::option::of(0u32..3),
        prop::option::of(prop::sample::select(vec![0u16, 249, 250, 1_000])),
        prop::option::of(reachability()),
    );
    (place, measured).prop_map(|(place, measured)| {
        let (latency_ms, mbit_up, reputation, reachability) = measured;
        let (address, country, region, city, point, asn, address_type) = place;
        Placement {
            country,
            region,
            city,
            // A degree or so apart, on both sides of the date line.
            point: point.map(|(up, aside)| Point {
                latitude: up * 900_000,
                longitude: [179_500_000, -179_600_000, -178_000_000][aside as usize],
            }),
            asn,
            address_type,
            evidence: address_type.map(|kind| Evidence {
                databases: Vec::new(),
                address_type: Some(TypeEvidence {
                    rule: TypeRule::UserType,
                    found: kind.to_string(),
                }),
            }),
            measured: Measured {
                latency_ms,
                mbit_up,
                reputation,
                reachability,
                ..Measured::default()
            },
            ..Placement::at(address)
        }
    })
}

pub(crate) fn offer() -> impl Strategy<Value = (Offer, Placement)> {
    let who = (0u8..3, 0u64..4, prefixes(), protocols(), tier(), services());
    let what = (
        0u32..3,
        0u32..3,
        prices(),
        5u32..20,
        5u32..40,
        0u64..60,
        any::<bool>(),
    );
    (placement(), who, what).prop_map(|(placement, who, what)| {
        let (number, nonce, prefixes, protocols, tier, services) = who;
        let (leases, mbit, prices, min, max, expires, nights) = what;
        let hours = WeeklyHours::always().0;
        let offer = Offer {
            network: NetworkId(B256::ZERO),
            provider: provider(number),
            nonce,
            prefixes,
            protocols,
            policy_hash: B256::ZERO,
            tier,
            ports: tier.ports(),
            services,
            capacity: Capacity {
                leases,
                mbit_up: mbit,
                mbit_down: mbit + 1,
                bytes_per_month: u64::MAX,
            },
            prices,
            min_seconds: min,
            max_seconds: max,
            weekly_hours: WeeklyHours(if nights { hours >> 100 } else { hours }),
            expires_at: NOW.after(expires),
        };
        (offer, placement)
    })
}

fn rarely<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    // Mostly loose, or hardly anything would ever match.
    prop_oneof![5 => Just(Vec::new()), 1 => prop::collection::vec(value, 1..3)]
}

pub(crate) fn filter() -> impl Strategy<Value = Filter> {
    let circles = vec!["0,179.9,30", "1,180,150", "0.9,-179,120"];
    let circle = prop::sample::select(circles).prop_map(|c| c.parse().unwrap());
    let places = (
        prop::collection::vec(country(), 0..3),
        rarely(region()),
        rarely(city()),
        rarely(circle),
        prop::collection::vec(1u32..3, 0..2),
        prefixes(),
        rarely(address_type()),
        prop::sample::select(vec![
            IpVersion::Any,
            IpVersion::Any,
            IpVersion::V4,
            IpVersion::V6,
        ]),
    );
    let exits = (
        prop_oneof![3 => Just(Protocols::default()), 1 => protocols()],
        prop_oneof![3 => Just(Tier::Web), 1 => tier()],
        rarely(prop::sample::select(vec![22u16, 25, 80, 5_000])),
        prop_oneof![3 => Just(Vec::new()), 1 => services()],
    );
    let least = (
        0u32..2,
        0u32..3,
        prop::sample::select(vec![0u16, 0, 0, 9, 10, 600]),
        prop::sample::select(vec![0u16, 0, 0, 1, 250, 300]),
        rarely(reachability()),
        avoid(),
    );
    (places, exits, least).prop_map(|(places, exits, least)| {
        let (countries, regions, cities, circles, asns, prefixes, address_types, ip_version) =
            places;
        let (protocols, tier, ports, services) = exits;
        let (mbit_up, mbit_down, max_latency_ms, min_reputation, reachability, avoid) = least;
        Filter {
            countries,
            regions,
            cities,
            circles,
            asns,
            prefixes,
            address_types,
            ip_version,
            protocols,
            tier,
            ports,
            services,
            mbit_up,
            mbit_down,
            max_latency_ms,
            min_reputation,
            reachability: reachability.first().copied(),
            avoid,
        }
    })
}

/// Bytes beside which a second costs much, something or nothing.
pub(crate) fn bytes() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 0, 1, 5 << 30, 1 << 40])
}

/// Mostly at once; else within a day, which has hours for sale and others.
fn start() -> impl Strategy<Value = StartWindow> {
    let later = (0u64..100, 0u64..90_000).prop_map(|(earliest, wide)| StartWindow {
        earliest: NOW.after(earliest),
        latest: NOW.after(earliest + wide),
    });
    prop_oneof![3 => Just(StartWindow::NOW), 1 => later]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => offer().prop_map(|(o, p)| Step::Place(o, p)),
        2 => (any::<usize>(), placement()).prop_map(|(n, p)| Step::Measure(n, p)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, sell)| Step::Sell(n, sell)),
        1 => (any::<usize>(), 0u8..3).prop_map(|(n, p)| Step::Withdraw(n, p)),
        1 => (0u8..3).prop_map(Step::WithdrawAll),
        8 => (filter(), prices(), 5u32..40, start(), bytes(), any::<bool>()).prop_map(|(f, p, s, w, b, x)| Step::Take(f, p, s, w, b, x)),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (0u64..30).prop_map(Step::Wait),
        2 => (filter(), prices(), bytes()).prop_map(|(f, p, b)| Step::Search(f, p, b)),
    ]
}

fn run(steps: Vec<Step>, effort: Effort) {
    let limits = BookLimits {
        offers: 7,
        offers_per_provider: 4,
    };
    let mut book = OfferBook::new(limits);
    book.effort = effort;
    let mut model = Model {
        limits,
        ..Model::default()
    };
    let (mut now, mut next) = (NOW, 0);
    for step in steps {
        match step {
            Step::Place(offer, placement) => {
                let real = book.place(offer.clone(), placement.clone());
                assert_eq!(real, model.place(offer, placement));
            }
            Step::Measure(n, other) => {
                let Some((offer, placement)) = model.offers.get(n % 8).cloned() else {
                    continue;
                };
                let measured = other.measured;
                let anew = Placement {
                    measured,
                    ..placement
                };
                let real = book.place(offer.clone(), anew.clone());
                assert_eq!(real, model.place(offer, anew));
            }
            Step::Sell(n, sell) => {
                let Some((offer, placement)) = model.offers.get(n % 8).cloned() else {
                    continue;
                };
                let id = offer.id();
                let listing = Listing {
                    id,
                    offer,
                    placement,
                };
                assert_eq!(book.put_as(listing, sell), Ok(None));
                model.hidden.retain(|other| *other != id);
                model.hidden.extend((!sell).then_some(id));
            }
            Step::Withdraw(n, by) => {
                let Some((offer, _)) = model.offers.get(n % 8).cloned() else {
                    continue;
                };
                let own = offer.provider == provider(by);
                assert_eq!(book.withdraw(provider(by), offer.id()), own);
                model.keep(|o| !own || *o != offer);
            }
            Step::WithdrawAll(by) => {
                let gone = book.withdraw_all(provider(by)).len();
                assert_eq!(gone, model.keep(|o| o.provider != provider(by)));
            }
            Step::Take(filter, max_prices, seconds, start, expected_bytes, exclude) => {
                next += 1;
                let first = model
                    .offers
                    .first()
                    .map(|(o, _)| o.id())
                    .filter(|_| exclude);
                let excluded: Vec<_> = first.into_iter().collect();
                let wanted = Wanted {
                    filter: &filter,
                    max_prices,
                    seconds: Some(seconds),
                    start,
                    expected_bytes,
                };
                let real = book
                    .take(HoldId(next), &wanted, now, &excluded)
                    .map(|l| l.id);
                assert_eq!(real, model.take(HoldId(next), &wanted, now, &excluded));
            }
            Step::Release(n) => {
                let id = HoldId(n as u64 % (next + 2));
                assert_eq!(book.release(id), model.release(id));
                assert!(!book.release(id), "never twice");
            }
            Step::Wait(seconds) => {
                now = now.after(seconds);
                assert_eq!(book.expire(now).len(), model.keep(|o| o.expires_at >= now));
                assert!(book.next_expiry().is_none_or(|at| at >= now));
            }
            Step::Search(filter, max_prices, expected_bytes) => {
                let wanted = Wanted {
                    filter: &filter,
                    max_prices,
                    seconds: None,
                    start: StartWindow::NOW,
                    expected_bytes,
                };
                let real: Vec<_> = book
                    .search(&wanted, now, 5)
                    .into_iter()
                    .map(|(l, free)| (l.id, free))
                    .collect();
                let found = model
                    .passing(&wanted, now)
                    .into_iter()
                    .filter(|(o, _)| wanted.affords(&o.prices));
                let expected: Vec<_> = found
                    .map(|(o, _)| (o.id(), o.capacity.leases.saturating_sub(model.held(o).0)))
                    .take(5)
                    .collect();
                assert_eq!(real, expected);
                assert_eq!(by_pages(&book, &wanted, now, 5), expected);
            }
        }
        assert_eq!(book.len(), model.offers.len());
        assert_eq!(book.leases_held(), model.holds.len());
        for (offer, placement) in &model.offers {
            let (leases, ..) = model.held(offer);
            let listed = book.get(offer.id()).unwrap();
            // Only an offer that replaced a larger one can have more leases than it sells.
            assert_eq!((&listed.offer, &listed.placement), (offer, placement));
            let hidden = model.hidden.contains(&listed.id);
            assert_eq!(book.is_for_sale(listed.id), !hidden);
            assert_eq!(
                book.rows.of_slot(&Slot::of(offer)),
                book.rows.of_id(offer.id())
            );
            assert_eq!(
                book.held.get(&Slot::of(offer)).map_or(0, |h| h.leases),
                leases
            );
        }
    }
}

/// The first lines of a search, two at a time, with the position in between as clients have it.
fn by_pages(
    book: &OfferBook,
    wanted: &Wanted<'_>,
    now: UnixSeconds,
    lines: usize,
) -> Vec<(OfferId, u32)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = book.page(wanted, now, 2.min(lines - all.len()), after);
        let Some(last) = page.last() else {
            return all;
        };
        after = Some(Position::from_bytes(last.position.to_bytes()));
        assert_eq!(after, Some(last.position));
        all.extend(page.iter().map(|line| (line.listing.id, line.free_leases)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_book_agrees_with_the_obvious_one(
        steps in prop::collection::vec(step(), 1..60),
        few in 0u64..4,
        walked in 0usize..4,
        sorted in 0u64..4,
    ) {
        // So little effort that each way to the answer is gone.
        run(steps, Effort { few, walked, steps: walked, sorted });
    }
}
