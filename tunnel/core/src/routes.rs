//! Allowed IPs: which peer an inner address belongs to.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

/// Longest-prefix table: one hash probe per prefix length in use, so thousands of host routes cost one probe.
#[derive(Debug)]
pub(crate) struct Routes<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

#[derive(Debug)]
struct Family<A, T> {
    /// Prefix lengths in use, longest first, with how many prefixes have them.
    lengths: Vec<(u8, usize)>,
    entries: HashMap<(u8, A), T>,
}

impl<T: Copy + Eq> Routes<T> {
    pub(crate) fn new() -> Self {
        Self {
            v4: Family::new(),
            v6: Family::new(),
        }
    }

    /// Whose prefix this is exactly, if anyone's.
    pub(crate) fn owner(&self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self
                .v4
                .entries
                .get(&(net.prefix_len(), u32::from(net.network())))
                .copied(),
            IpNet::V6(net) => self
                .v6
                .entries
                .get(&(net.prefix_len(), u128::from(net.network())))
                .copied(),
        }
    }

    pub(crate) fn insert(&mut self, prefix: IpNet, owner: T) {
        match prefix {
            IpNet::V4(net) => self
                .v4
                .insert(net.prefix_len(), u32::from(net.network()), owner),
            IpNet::V6(net) => self
                .v6
                .insert(net.prefix_len(), u128::from(net.network()), owner),
        }
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.prefix_len(), u32::from(net.network())),
            IpNet::V6(net) => self.v6.remove(net.prefix_len(), u128::from(net.network())),
        }
    }

    /// The owner of the longest prefix that holds `address`.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                self.v4
                    .lookup(|len| bits & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0))
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                self.v6
                    .lookup(|len| bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0))
            }
        }
    }
}

impl<A: std::hash::Hash + Eq, T: Copy> Family<A, T> {
    fn new() -> Self {
        Self {
            lengths: Vec::new(),
            entries: HashMap::new(),
        }
    }

    fn insert(&mut self, len: u8, bits: A, owner: T) {
        if self.entries.insert((len, bits), owner).is_some() {
            return;
        }
        match self.lengths.binary_search_by(|&(other, _)| len.cmp(&other)) {
            Ok(at) => self.lengths[at].1 += 1,
            Err(at) => self.lengths.insert(at, (len, 1)),
        }
    }

    fn remove(&mut self, len: u8, bits: A) {
        if self.entries.remove(&(len, bits)).is_none() {
            return;
        }
        if let Ok(at) = self.lengths.binary_search_by(|&(other, _)| len.cmp(&other)) {
            self.lengths[at].1 -= 1;
            if self.lengths[at].1 == 0 {
                self.lengths.remove(at);
            }
        }
    }

    fn lookup(&self, mask: impl Fn(u8) -> A) -> Option<T> {
        self.lengths
            .iter()
            .find_map(|&(len, _)| self.entries.get(&(len, mask(len))).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn nets() -> impl Strategy<Value = IpNet> {
        // Few address bits, so that prefixes nest and collide.
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(a, len)| {
                IpNet::new(Ipv4Addr::from(a << 26 | a).into(), len)
                    .expect("length in range")
                    .trunc()
            }),
            (0u128..64, 0u8..=128).prop_map(|(a, len)| {
                IpNet::new(Ipv6Addr::from(a << 122 | a).into(), len)
                    .expect("length in range")
                    .trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            operations in proptest::collection::vec((nets(), 0u32..8, any::<bool>()), 1..60),
            probes in proptest::collection::vec((0u32..64, any::<bool>()), 1..60),
        ) {
            let mut routes = Routes::new();
            let mut model: Vec<(IpNet, u32)> = Vec::new();
            for (net, owner, keep) in operations {
                model.retain(|&(other, _)| other != net);
                if keep {
                    routes.insert(net, owner);
                    model.push((net, owner));
                } else {
                    routes.remove(net);
                }
                prop_assert_eq!(routes.owner(net), keep.then_some(owner));
            }
            for (a, v4) in probes {
                let address: IpAddr = if v4 {
                    Ipv4Addr::from(a << 26 | a).into()
                } else {
                    let a = u128::from(a);
                    Ipv6Addr::from(a << 122 | a).into()
                };
                let expected = model.iter().filter(|(net, _)| net.contains(&address))
                    .max_by_key(|(net, _)| net.prefix_len()).map(|&(_, owner)| owner);
                prop_assert_eq!(routes.lookup(address), expected);
            }
        }
    }
}
