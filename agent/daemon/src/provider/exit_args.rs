//! The arguments of `ipsx provide` about how traffic leaves, and what they mean.

use std::net::{IpAddr, UdpSocket};

use clap::{Args, ValueEnum};
use ipsx_market::IpNet;
use ipsx_tunnel_os::EgressRange;

use super::error::ProviderError;

/// Addresses of a range that are looked at: no offer has more leases.
const MAX_LOOKED_AT: usize = 1_024;

/// How leases reach the internet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ExitKind {
    /// Every flow ends in an ordinary socket of this program; needs no privileges.
    #[default]
    Userspace,
    /// The kernel forwards and translates packets (nftables); faster, needs CAP_NET_ADMIN.
    #[cfg(target_os = "linux")]
    Kernel,
}

/// How traffic leaves.
#[derive(Args, Clone, Debug, Default)]
pub struct ExitArgs {
    /// How leases reach the internet: by sockets of this program, or by the kernel (needs CAP_NET_ADMIN).
    #[arg(long, value_enum, default_value_t, value_name = "EXIT")]
    pub exit: ExitKind,
    /// Address or network that leases leave from, each lease from an address of its own while there are enough. It
    /// must hold the address that the broker sees. With --exit kernel, what the host lacks is added while a lease
    /// uses it, to the interface after a %, or the one that the network is on. Repeatable. Example: 203.0.113.8/29%eth1
    #[arg(long, value_parser = range, value_name = "PREFIX[%INTERFACE]")]
    pub egress: Vec<EgressRange>,
    /// With --exit kernel: interface that traffic may leave by; those of the default routes if neither this nor
    /// --egress is given. Repeatable.
    #[arg(long, value_name = "INTERFACE")]
    pub egress_interface: Vec<String>,
}

impl ExitArgs {
    /// The networks that are sold.
    pub fn prefixes(&self) -> Vec<IpNet> {
        self.egress.iter().map(|range| range.prefix).collect()
    }

    /// Whether this host can do it.
    pub(super) fn check(&self) -> Result<(), ProviderError> {
        if self.exit != ExitKind::Userspace {
            return Ok(());
        }
        if let Some(interface) = self.egress_interface.first() {
            return Err(ProviderError::EgressInterface(interface.clone()));
        }
        for range in &self.egress {
            if let Some(interface) = &range.interface {
                return Err(ProviderError::EgressInterface(interface.clone()));
            }
            let mut hosts = range.prefix.hosts().take(MAX_LOOKED_AT);
            if let Some(foreign) = hosts.find(|&host| UdpSocket::bind((host, 0)).is_err()) {
                return Err(ProviderError::Egress(foreign));
            }
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<EgressRange, String> {
    let (prefix, interface) = match text.split_once('%') {
        Some((prefix, interface)) => (prefix, Some(interface.to_owned())),
        None => (text, None),
    };
    let network = prefix.parse::<IpNet>().map(|net| net.trunc());
    let prefix = network
        .or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write an address or a network, such as 203.0.113.8/29".to_owned())?;
    Ok(EgressRange { prefix, interface })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_read_with_and_without_interface() {
        let read = range("203.0.113.9/29%eth1").unwrap();
        assert_eq!(read.prefix.to_string(), "203.0.113.8/29");
        assert_eq!(read.interface.as_deref(), Some("eth1"));
        let read = range("2001:db8::7").unwrap();
        assert_eq!((read.prefix.prefix_len(), read.interface), (128, None));
        assert!(range("eth1").is_err());
    }

    #[test]
    fn without_the_kernel_every_address_has_to_be_there() {
        let args = |text: &str| ExitArgs {
            egress: vec![range(text).unwrap()],
            ..ExitArgs::default()
        };
        assert!(args("127.0.7.0/28").check().is_ok());
        let refused = args("192.0.2.7").check().unwrap_err().to_string();
        assert!(refused.contains("192.0.2.7"), "{refused}");
        let refused = args("127.0.0.1%lo").check().unwrap_err().to_string();
        assert!(refused.contains("--exit kernel"), "{refused}");
    }
}
