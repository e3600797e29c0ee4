//! The host's own resolver.

use std::{
    ffi::CString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

/// glibc's code for a name that has addresses, but none of the family asked for; the libc crate does not name it.
const EAI_ADDRFAMILY: libc::c_int = -9;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupFailure {
    /// The name does not exist.
    NoName,
    /// The resolver could not find out.
    Unavailable,
}

/// The addresses of one family that the host's resolver knows for `name`: none if it only has others. Blocks.
pub(crate) fn lookup(name: &str, v6: bool) -> Result<Vec<IpAddr>, LookupFailure> {
    let name = CString::new(name).map_err(|_| LookupFailure::NoName)?;
    // SAFETY: all zeros is a valid addrinfo: integers and null pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the name ends in NUL, the hints are initialised, and the result goes to a live pointer.
    let code =
        unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    match code {
        0 => {}
        libc::EAI_NONAME => return Err(LookupFailure::NoName),
        // The name exists, with addresses of the other family only.
        libc::EAI_NODATA | EAI_ADDRFAMILY => return Ok(Vec::new()),
        _ => return Err(LookupFailure::Unavailable),
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: `entry` is the head or an `ai_next` of the list, which is valid until freeaddrinfo below.
        let info = unsafe { &*entry };
        // SAFETY: the list's entries carry a whole socket address of the family they name.
        addresses.extend(unsafe { address(info) });
        entry = info.ai_next;
    }
    // SAFETY: `list` came from a successful getaddrinfo, is freed once, and nothing borrowed from it is left.
    unsafe { libc::freeaddrinfo(list) };
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// # Safety
/// `ai_addr` is null, or points to a socket address of the family `ai_family`.
unsafe fn address(info: &libc::addrinfo) -> Option<IpAddr> {
    if info.ai_addr.is_null() {
        return None;
    }
    match info.ai_family {
        libc::AF_INET => {
            // SAFETY: by contract a sockaddr_in; it may be unaligned for that type.
            let v4 = unsafe { ptr::read_unaligned(info.ai_addr.cast::<libc::sockaddr_in>()) };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: by contract a sockaddr_in6; it may be unaligned for that type.
            let v6 = unsafe { ptr::read_unaligned(info.ai_addr.cast::<libc::sockaddr_in6>()) };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_the_loopback_and_nonsense_has_no_name() {
        assert!(
            lookup("localhost", false)
                .unwrap()
                .contains(&IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
        assert!(lookup("no\0name", false).is_err());
    }
}
