//! What a kernel exit is going to change, found out before anything is.

use std::path::{Path, PathBuf};

use ipsx_tunnel_core::IpNet;
use rand::RngCore;

use super::{
    error::KernelExitError,
    forwarding, links,
    record::{Changes, RoutingTable},
};
use crate::{exit::EgressRange, nft};

/// Which bits of a flow's mark name the agent; the others name the lease.
pub(super) const AGENT_BITS: u32 = 0xffff_0000;

/// First number of our marks and routing tables, "ip" in ASCII; interface and way follow.
const ROUTING: u32 = 0x6970_0000;

/// Settings of a kernel exit.
#[derive(Debug, Clone)]
pub struct KernelExitConfig {
    /// Folder for the record of what has to be undone.
    pub folder: PathBuf,
    /// Networks of the peers' inner addresses, with the gateway's address in each.
    pub inner: Vec<IpNet>,
    /// Addresses that leases leave from. Without any, they leave from the interface's own.
    pub egress: Vec<EgressRange>,
    /// Interfaces that traffic may leave by, besides those of the ranges; those of the default routes if there is
    /// neither.
    pub interfaces: Vec<String>,
}

/// A way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) interface: String,
    pub(super) ranges: Vec<IpNet>,
    /// Mark of the packets that take it, if it is not the host's usual one.
    pub(super) mark: Option<u32>,
}

/// What will be changed.
pub(super) struct Plan {
    pub(super) uplinks: Vec<Uplink>,
    /// Interfaces that do not forward yet.
    pub(super) opened: Vec<String>,
    v6: bool,
    pub(super) changes: Changes,
}

impl Plan {
    /// `counted` is whether the kernel has to tell of each flow, and count its bytes.
    pub(super) fn new(
        config: &KernelExitConfig,
        tun: &str,
        counted: bool,
    ) -> Result<Self, KernelExitError> {
        let marks = rand::rngs::OsRng.next_u32() & AGENT_BITS;
        let mut plan = Self {
            uplinks: uplinks(config, tun)?,
            opened: Vec::new(),
            v6: config.inner.iter().any(|net| net.addr().is_ipv6()),
            changes: Changes::none(table_of(tun), marks)?,
        };
        let interfaces = plan.interfaces();
        for interface in &interfaces {
            if !forwarding::forwards(interface)? {
                plan.opened.push(interface.clone());
            }
        }
        let marked = plan.uplinks.iter().filter(|way| way.mark.is_some());
        let loose: Vec<String> = marked.map(|way| way.interface.clone()).collect();
        plan.changes.sysctls = forwarding::wanted(tun, &interfaces, &loose, plan.v6)?;
        if counted {
            plan.changes.sysctls.extend(forwarding::counting()?);
        }
        plan.changes.routing = plan.routing().into_iter().map(|(way, _)| way).collect();
        Ok(plan)
    }

    pub(super) fn interfaces(&self) -> Vec<String> {
        self.uplinks
            .iter()
            .map(|way| way.interface.clone())
            .collect()
    }

    /// The routing tables of the ways that are not the host's usual one, each with its interface.
    pub(super) fn routing(&self) -> Vec<(RoutingTable, String)> {
        let mut tables = Vec::new();
        for way in &self.uplinks {
            let Some(mark) = way.mark else { continue };
            for v6 in [false, true].into_iter().take(1 + usize::from(self.v6)) {
                let table = RoutingTable {
                    mark,
                    table: mark,
                    v6,
                };
                tables.push((table, way.interface.clone()));
            }
        }
        tables
    }
}

/// The table of an interface.
pub(super) fn table_of(interface: &str) -> String {
    format!("{}{interface}", nft::PREFIX)
}

/// Whether this host has an interface of the name.
pub(super) fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

/// Refuses inner networks that this host knows as its own.
pub(super) fn check_overlap(inner: &[IpNet], own: &[IpNet]) -> Result<(), KernelExitError> {
    for &inner in inner {
        let meets = |own: &&IpNet| own.contains(&inner.trunc()) || inner.contains(*own);
        if let Some(&own) = own.iter().find(meets) {
            return Err(KernelExitError::Overlap {
                inner: inner.trunc(),
                own,
            });
        }
    }
    Ok(())
}

/// The ways out that the settings name, or the default routes.
fn uplinks(config: &KernelExitConfig, tun: &str) -> Result<Vec<Uplink>, KernelExitError> {
    let mut defaults = links::default_interfaces(false)?;
    for interface in links::default_interfaces(true)? {
        if !defaults.contains(&interface) {
            defaults.push(interface);
        }
    }
    let mut uplinks: Vec<Uplink> = Vec::new();
    let mut add = |interface: &str, range: Option<IpNet>| {
        let known = uplinks.iter().position(|way| way.interface == interface);
        let at = known.unwrap_or_else(|| {
            uplinks.push(Uplink {
                interface: interface.to_owned(),
                ranges: Vec::new(),
                mark: None,
            });
            uplinks.len() - 1
        });
        uplinks[at].ranges.extend(range);
    };
    for interface in &config.interfaces {
        add(interface, None);
    }
    let own = links::addresses()?;
    for range in &config.egress {
        let holds = |own: &&links::OwnAddress| {
            range.prefix.contains(&own.address) || own.network.contains(&range.prefix)
        };
        let interface = (range.interface.as_ref())
            .or_else(|| own.iter().find(holds).map(|own| &own.interface))
            .or(config.interfaces.first())
            .or(defaults.first())
            .ok_or(KernelExitError::NoUplink)?;
        add(interface, Some(range.prefix));
    }
    if config.interfaces.is_empty() && config.egress.is_empty() {
        defaults.iter().for_each(|interface| add(interface, None));
    }
    if uplinks.is_empty() {
        return Err(KernelExitError::NoUplink);
    }
    let tun_number = tun.trim_start_matches("ipsx").parse::<u32>().unwrap_or(0);
    for (number, way) in (0_u32..).zip(&mut uplinks) {
        if !exists(&way.interface) {
            return Err(KernelExitError::NoInterface(way.interface.clone()));
        }
        if !way.ranges.is_empty() && defaults.first() != Some(&way.interface) {
            way.mark = Some(ROUTING | tun_number << 8 | number);
        }
    }
    Ok(uplinks)
}
