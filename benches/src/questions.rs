//! What requesters ask for, from broad to one in a million.

use ipsx_market::IpNet;
use ipsx_market::geo::Circle;
use ipsx_market::matching::Wanted;
use ipsx_market::offer::{Protocol, Tier};
use ipsx_market::place::AddressType;
use ipsx_market::request::{Filter, IpVersion};
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use rand::Rng;

use crate::spread::{CITIES, COUNTRIES, Spread, asn, city_name, country_code, point, region};

/// One question.
pub struct Question {
    /// Conditions.
    pub filter: Filter,
    /// What may be asked for at most.
    pub max_prices: Prices,
    /// Of the lease.
    pub seconds: u32,
    /// Whole GiB that are expected.
    pub gib: u64,
}

impl Question {
    /// What to ask a book for.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            filter: &self.filter,
            max_prices: self.max_prices,
            seconds: Some(self.seconds),
            start: StartWindow::NOW,
            expected_bytes: self.gib << 30,
        }
    }
}

/// Kinds of questions.
pub const KINDS: usize = 23;

/// Questions of every kind, `count` of each.
pub fn questions(spread: &mut Spread, count: usize) -> Vec<(&'static str, Vec<Question>)> {
    type Kind = (&'static str, fn(&mut Spread) -> Question);
    let kinds: [Kind; KINDS] = [
        ("anything", |_| ask(Filter::default())),
        ("a country", |spread| ask(in_country(spread))),
        ("one of three countries, fast, all protocols", |spread| {
            let mut filter = in_country(spread);
            filter
                .countries
                .push(country_code(spread.skewed(COUNTRIES)));
            filter
                .countries
                .push(country_code(spread.skewed(COUNTRIES)));
            filter.mbit_down = 100;
            filter.protocols = Protocol::ALL.into_iter().collect();
            ask(filter)
        }),
        ("a country, every port, 500 Mbit/s", |spread| {
            let mut filter = in_country(spread);
            filter.tier = Tier::Open;
            filter.mbit_down = 500;
            ask(filter)
        }),
        ("IPv6 in a country, every port", |spread| {
            let mut filter = in_country(spread);
            filter.ip_version = IpVersion::V6;
            filter.tier = Tier::Open;
            ask(filter)
        }),
        ("anything, with 5 GiB", |_| Question {
            gib: 5,
            ..ask(Filter::default())
        }),
        ("a country, with 5 GiB", |spread| Question {
            gib: 5,
            ..ask(in_country(spread))
        }),
        ("a region", |spread| {
            let country = spread.skewed(COUNTRIES);
            let region = region(country, spread.skewed(CITIES));
            ask(Filter {
                regions: region.into_iter().collect(),
                ..Filter::default()
            })
        }),
        ("a city", |spread| {
            let country = spread.skewed(COUNTRIES);
            let city = city_name(country, spread.skewed(CITIES)).parse();
            ask(Filter {
                cities: city.into_iter().collect(),
                ..Filter::default()
            })
        }),
        ("homes within 200 km", |spread| {
            let country = spread.skewed(COUNTRIES);
            let center = point(country, spread.skewed(CITIES));
            ask(Filter {
                circles: vec![Circle { center, km: 200 }],
                address_types: vec![AddressType::Residential],
                ..Filter::default()
            })
        }),
        ("mobile, 20 ms, reputation 900", |_| {
            ask(Filter {
                address_types: vec![AddressType::Mobile],
                max_latency_ms: 20,
                min_reputation: 900,
                ..Filter::default()
            })
        }),
        ("a country, mail by submission", |spread| {
            let mut filter = in_country(spread);
            filter.ports = vec![587];
            ask(filter)
        }),
        ("insured, in a country, reputation 950", |spread| {
            let mut filter = in_country(spread);
            filter.services = "insurance".parse().into_iter().collect();
            filter.min_reputation = 950;
            ask(filter)
        }),
        ("a network", |spread| {
            let (country, network) = (spread.skewed(COUNTRIES), spread.skewed(60));
            ask(Filter {
                asns: vec![asn(country, network)],
                ..Filter::default()
            })
        }),
        ("a /12", |spread| ask(within(spread, 12))),
        ("a /24", |spread| ask(within(spread, 24))),
        ("one address", |spread| ask(within(spread, 32))),
        ("a country, outside of 16 /24", |spread| {
            let mut filter = in_country(spread);
            filter.avoid.prefixes = (0..16).flat_map(|_| within(spread, 24).prefixes).collect();
            ask(filter)
        }),
        ("anything but the three largest networks", |_| {
            let mut filter = Filter::default();
            filter.avoid.asns = (0..3).map(|network| asn(0, network)).collect();
            ask(filter)
        }),
        ("anything outside a /2", |spread| {
            let mut filter = Filter::default();
            filter.avoid.prefixes = within(spread, 2).prefixes;
            ask(filter)
        }),
        ("a round trip that nobody has", |_| {
            ask(Filter {
                max_latency_ms: 4,
                ..Filter::default()
            })
        }),
        ("a country at the lowest price there is", |spread| {
            let mut question = ask(in_country(spread));
            question.max_prices.per_second = PricePerSecond(Amount(10_000_000_000_000));
            question
        }),
        (
            "a country and a network elsewhere (never there)",
            |spread| {
                let mut filter = in_country(spread);
                filter.asns = vec![asn(COUNTRIES + 1, spread.random.gen_range(0..60))];
                ask(filter)
            },
        ),
    ];
    let many = |make: fn(&mut Spread) -> Question, spread: &mut Spread| {
        (0..count).map(|_| make(spread)).collect()
    };
    kinds
        .into_iter()
        .map(|(name, make)| (name, many(make, spread)))
        .collect()
}

fn ask(filter: Filter) -> Question {
    Question {
        filter,
        max_prices: Prices {
            per_second: PricePerSecond(Amount::MAX),
            per_gib: PricePerGib(Amount::MAX),
        },
        seconds: 600,
        gib: 0,
    }
}

fn in_country(spread: &mut Spread) -> Filter {
    Filter {
        countries: vec![country_code(spread.skewed(COUNTRIES))],
        ..Filter::default()
    }
}

fn within(spread: &mut Spread, length: u8) -> Filter {
    let (_, placement) = Spread::offer(&mut Spread::new(spread.random.r#gen()));
    let length = if placement.address.is_ipv6() {
        length * 2
    } else {
        length
    };
    let prefix = IpNet::new(placement.address, length).map(|net| net.trunc());
    Filter {
        prefixes: prefix.into_iter().collect(),
        ..Filter::default()
    }
}
