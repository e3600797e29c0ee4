//! Everything that needs `unsafe`: calls of the C library that no dependency wraps.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
mod capability;
#[cfg(target_os = "linux")]
mod file_pages;
mod interfaces;
#[cfg(target_os = "linux")]
mod netlink;
mod options;
#[cfg(target_os = "linux")]
mod realtime;
#[cfg(target_os = "linux")]
mod steer;
#[cfg(target_os = "linux")]
mod tun;

#[cfg(target_os = "linux")]
pub(crate) use self::capability::lend_net_admin;
#[cfg(target_os = "linux")]
pub(crate) use self::{
    file_pages::unmap_read_only,
    netlink::listen_netlink,
    realtime::run_ahead,
    steer::steer_by_session,
    tun::{TunFile, open_tun_queues},
};
pub(crate) use interfaces::own_networks;
pub(crate) use options::{
    allow_pieces, defer_port, enlarge_buffers, keep_whole, path_mtu, raise_file_limit,
};
