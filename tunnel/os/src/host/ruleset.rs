//! The packet filter's table: what may leave the host while a plan is in force.

use std::net::IpAddr;

use ipsx_tunnel_core::IpNet;
use serde_json::{Value, json};

use super::HostPlan;
use crate::nft::{self, FAMILY};

/// The commands that put `plan` in force in one transaction, in place of what the table said before.
pub(super) fn ruleset(table: &str, mark: u32, plan: &HostPlan) -> Vec<Value> {
    let mut commands = nft::fresh_table(table).to_vec();
    let mut chain = |name: &str, kind: &str, hook: &str, priority: i32, rules: Vec<Rule>| {
        commands.push(json!({ "add": { "chain": {
            "family": FAMILY, "table": table, "name": name,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } }));
        for rule in rules {
            commands.push(json!({ "add": { "rule": {
                "family": FAMILY, "table": table, "chain": name, "expr": rule.0,
            } } }));
        }
    };
    chain("inner", "filter", "prerouting", -300, inner(plan));
    // So that the routing table is chosen anew for answers to marked connections too, as their check needs it.
    chain("unmark", "filter", "prerouting", -150, answers(mark));
    chain("mark", "filter", "postrouting", -150, marked(mark));
    if plan.kill_switch {
        chain("output", "filter", "output", 0, output(mark, plan));
        chain("forward", "filter", "forward", 0, forward(plan));
    }
    commands
}

/// One rule: its expressions in order.
#[derive(Default)]
struct Rule(Vec<Value>);

impl Rule {
    fn new() -> Self {
        Self::default()
    }

    fn matching(mut self, operator: &str, left: Value, right: Value) -> Self {
        self.0
            .push(json!({ "match": { "op": operator, "left": left, "right": right } }));
        self
    }

    fn meta(self, key: &str, right: Value) -> Self {
        self.matching("==", json!({ "meta": { "key": key } }), right)
    }

    fn payload(self, protocol: &str, field: &str, right: Value) -> Self {
        self.matching("==", payload(protocol, field), right)
    }

    /// The address at one end: `saddr` or `daddr`.
    fn address(self, field: &str, address: IpAddr) -> Self {
        self.payload(protocol_of(address), field, json!(address))
    }

    fn in_net(self, field: &str, net: &IpNet) -> Self {
        let net = net.trunc();
        let prefix = json!({ "prefix": { "addr": net.addr(), "len": net.prefix_len() } });
        self.payload(protocol_of(net.addr()), field, prefix)
    }

    fn not_through(self, interface: &str) -> Self {
        self.matching(
            "!=",
            json!({ "meta": { "key": "oifname" } }),
            json!(interface),
        )
    }

    fn accept(mut self) -> Self {
        self.0.push(json!({ "accept": null }));
        self
    }

    fn drop(mut self) -> Self {
        self.0.push(json!({ "counter": null }));
        self.0.push(json!({ "drop": null }));
        self
    }

    /// Programs hear at once that they are not let out.
    fn reject(mut self) -> Self {
        self.0.push(json!({ "counter": null }));
        self.0
            .push(json!({ "reject": { "type": "icmpx", "expr": "admin-prohibited" } }));
        self
    }

    fn reset(mut self) -> Self {
        self.0.push(json!({ "counter": null }));
        self.0.push(json!({ "reject": { "type": "tcp reset" } }));
        self
    }

    fn set(mut self, key: Value, value: Value) -> Self {
        self.0
            .push(json!({ "mangle": { "key": key, "value": value } }));
        self
    }
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn protocol_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}

fn inner_addresses(plan: &HostPlan) -> impl Iterator<Item = IpAddr> {
    let v6 = plan.inner_v6.map(IpAddr::V6);
    std::iter::once(IpAddr::V4(plan.inner_v4)).chain(v6)
}

/// Nobody on the local network may find out the inner address by trying, nor reach it (CVE-2019-14899).
fn inner(plan: &HostPlan) -> Vec<Rule> {
    inner_addresses(plan)
        .map(|address| {
            let interface = json!({ "meta": { "key": "iifname" } });
            let source = json!({ "fib": { "result": "type", "flags": ["saddr"] } });
            Rule::new()
                .matching("!=", interface, json!(plan.interface))
                .address("daddr", address)
                .matching("!=", source, json!("local"))
                .drop()
        })
        .collect()
}

fn marked(mark: u32) -> Vec<Rule> {
    let connection = json!({ "ct": { "key": "mark" } });
    vec![
        Rule::new()
            .meta("mark", json!(mark))
            .set(connection, json!(mark)),
    ]
}

fn answers(mark: u32) -> Vec<Rule> {
    let connection = json!({ "ct": { "key": "mark" } });
    vec![
        Rule::new()
            .matching("==", connection, json!(mark))
            .set(json!({ "meta": { "key": "mark" } }), json!(mark)),
    ]
}

fn output(mark: u32, plan: &HostPlan) -> Vec<Rule> {
    let tunnel = &plan.interface;
    let mut rules = vec![Rule::new().meta("oifname", json!("lo")).accept()];
    for endpoint in &plan.endpoints {
        let rule = Rule::new()
            .meta("mark", json!(mark))
            .address("daddr", endpoint.ip());
        let rule = match endpoint.port() {
            // Which port will be the lease's is not known yet.
            0 => rule.meta("l4proto", json!("udp")),
            port => rule.payload("udp", "dport", json!(port)),
        };
        rules.push(rule.accept());
    }
    for control in &plan.control {
        rules.push(
            Rule::new()
                .meta("mark", json!(mark))
                .address("daddr", control.ip())
                .payload("tcp", "dport", json!(control.port()))
                .accept(),
        );
    }
    if plan.resolver {
        rules.extend(only_the_gateway_resolves(plan));
    }
    rules.extend(only_inner_addresses(plan));
    rules.push(Rule::new().meta("oifname", json!(tunnel)).accept());
    rules.extend(neighbours());
    for net in &plan.direct {
        rules.push(Rule::new().in_net("daddr", net).accept());
    }
    rules.extend(nothing_else(plan));
    rules
}

/// Names are asked for inside the tunnel, of its gateway.
fn only_the_gateway_resolves(plan: &HostPlan) -> [Rule; 2] {
    let transports = json!({ "set": ["tcp", "udp"] });
    let question = || {
        Rule::new()
            .meta("l4proto", transports.clone())
            .payload("th", "dport", json!(53))
    };
    [
        question()
            .meta("oifname", json!(plan.interface))
            .address("daddr", plan.gateway.into())
            .accept(),
        question().reject(),
    ]
}

/// A connection from before has the address of another interface: it ends here, and does not show it to the provider.
fn only_inner_addresses(plan: &HostPlan) -> Vec<Rule> {
    let mut rules = Vec::new();
    for address in inner_addresses(plan) {
        let other = || {
            Rule::new().meta("oifname", json!(plan.interface)).matching(
                "!=",
                payload(protocol_of(address), "saddr"),
                json!(address),
            )
        };
        rules.push(other().meta("l4proto", json!("tcp")).reset());
        rules.push(other().drop());
    }
    rules
}

/// What the link itself needs: IPv6 neighbours, and the host's own address by DHCP. Neither is routed.
fn neighbours() -> [Rule; 3] {
    let discovery = json!({ "set": [
        "nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert", "mld2-listener-report",
    ] });
    let dhcp = |from: u16, to: u16| {
        Rule::new()
            .payload("udp", "sport", json!(from))
            .payload("udp", "dport", json!(to))
            .accept()
    };
    [
        Rule::new().payload("icmpv6", "type", discovery).accept(),
        dhcp(68, 67),
        dhcp(546, 547),
    ]
}

fn nothing_else(plan: &HostPlan) -> Vec<Rule> {
    if plan.takes_everything() {
        return vec![Rule::new().reject()];
    }
    let only_inside = |net| {
        Rule::new()
            .not_through(&plan.interface)
            .in_net("daddr", net)
            .reject()
    };
    plan.routes.iter().map(only_inside).collect()
}

/// What this host carries for others, such as containers, goes the same way or nowhere.
fn forward(plan: &HostPlan) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new().meta("oifname", json!(plan.interface)).accept(),
        Rule::new()
            .meta("iifname", json!(plan.interface))
            .matching(
                "in",
                json!({ "ct": { "key": "state" } }),
                json!(["established", "related"]),
            )
            .accept(),
    ];
    for net in &plan.direct {
        rules.push(Rule::new().in_net("daddr", net).accept());
        rules.push(Rule::new().in_net("saddr", net).accept());
    }
    rules.extend(nothing_else(plan));
    rules
}

#[cfg(test)]
mod tests;
