//! Inner addresses of the tunnel.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The provider's inner address: name server, echo, and where vouchers go.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// The same for IPv6, less the name server and the vouchers. Unique local (RFC 4193), so that hosts with both versions
/// prefer IPv4 to it where they can choose (RFC 6724).
pub(super) const GATEWAY_V6: Ipv6Addr = v6_of(GATEWAY);
/// Length of the prefix that holds the gateway and all peers.
pub(super) const INNER_PREFIX_V4: u8 = 16;
/// The same for IPv6.
pub(super) const INNER_PREFIX_V6: u8 = 64;
/// UDP port of payment messages at the gateway.
pub(super) const CONTROL_PORT: u16 = 4_773;
/// Peers get addresses of 10.64.0.0/16 after the gateway's.
const FIRST: u16 = 2;
const LAST: u16 = u16::MAX - 1;

/// The inner IPv6 address that goes with an inner IPv4 address: fd49:5053:5800::HOST.
pub(super) const fn v6_of(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, high, low] = address.octets();
    let host = u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfd49, 0x5053, 0x5800, 0, 0, 0, 0, host)
}

/// Hands out addresses, the one that was free for longest first: a stale packet rarely meets a new lease.
#[derive(Debug)]
pub(super) struct AddressPool {
    next: u16,
    taken: HashSet<u16>,
}

impl Default for AddressPool {
    fn default() -> Self {
        Self {
            next: FIRST,
            taken: HashSet::new(),
        }
    }
}

impl AddressPool {
    /// A free address, if there is one.
    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in FIRST..=LAST {
            let host = self.next;
            self.next = if host == LAST { FIRST } else { host + 1 };
            if self.taken.insert(host) {
                let [high, low] = host.to_be_bytes();
                return Some(Ipv4Addr::new(10, 64, high, low));
            }
        }
        None
    }

    /// Frees an address.
    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        let [_, _, high, low] = address.octets();
        self.taken.remove(&u16::from_be_bytes([high, low]));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_address_is_handed_out_twice_at_a_time() {
        let mut pool = AddressPool::default();
        let all: HashSet<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), usize::from(LAST - FIRST) + 1);
        assert!(!all.contains(&GATEWAY));
        let all_v6: HashSet<_> = all.iter().map(|&address| v6_of(address)).collect();
        assert_eq!(all_v6.len(), all.len());
        assert!(!all_v6.contains(&GATEWAY_V6) && all_v6.iter().all(Ipv6Addr::is_unique_local));
        let one = *all.iter().next().unwrap();
        pool.give_back(one);
        assert_eq!(pool.take(), Some(one));
        assert_eq!(pool.take(), None);
    }
}
