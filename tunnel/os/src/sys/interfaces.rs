//! The host's own addresses and networks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

use ipsx_tunnel_core::IpNet;

/// Every address of this host together with the network it is in.
pub(crate) fn own_networks() -> io::Result<Vec<IpNet>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: getifaddrs writes one pointer to the place given, which lives until it returns.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut networks = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: `entry` is the head or a `ifa_next` of the list, which is valid until freeifaddrs below.
        let interface = unsafe { &*entry };
        // SAFETY: both pointers belong to the same list entry and are null or point to a whole socket address.
        if let (Some(address), Some(mask)) =
            unsafe { (ip(interface.ifa_addr), ip(interface.ifa_netmask)) }
        {
            networks.extend(network(address, mask));
        }
        entry = interface.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs, is freed once, and nothing borrowed from it is left.
    unsafe { libc::freeifaddrs(list) };
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

/// The network of an address. A mask that covers a large part of the internet is no local network, but how some
/// point-to-point links are set up: there only the address itself is ours.
fn network(address: IpAddr, mask: IpAddr) -> Option<IpNet> {
    let (prefix, shortest) = match mask {
        IpAddr::V4(mask) => (u32::from(mask).leading_ones(), 8),
        IpAddr::V6(mask) => (u128::from(mask).leading_ones(), 32),
    };
    if prefix < shortest {
        return Some(IpNet::from(address));
    }
    Some(
        IpNet::new(address, u8::try_from(prefix).ok()?)
            .ok()?
            .trunc(),
    )
}

/// # Safety
/// `address` is null, or points to a socket address as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and by contract at least a generic socket address.
    let family = i32::from(unsafe { (*address).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in; it may be unaligned for that type.
            let v4 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6; it may be unaligned for that type.
            let v6 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_loopback_network() {
        let networks = own_networks().unwrap();
        assert!(
            networks.contains(&"127.0.0.0/8".parse().unwrap()),
            "{networks:?}"
        );
    }

    #[test]
    fn no_mask_makes_the_internet_ours() {
        let address: IpAddr = "198.51.100.7".parse().unwrap();
        let with = |mask: [u8; 4]| network(address, mask.into()).unwrap().to_string();
        assert_eq!(with([0, 0, 0, 0]), "198.51.100.7/32");
        assert_eq!(with([255, 255, 255, 255]), "198.51.100.7/32");
        assert_eq!(with([255, 255, 255, 0]), "198.51.100.0/24");
    }
}
