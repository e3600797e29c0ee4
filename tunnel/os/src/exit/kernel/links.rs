//! Interfaces, addresses and routes, through the JSON interface of iproute2's `ip`.

use std::net::IpAddr;

use ipsx_tunnel_core::IpNet;
use serde::{Deserialize, de::DeserializeOwned};

use super::record::RoutingTable;
use crate::tool::{Tool, ToolError};

const IP: Tool = Tool {
    program: "ip",
    package: "iproute2",
};

/// Priority of our routing rules: before the main table's 32766.
const RULE_PRIORITY: u32 = 4_773;

/// The largest metric: a route that any other is better than.
const LAST_METRIC: u32 = u32::MAX;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) interface: String,
    pub(super) address: IpAddr,
    pub(super) network: IpNet,
}

/// Every address of this host.
pub(super) fn addresses() -> Result<Vec<OwnAddress>, ToolError> {
    #[derive(Deserialize)]
    struct Link {
        #[serde(default)]
        ifname: String,
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        local: Option<IpAddr>,
        prefixlen: u8,
    }
    let links: Vec<Link> = ask(&["-j", "address", "show"])?;
    let mut all = Vec::new();
    for link in links {
        for entry in link.addr_info {
            let Some(address) = entry.local else { continue };
            if let Ok(network) = IpNet::new(address, entry.prefixlen) {
                all.push(OwnAddress {
                    interface: link.ifname.clone(),
                    address,
                    network: network.trunc(),
                });
            }
        }
    }
    Ok(all)
}

/// The interfaces of the default routes of one family, the preferred one first.
pub(super) fn default_interfaces(v6: bool) -> Result<Vec<String>, ToolError> {
    let mut routes = routes(v6, &["default"])?;
    routes.sort_by_key(|route| route.metric);
    let mut interfaces: Vec<String> = Vec::new();
    for interface in routes.into_iter().filter_map(|route| route.dev) {
        if !interfaces.contains(&interface) {
            interfaces.push(interface);
        }
    }
    Ok(interfaces)
}

/// Puts an interface to work: its addresses, and no addresses of the kernel's own making.
pub(super) fn bring_up(interface: &str, addresses: &[IpNet]) -> Result<(), ToolError> {
    // An interface without a hardware address would get a random link-local one and ask for routers with it.
    let mut lines = vec![format!("link set dev {interface} addrgenmode none")];
    for address in addresses {
        let nodad = if address.addr().is_ipv6() {
            " nodad"
        } else {
            ""
        };
        lines.push(format!("address add {address} dev {interface}{nodad}"));
    }
    lines.push(format!("link set dev {interface} up"));
    batch(&lines)
}

/// Takes an interface down, if it exists.
pub(super) fn take_down(interface: &str) -> Result<(), ToolError> {
    ignore_missing(batch(&[format!("link set dev {interface} down")]))
}

/// Adds an address for leases to leave from. The host itself does not choose it for its own connections.
pub(super) fn add_address(interface: &str, address: IpNet) -> Result<(), ToolError> {
    let more = if address.addr().is_ipv6() {
        " nodad preferred_lft 0"
    } else {
        ""
    };
    batch(&[format!("address replace {address} dev {interface}{more}")])
}

/// Removes an address, unless it has gone.
pub(super) fn remove_address(interface: &str, address: IpNet) -> Result<(), ToolError> {
    ignore_missing(batch(&[format!(
        "address delete {address} dev {interface}"
    )]))
}

/// Makes a routing table with the ways that one interface has, and the rule that leads marked packets of `tun` there.
pub(super) fn add_routing(
    routing: RoutingTable,
    tun: &str,
    interface: &str,
) -> Result<(), ToolError> {
    let RoutingTable { mark, table, v6 } = routing;
    let family = family(v6);
    let mut lines = Vec::new();
    let mut ways = routes(v6, &["dev", interface])?;
    // A gateway is reached through its network's route, which has to be there first.
    ways.sort_by_key(|route| route.gateway.is_some());
    for route in ways {
        let via = route
            .gateway
            .map_or_else(String::new, |gateway| format!(" via {gateway}"));
        lines.push(format!(
            "{family} route replace {}{via} dev {interface} table {table}",
            route.dst
        ));
    }
    // Without this, what finds no way here would look for one in the main table.
    lines.push(format!(
        "{family} route replace unreachable default metric {LAST_METRIC} table {table}"
    ));
    lines.push(format!(
        "{family} rule add fwmark {mark} iif {tun} lookup {table} priority {RULE_PRIORITY}"
    ));
    batch(&lines)
}

/// Removes what [`add_routing`] made, as far as it is there.
pub(super) fn remove_routing(routing: RoutingTable) -> Result<(), ToolError> {
    let RoutingTable { mark, table, v6 } = routing;
    let family = family(v6);
    for line in [
        format!("{family} rule delete fwmark {mark} lookup {table}"),
        format!("{family} route flush table {table}"),
    ] {
        ignore_missing(batch(&[line]))?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
    #[serde(default)]
    metric: u32,
}

fn routes(v6: bool, of: &[&str]) -> Result<Vec<Route>, ToolError> {
    let mut words = vec!["-j", family(v6), "route", "show"];
    words.extend(of);
    let mut routes: Vec<Route> = ask(&words)?;
    if let ["dev", interface] = of {
        // `ip` leaves the interface out when it was asked about one.
        for route in &mut routes {
            route.dev = Some((*interface).to_owned());
        }
    }
    // Link-local and multicast ways are every interface's own.
    routes.retain(|route| !route.dst.starts_with("fe80:") && !route.dst.starts_with("ff00:"));
    Ok(routes)
}

fn family(v6: bool) -> &'static str {
    if v6 { "-6" } else { "-4" }
}

fn ask<T: DeserializeOwned>(words: &[&str]) -> Result<Vec<T>, ToolError> {
    let text = IP.run(words, "")?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).map_err(|source| ToolError::Answer {
        program: IP.program,
        source,
    })
}

/// Carries out commands one after the other, up to the first that is refused.
fn batch(lines: &[String]) -> Result<(), ToolError> {
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        IP.run(&words, "")?;
    }
    Ok(())
}

/// What was to be removed and is not there needs no removing.
fn ignore_missing(result: Result<(), ToolError>) -> Result<(), ToolError> {
    const MISSING: [&str; 5] = [
        "Cannot assign requested address",
        "Cannot find device",
        "No such file or directory",
        "No such process",
        "FIB table does not exist",
    ];
    match result {
        Err(ToolError::Refused { said, .. }) if MISSING.iter().any(|what| said.contains(what)) => {
            Ok(())
        }
        other => other,
    }
}
