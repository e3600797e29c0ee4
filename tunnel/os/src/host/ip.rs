//! Addresses, routes and rules, by `ip` of iproute2.
//!
//! A program instead of netlink messages: it is on every Linux host that has `nft`, it says in words what the kernel
//! refused, and there is nothing here that happens often.

use ipsx_tunnel_core::IpNet;
use serde_json::Value;

use super::{HostError, HostPlan};
use crate::tool::{Tool, ToolError};

const IP: Tool = Tool {
    program: "ip",
    package: "iproute2",
};

/// Priorities of the rules: what stays outside, routes more special than the default, everything unmarked.
const DIRECT: u32 = 7298;
const SPECIAL: u32 = 7299;
const UNMARKED: u32 = 7300;

/// Of a route that only counts once the interface's own is gone, as after a kill -9.
/// (The largest number of all is one that `ip route flush` does not take away.)
const LAST_METRIC: u32 = u32::MAX >> 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Those that this host has. IPv6 comes first, because it has to be said before the interface is up how it gets its
    /// addresses.
    fn all() -> &'static [Self] {
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            &[Self::V6, Self::V4]
        } else {
            &[Self::V4]
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    fn of(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }
}

/// Leads the plan's traffic into its interface, by the routing table `mark`, unless it is marked so.
pub(super) fn apply(mark: u32, plan: &HostPlan) -> Result<(), HostError> {
    for &family in Family::all() {
        let mut lines = routes(mark, plan, family);
        lines.extend(rules_for(mark, plan, family));
        IP.run(&[family.option(), "-batch", "-"], &lines.join("\n"))?;
    }
    Ok(())
}

/// Leads the traffic of one plan into the interface of another, to the same destinations. There is a route at any time.
pub(super) fn switch(mark: u32, before: &HostPlan, plan: &HostPlan) -> Result<(), HostError> {
    for &family in Family::all() {
        let mut lines = routes(mark, plan, family);
        if before.inner_v6.is_some() && plan.inner_v6.is_none() && family == Family::V6 {
            let old = &before.interface;
            let destinations = destinations(plan, family).into_iter();
            lines
                .extend(destinations.map(|to| format!("route delete {to} dev {old} table {mark}")));
        }
        IP.run(&[family.option(), "-batch", "-"], &lines.join("\n"))?;
    }
    Ok(())
}

fn routes(mark: u32, plan: &HostPlan, family: Family) -> Vec<String> {
    let interface = &plan.interface;
    let mut lines = Vec::new();
    let address = match family {
        Family::V4 => Some(format!("{}/32", plan.inner_v4)),
        Family::V6 => {
            // No address that the kernel makes up, from which it would greet the network.
            lines.push(format!("link set dev {interface} addrgenmode none"));
            plan.inner_v6.map(|address| format!("{address}/128"))
        }
    };
    if let Some(address) = &address {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        lines.push(format!("address add {address} dev {interface}{nodad}"));
    }
    lines.push(format!("link set dev {interface} up"));
    for destination in destinations(plan, family) {
        if plan.kill_switch || address.is_none() {
            lines.push(format!(
                "route replace unreachable {destination} table {mark} metric {LAST_METRIC}"
            ));
        }
        if address.is_some() {
            lines.push(format!(
                "route replace {destination} dev {interface} table {mark}"
            ));
        }
    }
    lines
}

/// What goes into the interface.
fn destinations(plan: &HostPlan, family: Family) -> Vec<String> {
    if plan.takes_everything() {
        return vec!["default".to_owned()];
    }
    let named = plan.routes.iter().filter(|net| family.of(net));
    named.map(|net| net.trunc().to_string()).collect()
}

fn rules_for(mark: u32, plan: &HostPlan, family: Family) -> Vec<String> {
    let mut lines = Vec::new();
    for net in plan.direct.iter().filter(|net| family.of(net)) {
        let net = net.trunc();
        lines.push(format!("rule add priority {DIRECT} to {net} lookup main"));
    }
    if plan.takes_everything() {
        lines.push(format!(
            "rule add priority {SPECIAL} lookup main suppress_prefixlength 0"
        ));
    }
    lines.push(format!(
        "rule add priority {UNMARKED} not fwmark {mark} lookup {mark}"
    ));
    lines
}

/// Whether rules lead to the table.
pub(super) fn is_used(mark: u32) -> Result<bool, HostError> {
    for &family in Family::all() {
        if rules(family)?.iter().any(|rule| leads_to(rule, mark)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes away the rules and routes that [`apply`] made, whichever are there; true if any were. Addresses go with the
/// interface.
pub(super) fn remove(mark: u32) -> Result<bool, HostError> {
    let mut found = false;
    for &family in Family::all() {
        let rules = rules(family)?;
        let mut lines: Vec<String> = rules.iter().filter_map(|rule| undo(rule, mark)).collect();
        if has_routes(family, mark)? {
            lines.push(format!("route flush table {mark}"));
        }
        found |= !lines.is_empty();
        IP.run(&[family.option(), "-batch", "-"], &lines.join("\n"))?;
    }
    Ok(found)
}

fn rules(family: Family) -> Result<Vec<Value>, HostError> {
    Ok(IP.json(&[family.option(), "-json", "rule", "show"])?)
}

fn leads_to(rule: &Value, mark: u32) -> bool {
    let table = rule.get("table").and_then(Value::as_str);
    table.is_some_and(|table| table == mark.to_string())
}

/// The command that takes a rule away, if it is one of ours.
fn undo(rule: &Value, mark: u32) -> Option<String> {
    let priority = u32::try_from(rule.get("priority")?.as_u64()?).ok()?;
    match priority {
        UNMARKED if leads_to(rule, mark) => Some(format!(
            "rule delete priority {UNMARKED} not fwmark {mark} lookup {mark}"
        )),
        SPECIAL if rule.get("suppress_prefixlen")?.as_u64()? == 0 => Some(format!(
            "rule delete priority {SPECIAL} lookup main suppress_prefixlength 0"
        )),
        DIRECT => {
            let to = rule.get("dst")?.as_str()?;
            let length = rule.get("dstlen").and_then(Value::as_u64);
            let length = length
                .map(|length| format!("/{length}"))
                .unwrap_or_default();
            Some(format!(
                "rule delete priority {DIRECT} to {to}{length} lookup main"
            ))
        }
        _ => None,
    }
}

fn has_routes(family: Family, table: u32) -> Result<bool, HostError> {
    let table = table.to_string();
    let words = [family.option(), "-json", "route", "show", "table", &table];
    match IP.json(&words) {
        Ok(routes) => Ok(!routes.is_empty()),
        // A table that was never used.
        Err(ToolError::Refused { said, .. }) if said.contains("does not exist") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Tool {
    /// Runs it and reads the list that it prints, which may be missing altogether.
    fn json(self, words: &[&str]) -> Result<Vec<Value>, ToolError> {
        let text = self.run(words, "")?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&text).map_err(|source| ToolError::Answer {
            program: self.program,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn plan() -> HostPlan {
        HostPlan {
            interface: "lease0".to_owned(),
            inner_v4: "10.98.0.2".parse().unwrap(),
            inner_v6: None,
            gateway: "10.98.0.1".parse().unwrap(),
            endpoints: vec!["192.0.2.1:51820".parse().unwrap()],
            control: Vec::new(),
            routes: Vec::new(),
            direct: vec!["192.168.1.0/24".parse().unwrap()],
            kill_switch: false,
            resolver: true,
        }
    }

    fn has(lines: &[String], word: &str) -> bool {
        lines.iter().any(|line| line.contains(word))
    }

    #[test]
    fn ipv6_goes_through_a_lease_that_carries_it_and_nowhere_else_if_not() {
        let mut plan = plan();
        let without = routes(7, &plan, Family::V6);
        assert!(has(&without, "route replace unreachable default table 7"));
        assert!(!has(&without, "route replace default") && !has(&without, "address add"));
        plan.inner_v6 = Some("fd98::2".parse().unwrap());
        let with = routes(7, &plan, Family::V6);
        assert!(has(&with, "address add fd98::2/128 dev lease0 nodad"));
        assert!(has(&with, "route replace default dev lease0 table 7"));
        assert!(!has(&with, "unreachable"));
        plan.kill_switch = true;
        assert!(has(&routes(7, &plan, Family::V6), "unreachable"));
    }

    #[test]
    fn what_stays_outside_is_decided_before_the_tunnel() {
        let lines = rules_for(7, &plan(), Family::V4);
        let priority = |word: &str| -> u32 {
            let line = lines.iter().find(|line| line.contains(word)).unwrap();
            let number = line.split("priority ").nth(1).unwrap();
            number.split(' ').next().unwrap().parse().unwrap()
        };
        let direct = priority("to 192.168.1.0/24 lookup main");
        assert!(direct < priority("suppress_prefixlength 0"));
        assert!(priority("suppress_prefixlength 0") < priority("not fwmark 7 lookup 7"));
        assert!(!has(&rules_for(7, &plan(), Family::V6), "192.168"));
    }

    #[test]
    fn only_own_rules_are_undone() {
        for (rule, undone) in [
            (
                json!({ "priority": UNMARKED, "not": null, "fwmark": "0x7", "table": "7" }),
                true,
            ),
            (
                json!({ "priority": UNMARKED, "src": "all", "table": "8" }),
                false,
            ),
            (
                json!({ "priority": SPECIAL, "table": "main", "suppress_prefixlen": 0 }),
                true,
            ),
            (json!({ "priority": SPECIAL, "table": "main" }), false),
            (
                json!({ "priority": DIRECT, "dst": "192.168.1.0", "dstlen": 24, "table": "main" }),
                true,
            ),
            (
                json!({ "priority": 32766, "src": "all", "table": "main" }),
                false,
            ),
        ] {
            assert_eq!(undo(&rule, 7).is_some(), undone, "{rule}");
        }
    }
}
