//! What is leased and what it may cost, as `ipsx search` and `ipsx connect` take it.

use std::net::IpAddr;

use clap::Args;
use ipsx_market::IpNet;
use ipsx_market::avoid::Avoid;
use ipsx_market::geo::Circle;
use ipsx_market::offer::{Country, Protocol, Tier};
use ipsx_market::place::{AddressType, City, Reachability, Region};
use ipsx_market::request::{Filter, IpVersion};
use ipsx_market::services::ServiceName;
use ipsx_metering::{Address, Amount};

use super::{address, country};
use crate::amount;

/// Conditions on what is leased.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Country by ISO 3166-1 code, such as FR; repeat or separate with commas
    #[arg(long, value_name = "CC", value_delimiter = ',', value_parser = country::parse)]
    pub country: Vec<Country>,
    /// Region by ISO 3166-2 code, such as FR-IDF
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub region: Vec<Region>,
    /// City by its English name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub city: Vec<City>,
    /// Within so many kilometres of a point; repeat for more points
    #[arg(long, value_name = "LATITUDE,LONGITUDE,KM", allow_hyphen_values = true)]
    pub near: Vec<Circle>,
    /// Autonomous system number
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse_asn)]
    pub asn: Vec<u32>,
    /// Address or prefix that the leased address must lie in
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_prefix)]
    pub prefix: Vec<IpNet>,
    /// Type of the address: residential, mobile or hosting
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub address_type: Vec<AddressType>,
    /// IP version of the address
    #[arg(long, value_name = "4|6", value_parser = parse_ip_version)]
    pub ip_version: Option<IpVersion>,
    /// Protocols needed: wireguard, socks5, http-connect
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub protocol: Vec<Protocol>,
    /// Least tier of the exit: web, web+udp or open
    #[arg(long, value_name = "TIER")]
    pub tier: Option<Tier>,
    /// TCP ports that the exit must open everywhere, such as 22 or 587
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Services of the network that the lease must come with
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub service: Vec<ServiceName>,
    /// Least rate to you, Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 0)]
    pub mbit_down: u32,
    /// Least rate from you, Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 0)]
    pub mbit_up: u32,
    /// Longest round trip, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub max_latency: u16,
    /// Least reputation, 0 to 1000
    #[arg(long, value_name = "SCORE", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1_000))]
    pub min_reputation: u16,
    /// How the provider is reached at worst: direct, punched (through its NAT) or relayed (by the broker, which sees what is
    /// encrypted, where no other way is found; `ipsx connect` and `ipsx leases` say so) [default: relayed; direct with
    /// --export]
    #[arg(long, value_name = "WAY")]
    pub reachability: Option<Reachability>,
    /// Address or prefix that the leased address must not lie in
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_prefix)]
    pub avoid_prefix: Vec<IpNet>,
    /// Autonomous system that it must not be of; with this, addresses of unknown networks are left out too
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = parse_asn)]
    pub avoid_asn: Vec<u32>,
    /// Wallet of a provider that must not lend it
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address::parse)]
    pub avoid_provider: Vec<Address>,
}

impl FilterArgs {
    /// The filter as it is asked for.
    pub fn filter(&self) -> Filter {
        Filter {
            countries: self.country.clone(),
            regions: self.region.clone(),
            cities: self.city.clone(),
            circles: self.near.clone(),
            asns: self.asn.clone(),
            prefixes: self.prefix.clone(),
            address_types: self.address_type.clone(),
            ip_version: self.ip_version.unwrap_or_default(),
            protocols: self.protocol.iter().copied().collect(),
            tier: self.tier.unwrap_or_default(),
            ports: self.port.clone(),
            services: self.service.clone(),
            mbit_up: self.mbit_up,
            mbit_down: self.mbit_down,
            max_latency_ms: self.max_latency,
            min_reputation: self.min_reputation,
            reachability: self.reachability,
            avoid: Avoid {
                prefixes: self.avoid_prefix.clone(),
                asns: self.avoid_asn.clone(),
                providers: self.avoid_provider.clone(),
            },
        }
    }
}

/// Highest prices.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Price")]
pub struct PriceArgs {
    /// The most per second, in tokens [default: any within the budget]
    #[arg(long, value_name = "TOKENS", value_parser = amount::parse)]
    pub max_price_per_second: Option<Amount>,
    /// The most per GiB, in tokens [default: any within the budget]
    #[arg(long, value_name = "TOKENS", value_parser = amount::parse)]
    pub max_price_per_gib: Option<Amount>,
    /// Bytes that the lease will carry about: what they cost counts when the cheapest offer is chosen
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub expected_traffic: u64,
}

fn parse_asn(text: &str) -> Result<u32, String> {
    let number = text
        .strip_prefix("AS")
        .or_else(|| text.strip_prefix("as"))
        .unwrap_or(text);
    number
        .parse()
        .map_err(|_| format!("{text:?} is no autonomous system; write a number, such as 3215"))
}

pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!("{text:?} is no address or prefix; write for example 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")
    })
}

fn parse_ip_version(text: &str) -> Result<IpVersion, String> {
    match text {
        "4" => Ok(IpVersion::V4),
        "6" => Ok(IpVersion::V6),
        _ => Err(format!("{text:?} is no IP version; write 4 or 6")),
    }
}
