//! What can go wrong with a kernel exit.

use std::{io, path::PathBuf};

use ipsx_tunnel_core::IpNet;

use crate::{tool::ToolError, tun::TunError};

/// Why a kernel exit could not be set up, changed or undone.
#[derive(Debug, thiserror::Error)]
pub enum KernelExitError {
    /// `nft` or `ip` did not do what it was asked.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The interface could not be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A setting of the kernel could not be changed.
    #[error(
        "cannot write the setting {path}: {source}; it needs the capability CAP_NET_ADMIN, and /proc/sys that is not \
         mounted read-only, as it is in most containers"
    )]
    Sysctl {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record of what to undo can't be read.
    #[error("{path} is no record of what a kernel exit changed: {source}; remove it to go on")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The host's addresses could not be listed.
    #[error("cannot list this host's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// The kernel does not tell of the flows that it carries.
    #[error(
        "cannot follow the kernel's flows, which the connection record needs: {0}; it needs the capability \
         CAP_NET_ADMIN and the module nf_conntrack_netlink, or --record-retention 0 keeps no record"
    )]
    Flows(#[source] io::Error),
    /// There is no way out.
    #[error(
        "this host has no default route, so that nothing says which way traffic leaves; name the interface with \
         --egress-interface"
    )]
    NoUplink,
    /// A named interface does not exist.
    #[error("this host has no interface {0}; `ip link` lists those it has")]
    NoInterface(String),
    /// The peers' addresses are in use on this host.
    #[error(
        "peers get addresses of {inner}, but {own} is a network of this host: packets for one would go to the other"
    )]
    Overlap {
        /// The peers' network.
        inner: IpNet,
        /// This host's.
        own: IpNet,
    },
    /// Every name for an interface is taken.
    #[error("the interfaces ipsx0 to ipsx{0} all exist; stop a provider, or clean up after one")]
    NoName(usize),
    /// The provider whose changes are to be undone is running.
    #[error("a running provider uses the interface {0}; stop it first")]
    Running(String),
    /// The changes were made in another network namespace.
    #[error(
        "what {path} records was changed in another network namespace; run the clean-up there, or remove the file if \
         that namespace is gone"
    )]
    Elsewhere {
        /// The record.
        path: PathBuf,
    },
}
