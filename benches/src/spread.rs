//! Offers as a large market would have them: few countries with most, many networks with few, prices in clusters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipsx_market::IpNet;
use ipsx_market::geo::Point;
use ipsx_market::offer::{
    Capacity, Country, Offer, Placement, PortRange, Protocol, Protocols, Tier, WeeklyHours,
};
use ipsx_market::place::{AddressType, Measured, Reachability, Region};
use ipsx_market::services::ServiceName;
use ipsx_metering::{
    Address, Amount, B256, NetworkId, PricePerGib, PricePerSecond, Prices, U256, UnixSeconds,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// When all of it is offered.
pub const NOW: UnixSeconds = UnixSeconds(1_795_183_200);

/// Countries, each with half as many offers as one at half its number.
pub const COUNTRIES: usize = 200;

/// Networks of one country.
const NETWORKS: usize = 60;

/// Cities of one country.
pub const CITIES: usize = 40;

/// What the book and the databases are filled from.
pub const SEED: u64 = 1;

/// Draws offers, always the same ones for the same seed.
pub struct Spread {
    /// What they are drawn by.
    pub random: StdRng,
    drawn: u64,
}

impl Spread {
    /// From the beginning.
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            drawn: 0,
        }
    }

    /// The next offer, of a provider of its own.
    pub fn offer(&mut self) -> (Offer, Placement) {
        let number = self.drawn;
        self.drawn += 1;
        self.of(number, 1)
    }

    /// An offer that replaces one of the first `offers`.
    pub fn replacement(&mut self, offers: usize) -> (Offer, Placement) {
        self.drawn += 1;
        let number = self.random.gen_range(0..offers as u64);
        let nonce = self.drawn;
        self.of(number, nonce)
    }

    /// A number below `bound`; half of all are below the first few.
    pub fn skewed(&mut self, bound: usize) -> usize {
        let even: f64 = self.random.r#gen();
        (((bound + 1) as f64).powf(even) - 1.0) as usize
    }

    fn of(&mut self, provider: u64, nonce: u64) -> (Offer, Placement) {
        let placement = self.placement();
        let tier = [Tier::Web, Tier::WebUdp, Tier::Open][self.skewed(3)];
        let mut ports = tier.ports();
        if tier == Tier::Web && self.random.gen_bool(0.01) {
            // Mail by submission, beside the web.
            ports.extend(PortRange::new(587, 587));
        }
        let speed = [10, 20, 50, 100, 250, 500, 1_000][self.skewed(7)];
        let offer = Offer {
            network: NetworkId(B256::ZERO),
            provider: Address::left_padding_from(&(provider + 1).to_be_bytes()),
            nonce,
            prefixes: self.prefixes(&placement),
            protocols: self.protocols(),
            policy_hash: B256::with_last_byte(self.random.r#gen::<u8>() % 20),
            tier,
            ports,
            services: self.services(),
            capacity: Capacity {
                leases: self.random.gen_range(1..8),
                mbit_up: speed / 5,
                mbit_down: speed,
                bytes_per_month: u64::MAX,
            },
            prices: self.prices(),
            min_seconds: [5, 60, 3_600][self.skewed(3)],
            max_seconds: [31 * 24 * 3_600, 24 * 3_600, 3_600][self.skewed(3)],
            weekly_hours: self.hours(),
            expires_at: NOW.after(self.random.gen_range(60..86_400)),
        };
        (offer, placement)
    }

    fn placement(&mut self) -> Placement {
        let country = self.skewed(COUNTRIES);
        let network = self.skewed(NETWORKS);
        let host: u16 = self.random.r#gen();
        let block = (country * NETWORKS + network) as u32;
        let address = if self.random.gen_bool(0.15) {
            let site: u16 = self.random.r#gen();
            let high = 0x2a00 + (block >> 8) as u16;
            IpAddr::V6(Ipv6Addr::new(
                high,
                (block & 0xff) as u16,
                site,
                0,
                0,
                0,
                0,
                host,
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from((block + 0x0b00) << 16 | u32::from(host)))
        };
        let city = self.skewed(CITIES);
        let hosting = network < 5;
        Placement {
            country: Some(country_code(country)),
            region: region(country, city),
            city: city_name(country, city).parse().ok(),
            point: Some(point(country, city)),
            asn: Some(asn(country, network)),
            as_name: Some(format!("Network {network} of {}", country_code(country))),
            address_type: Some(match network {
                _ if hosting => AddressType::Hosting,
                5..15 => AddressType::Mobile,
                _ => AddressType::Residential,
            }),
            measured: self.measured(hosting),
            ..Placement::at(address)
        }
    }

    /// One in ten is too new to have been measured.
    fn measured(&mut self, hosting: bool) -> Measured {
        if self.random.gen_bool(0.1) {
            return Measured::default();
        }
        let nearest = if hosting { 5 } else { 15 };
        Measured {
            reachability: Some(if self.random.gen_bool(0.7) {
                Reachability::Direct
            } else {
                Reachability::Punched
            }),
            latency_ms: Some(nearest + self.skewed(400) as u16),
            mbit_up: None,
            mbit_down: None,
            reputation: Some(1_000 - self.skewed(1_000) as u16),
        }
    }

    fn services(&mut self) -> Vec<ServiceName> {
        let some: &[&str] = match self.random.gen_range(0..20) {
            0 => &["certification", "insurance"],
            1..4 => &["certification"],
            _ => &[],
        };
        some.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Most offers are one address; datacenters name ranges.
    fn prefixes(&mut self, placement: &Placement) -> Vec<IpNet> {
        match placement.address {
            IpAddr::V4(v4) if self.random.gen_bool(0.05) => {
                let range = ipsx_market::IpNet::new(v4.into(), 28).map(|net| net.trunc());
                range.into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn protocols(&mut self) -> Protocols {
        if self.random.gen_bool(0.9) {
            return Protocols::all();
        }
        [Protocol::Wireguard].into_iter().collect()
    }

    /// Half ask a round price, as people do.
    fn prices(&mut self) -> Prices {
        let per_second = if self.random.gen_bool(0.5) {
            [10, 20, 25, 50, 100, 200, 500, 1_000][self.skewed(8)] * 1_000_000_000_000
        } else {
            10_000_000_000_000 + self.skewed(1_000_000) as u128 * 1_000_000_000
        };
        Prices {
            per_second: PricePerSecond(Amount(per_second)),
            per_gib: PricePerGib(Amount(self.skewed(50) as u128 * 10_000_000_000_000_000)),
        }
    }

    fn hours(&mut self) -> WeeklyHours {
        let always = WeeklyHours::always().0;
        if self.random.gen_bool(0.9) {
            return WeeklyHours(always);
        }
        WeeklyHours(always >> (self.random.gen_range(0..4) * 24) & U256::MAX)
    }
}

/// The code of a country, by its number.
pub fn country_code(number: usize) -> Country {
    let letter = |n: usize| char::from(b'A' + (n % 26) as u8);
    let code: String = [letter(number / 26), letter(number)].iter().collect();
    // Two letters, always.
    code.parse().unwrap_or_else(|_| unreachable!("{code}"))
}

/// The number of a country's network.
pub fn asn(country: usize, network: usize) -> u32 {
    (1_000 + country * NETWORKS + network) as u32
}

/// Some cities together.
pub fn region(country: usize, city: usize) -> Option<Region> {
    Region::new(country_code(country), &format!("{:02}", city % 12)).ok()
}

/// The name of a country's city.
pub fn city_name(country: usize, city: usize) -> String {
    format!("City {city} of {}", country_code(country))
}

/// Countries lie on a grid of 20 by 10, cities around the middle of theirs.
pub fn point(country: usize, city: usize) -> Point {
    let (column, row) = ((country % 20) as i32, (country / 20) as i32);
    let (aside, up) = ((city % 7) as i32, (city / 7) as i32);
    Point {
        latitude: -60_000_000 + row * 13_000_000 + up * 700_000,
        longitude: -175_000_000 + column * 17_500_000 + aside * 900_000,
    }
}
