//! Netlink sockets that listen: netlink(7).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Joins multicast groups, which are bits of `groups`; makes the kernel try again later what finds no room in the
/// socket's buffer, where it can.
pub(crate) fn listen_netlink(socket: &impl AsFd, groups: u32) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: all zeros are a netlink address, of the kernel's choice and without groups.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the address of this length lives until the call
    // returns.
    let bound = unsafe {
        libc::bind(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    let on: libc::c_int = 1;
    // SAFETY: as above; the option's value is one c_int that lives until the call returns.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_NETLINK,
            libc::NETLINK_BROADCAST_ERROR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
