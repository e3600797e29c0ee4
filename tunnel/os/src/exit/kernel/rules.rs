//! The packet filter's part of a kernel exit: one table per agent.
//!
//! What a peer may reach is decided in this process, packet by packet, before the kernel sees anything. The table
//! repeats the coarse half of that, from lists of its own, so that a mistake in one is caught by the other.

mod expressions;
mod special;

use std::net::IpAddr;

use ipsx_tunnel_core::{ExitPolicy, IpNet};
use serde_json::{Value, json};

use crate::nft::{self, FAMILY};
use expressions::{
    compare, counter, field, from, matches, meta, net, rule, set_mark, state, transports, verdict,
};

const MAIL_PORTS: [u16; 3] = [25, 465, 587];

/// DNS, and DNS over TLS or QUIC, closed while names are denied.
const NAME_PORTS: [u16; 2] = [53, 853];

/// ICMP messages that this host may send into the tunnel: a packet of the peer's could not be forwarded.
const ERRORS_V4: [&str; 3] = [
    "destination-unreachable",
    "time-exceeded",
    "parameter-problem",
];
const ERRORS_V6: [&str; 4] = [
    "destination-unreachable",
    "packet-too-big",
    "time-exceeded",
    "parameter-problem",
];

/// Priorities of netfilter(8): before a host's usual filter, and at the usual places for marks and source NAT.
const FILTER: i32 = -10;
const MANGLE: i32 = -150;
const SOURCE_NAT: i32 = 100;

/// What the table of an agent is made of.
pub(super) struct Rules<'a> {
    pub(super) table: &'a str,
    /// The interface that the peers' packets come from.
    pub(super) tun: &'a str,
    /// Interfaces that traffic may leave by.
    pub(super) uplinks: &'a [String],
    /// Those of them that forwarded nothing before.
    pub(super) opened: &'a [String],
    pub(super) policy: &'a ExitPolicy,
    /// Addresses and networks of this host.
    pub(super) own: &'a [IpNet],
    /// Whether peers without an address of their own leave by the interface's, or not at all.
    pub(super) masquerade: bool,
    /// Flows that one inner address may have open.
    pub(super) flows_per_peer: usize,
}

impl Rules<'_> {
    /// The transaction that makes the table, without any lease.
    pub(super) fn commands(&self) -> Vec<Value> {
        let mut commands: Vec<Value> = nft::fresh_table(self.table).into();
        let (own_v4, own_v6) = split(self.own);
        for (name, family, elements) in [
            ("special_v4", "ipv4_addr", special::v4()),
            ("special_v6", "ipv6_addr", special::v6()),
            ("own_v4", "ipv4_addr", own_v4),
            ("own_v6", "ipv6_addr", own_v6),
        ] {
            commands.push(self.set(name, family));
            commands.extend(elements_of(self.table, name, &elements));
        }
        for (name, key, value) in [
            ("egress_v4", "ipv4_addr", "ipv4_addr"),
            ("egress_v6", "ipv6_addr", "ipv6_addr"),
            ("uplink_v4", "ipv4_addr", "mark"),
            ("uplink_v6", "ipv6_addr", "mark"),
            ("lease_v4", "ipv4_addr", "mark"),
            ("lease_v6", "ipv6_addr", "mark"),
        ] {
            let map = json!({
                "family": FAMILY, "table": self.table, "name": name, "type": key, "map": value, "flags": ["interval"],
            });
            commands.push(json!({ "add": { "map": map } }));
        }
        self.add_chains(&mut commands);
        self.add_upward(&mut commands);
        self.add_translation(&mut commands);
        commands
    }

    fn add_chains(&self, commands: &mut Vec<Value>) {
        for (name, kind, hook, priority) in [
            ("mark", "filter", "prerouting", MANGLE),
            ("input", "filter", "input", FILTER),
            ("output", "filter", "output", FILTER),
            ("forward", "filter", "forward", FILTER),
            ("translate", "nat", "postrouting", SOURCE_NAT),
        ] {
            let chain = json!({
                "family": FAMILY, "table": self.table, "name": name, "type": kind, "hook": hook, "prio": priority,
                "policy": "accept",
            });
            commands.push(json!({ "add": { "chain": chain } }));
        }
        let up = json!({ "family": FAMILY, "table": self.table, "name": "up" });
        commands.push(json!({ "add": { "chain": up } }));
        let from_tun = || from(&[self.tun.to_owned()]);
        let to_tun = || meta("==", "oifname", json!(self.tun));
        let mut add = |chain: &str, expressions: Vec<Value>| {
            commands.push(rule(self.table, chain, expressions));
        };
        for (map, protocol) in [("@uplink_v4", "ip"), ("@uplink_v6", "ip6")] {
            let mark = set_mark("meta", protocol, map);
            add("mark", vec![from_tun(), mark]);
        }
        // Nothing of a peer's is for this host, and nothing of this host's is for a peer but what goes wrong.
        add("input", vec![from_tun(), counter(), verdict("drop")]);
        for (protocol, types) in [("icmp", &ERRORS_V4[..]), ("icmpv6", &ERRORS_V6[..])] {
            let kind = compare("==", field(protocol, "type"), json!({ "set": types }));
            add("output", vec![to_tun(), kind, verdict("accept")]);
        }
        add("output", vec![to_tun(), counter(), verdict("drop")]);

        add(
            "forward",
            vec![from_tun(), json!({ "goto": { "target": "up" } })],
        );
        add(
            "forward",
            vec![
                to_tun(),
                state(&["established", "related"]),
                verdict("accept"),
            ],
        );
        add("forward", vec![to_tun(), counter(), verdict("drop")]);
        if !self.opened.is_empty() {
            // These interfaces forward because of us: what others begin there is as closed as it was before.
            let begun = state(&["new", "invalid", "untracked"]);
            add(
                "forward",
                vec![from(self.opened), begun, counter(), verdict("drop")],
            );
        }
    }

    /// From the peers to the internet.
    fn add_upward(&self, commands: &mut Vec<Value>) {
        let mut add = |expressions: Vec<Value>| commands.push(rule(self.table, "up", expressions));
        let leaves = json!({ "set": self.uplinks });
        add(vec![
            meta("!=", "oifname", leaves),
            counter(),
            verdict("drop"),
        ]);
        // What is not tracked is not translated either, and would leave with its inner address.
        add(vec![
            state(&["invalid", "untracked"]),
            counter(),
            verdict("drop"),
        ]);
        add(vec![state(&["established", "related"]), verdict("accept")]);
        // By its lease's mark a flow can be forgotten with the lease.
        for (map, protocol) in [("@lease_v4", "ip"), ("@lease_v6", "ip6")] {
            add(vec![set_mark("ct", protocol, map)]);
        }
        for (name, protocol) in [("flows_v4", "ip"), ("flows_v6", "ip6")] {
            let too_many = json!({ "ct count": { "val": self.flows_per_peer, "inv": true } });
            let meter = json!({ "meter": {
                "name": name, "size": 65_535, "key": field(protocol, "saddr"), "stmt": too_many,
            } });
            add(vec![meter, counter(), verdict("drop")]);
        }
        for (rules, what) in [(&self.policy.deny, "drop"), (&self.policy.allow, "accept")] {
            for named in rules {
                let mut expressions = matches(named);
                expressions.extend([counter(), verdict(what)]);
                add(expressions);
            }
        }
        for set in ["special", "own"] {
            for (protocol, suffix) in [("ip", "v4"), ("ip6", "v6")] {
                let inside = json!(format!("@{set}_{suffix}"));
                let inside = compare("==", field(protocol, "daddr"), inside);
                add(vec![inside, counter(), verdict("drop")]);
            }
        }
        let mail = compare("==", field("th", "dport"), json!({ "set": MAIL_PORTS }));
        add(vec![transports(), mail, counter(), verdict("drop")]);
        if self.policy.closes_resolvers() {
            let resolvers = compare("==", field("th", "dport"), json!({ "set": NAME_PORTS }));
            add(vec![transports(), resolvers, counter(), verdict("drop")]);
        }
        let carried = json!({ "set": ["tcp", "udp", "icmp", "ipv6-icmp"] });
        add(vec![
            meta("!=", "l4proto", carried),
            counter(),
            verdict("drop"),
        ]);
        add(vec![verdict("accept")]);
    }

    /// The addresses that peers leave from.
    fn add_translation(&self, commands: &mut Vec<Value>) {
        let mut add = |expressions: Vec<Value>| {
            commands.push(rule(self.table, "translate", expressions));
        };
        let from_tun = || from(&[self.tun.to_owned()]);
        for (map, protocol) in [("@egress_v4", "ip"), ("@egress_v6", "ip6")] {
            let address = json!({ "map": { "key": field(protocol, "saddr"), "data": map } });
            let family = if protocol == "ip" { "ipv4" } else { "ipv6" };
            let snat = json!({ "snat": { "family": protocol, "addr": address } });
            add(vec![from_tun(), meta("==", "nfproto", json!(family)), snat]);
        }
        if self.masquerade {
            add(vec![from_tun(), json!({ "masquerade": null })]);
        } else {
            add(vec![from_tun(), counter(), verdict("drop")]);
        }
    }

    fn set(&self, name: &str, key: &str) -> Value {
        let set = json!({
            "family": FAMILY, "table": self.table, "name": name, "type": key, "flags": ["interval"],
            "auto-merge": true,
        });
        json!({ "add": { "set": set } })
    }
}

/// The transaction that gives the sets of this host's own addresses a new content.
pub(super) fn own_networks(table: &str, own: &[IpNet]) -> Vec<Value> {
    let (v4, v6) = split(own);
    let mut commands = Vec::new();
    for (name, elements) in [("own_v4", v4), ("own_v6", v6)] {
        let set = json!({ "family": FAMILY, "table": table, "name": name });
        commands.push(json!({ "flush": { "set": set } }));
        commands.extend(elements_of(table, name, &elements));
    }
    commands
}

/// What one inner network of a lease is translated to, and which way it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) inner: IpNet,
    pub(super) egress: Option<IpAddr>,
    /// Mark of the packets for the routing rule, if the way is not the host's usual one.
    pub(super) uplink: Option<u32>,
    /// Mark of the lease's flows.
    pub(super) lease: u32,
}

impl Translation {
    /// The commands that add (`"add"`) or remove (`"delete"`) it.
    pub(super) fn commands(&self, verb: &str, table: &str) -> Vec<Value> {
        let suffix = if self.inner.addr().is_ipv4() {
            "v4"
        } else {
            "v6"
        };
        let values = [
            (
                "egress",
                self.egress.map(|address| json!(address.to_string())),
            ),
            ("uplink", self.uplink.map(|mark| json!(mark))),
            ("lease", Some(json!(self.lease))),
        ];
        let command = |(map, value): (&str, Option<Value>)| {
            let element = json!({
                "family": FAMILY, "table": table, "name": format!("{map}_{suffix}"),
                "elem": [[net(self.inner), value?]],
            });
            Some(json!({ verb: { "element": element } }))
        };
        values.into_iter().filter_map(command).collect()
    }
}

fn elements_of(table: &str, set: &str, elements: &[Value]) -> Option<Value> {
    // An empty list of elements is an error.
    (!elements.is_empty()).then(|| {
        let element = json!({ "family": FAMILY, "table": table, "name": set, "elem": elements });
        json!({ "add": { "element": element } })
    })
}

fn split(networks: &[IpNet]) -> (Vec<Value>, Vec<Value>) {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = networks.iter().partition(|net| net.addr().is_ipv4());
    (
        v4.into_iter().map(net).collect(),
        v6.into_iter().map(net).collect(),
    )
}
