//! What somebody does not want to lease: addresses, networks and providers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use ipsx_metering::Address;
use serde::{Deserialize, Serialize};

use crate::matching::Placed;
use crate::place::Placement;
use crate::sold::first_and_last;
use crate::typed_data::sol;

/// What a lease must not be of. An offer of which it is not known may be of it, so it is not taken either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Avoid {
    /// Addresses within these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<ipsx_metering::openapi::PrefixText>, max_items = 256))]
    pub prefixes: Vec<IpNet>,
    /// These autonomous systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub asns: Vec<u32>,
    /// These providers' wallets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<ipsx_metering::openapi::AddressText>, max_items = 256))]
    pub providers: Vec<Address>,
}

impl Avoid {
    /// Whether nothing is avoided.
    pub fn is_empty(&self) -> bool {
        self.entries() == 0
    }

    /// Entries of all lists.
    pub fn entries(&self) -> usize {
        self.prefixes.len() + self.asns.len() + self.providers.len()
    }

    /// Avoids this as well.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.prefixes.extend_from_slice(&other.prefixes);
        self.asns.extend_from_slice(&other.asns);
        self.providers.extend_from_slice(&other.providers);
    }

    pub(crate) fn to_sol(&self) -> sol::Avoid {
        sol::Avoid {
            prefixes: self.prefixes.iter().map(ToString::to_string).collect(),
            asns: self.asns.clone(),
            providers: self.providers.clone(),
        }
    }
}

/// No network has this number (RFC 7607). Whoever avoids it takes only offers of known networks.
const NOBODYS_ASN: u32 = 0;
/// Lengths of the prefixes that count as one place: the smallest that the internet routes.
const PLACE_V4: u8 = 24;
const PLACE_V6: u8 = 48;

/// By what the addresses of several leases differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Distinct {
    /// The address itself.
    #[default]
    Address,
    /// Its prefix: 24 bits of IPv4, 48 of IPv6.
    Prefix,
    /// Its autonomous system.
    Asn,
    /// Who lends it.
    Provider,
}

impl Distinct {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Address, Self::Prefix, Self::Asn, Self::Provider];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Prefix => "prefix",
            Self::Asn => "asn",
            Self::Provider => "provider",
        }
    }

    /// Avoids what could never be told apart.
    pub fn prepare(self, avoid: &mut Avoid) {
        if self == Self::Asn && avoid.asns.is_empty() {
            avoid.asns.push(NOBODYS_ASN);
        }
    }

    /// Avoids from now on whatever is not distinct from a lease.
    pub fn avoid_like(self, avoid: &mut Avoid, placement: &Placement, provider: Address) {
        let around = |v4: u8, v6: u8| {
            let address = placement.address;
            let length = if address.is_ipv4() { v4 } else { v6 };
            IpNet::new(address, length).map_or_else(|_| address.into(), |net| net.trunc())
        };
        match self {
            Self::Address => avoid.prefixes.push(placement.address.into()),
            Self::Prefix => avoid.prefixes.push(around(PLACE_V4, PLACE_V6)),
            Self::Asn => avoid.asns.push(placement.asn.unwrap_or(NOBODYS_ASN)),
            Self::Provider => avoid.providers.push(provider),
        }
    }
}

/// Addresses do not differ by this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that addresses differ by; use address, prefix, asn or provider")]
pub struct NotDistinct(String);

impl FromStr for Distinct {
    type Err = NotDistinct;

    fn from_str(name: &str) -> Result<Self, NotDistinct> {
        let found = Self::ALL.into_iter().find(|by| by.as_str() == name);
        found.ok_or_else(|| NotDistinct(name.into()))
    }
}

impl fmt::Display for Distinct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What must not be leased, in order, to be compared with many offers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Avoided {
    /// In order and apart from each other.
    prefixes: Vec<IpNet>,
    asns: Vec<u32>,
    providers: Vec<Address>,
}

impl From<&Avoid> for Avoided {
    fn from(avoid: &Avoid) -> Self {
        let (mut asns, mut providers) = (avoid.asns.clone(), avoid.providers.clone());
        asns.sort_unstable();
        asns.dedup();
        providers.sort_unstable();
        Self {
            prefixes: IpNet::aggregate(&avoid.prefixes),
            asns,
            providers,
        }
    }
}

impl Avoided {
    /// Whether an offer has no address within `wanted` that may be taken; no prefixes are all.
    pub(crate) fn rules_out(&self, facts: &impl Placed, wanted: &[IpNet]) -> bool {
        (!self.asns.is_empty() && facts.asn().is_none_or(|asn| self.has_asn(asn)))
            || self.has_provider(facts.provider())
            || (!self.prefixes.is_empty() && !self.leaves_some(facts.sold(), wanted))
    }

    /// Whether an address is within one of the prefixes.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.around(address).is_some()
    }

    /// The prefixes, in order and apart from each other.
    pub(crate) fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// The networks, in order.
    pub(crate) fn asns(&self) -> &[u32] {
        &self.asns
    }

    fn has_asn(&self, asn: u32) -> bool {
        self.asns.binary_search(&asn).is_ok()
    }

    fn has_provider(&self, provider: Address) -> bool {
        self.providers.binary_search(&provider).is_ok()
    }

    /// The prefix around an address.
    fn around(&self, address: IpAddr) -> Option<&IpNet> {
        let after = self.prefixes.partition_point(|p| p.network() <= address);
        let before = self.prefixes.get(after.checked_sub(1)?)?;
        before.contains(&address).then_some(before)
    }

    /// Whether an address of what is sold, and within what is wanted, is in none of the prefixes.
    fn leaves_some(&self, sold: IpNet, wanted: &[IpNet]) -> bool {
        let (first, last) = first_and_last(sold);
        if wanted.is_empty() {
            return self.leaves_between(first, last);
        }
        // Ends of two IP versions have nothing in between.
        wanted.iter().any(|net| {
            let (from, to) = (first.max(net.network()), last.min(net.broadcast()));
            from.is_ipv4() == to.is_ipv4() && self.leaves_between(from, to)
        })
    }

    /// Whether an address from this to that one, both of one IP version, is in none of the prefixes.
    fn leaves_between(&self, mut first: IpAddr, last: IpAddr) -> bool {
        while first <= last {
            let Some(around) = self.around(first) else {
                return true;
            };
            match next(around.broadcast()) {
                Some(behind) => first = behind,
                None => return false,
            }
        }
        false
    }
}

/// The address after this one.
fn next(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::sold::addresses;

    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..32, 24u8..=32).prop_map(|(low, bits)| {
            IpNet::new(Ipv4Addr::new(192, 0, 2, low).into(), bits).unwrap()
        });
        let v6 = (0u16..32, 118u8..=128).prop_map(|(low, bits)| {
            IpNet::new(
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low).into(),
                bits,
            )
            .unwrap()
        });
        let all = ["0.0.0.0/0", "::/0", "255.255.255.255/32"];
        let all = prop::sample::select(all.to_vec()).prop_map(|text| text.parse().unwrap());
        prop_oneof![6 => v4, 6 => v6, 1 => all]
    }

    proptest! {
        /// As going through all addresses says.
        #[test]
        fn an_address_is_left_when_one_is_in_no_avoided_prefix(
            sold in prefix(),
            wanted in prop::collection::vec(prefix(), 0..4),
            avoid in prop::collection::vec(prefix(), 0..8),
        ) {
            prop_assume!(sold.prefix_len() > 0);
            let within = |nets: &[IpNet], address: &IpAddr| nets.iter().any(|net| net.contains(address));
            let left = addresses(sold)
                .filter(|address| wanted.is_empty() || within(&wanted, address))
                .any(|address| !within(&avoid, &address));
            let avoided = Avoided::from(&Avoid { prefixes: avoid.clone(), ..Avoid::default() });
            prop_assert_eq!(avoided.leaves_some(sold, &wanted), left);
            for address in addresses(sold) {
                prop_assert_eq!(avoided.has_address(address), within(&avoid, &address));
            }
        }
    }

    #[test]
    fn a_lease_is_told_apart_by_what_was_asked_for() {
        let provider = Address::repeat_byte(7);
        let known = Placement {
            asn: Some(64_500),
            ..Placement::at("203.0.113.9".parse().unwrap())
        };
        let unknown = Placement::at("2001:db8:1:2::3".parse().unwrap());
        let mut avoid = Avoid::default();
        Distinct::Asn.prepare(&mut avoid);
        assert_eq!(avoid.asns, [NOBODYS_ASN]);
        avoid.asns.clear();
        for by in Distinct::ALL {
            assert_eq!(by.as_str().parse(), Ok(by));
            by.avoid_like(&mut avoid, &known, provider);
            by.avoid_like(&mut avoid, &unknown, provider);
        }
        let prefixes: Vec<_> = avoid.prefixes.iter().map(ToString::to_string).collect();
        let expected = [
            "203.0.113.9/32",
            "2001:db8:1:2::3/128",
            "203.0.113.0/24",
            "2001:db8:1::/48",
        ];
        assert_eq!(prefixes, expected);
        assert_eq!(avoid.asns, [64_500, NOBODYS_ASN]);
        assert_eq!(avoid.providers, [provider; 2]);
    }
}
