//! Parts of rules, as nftables reads them in JSON (libnftables-json(5)).

use ipsx_tunnel_core::{IpNet, PortRange, Rule, RuleProtocol};
use serde_json::{Value, json};

use crate::nft::FAMILY;

/// What a policy's rule names, as conditions.
pub(super) fn matches(named: &Rule) -> Vec<Value> {
    let prefix = named.prefix();
    let (protocol, family) = if prefix.addr().is_ipv4() {
        ("ip", "ipv4")
    } else {
        ("ip6", "ipv6")
    };
    let mut conditions = vec![if prefix.prefix_len() == 0 {
        meta("==", "nfproto", json!(family))
    } else {
        compare("==", field(protocol, "daddr"), net(prefix))
    }];
    match (named.protocol(), named.ports()) {
        (RuleProtocol::Any, PortRange::ALL) => return conditions,
        (RuleProtocol::Any, _) => conditions.push(transports()),
        (RuleProtocol::Tcp, _) => conditions.push(meta("==", "l4proto", json!("tcp"))),
        (RuleProtocol::Udp, _) => conditions.push(meta("==", "l4proto", json!("udp"))),
    }
    if named.ports() != PortRange::ALL {
        let (first, last) = (named.ports().first(), named.ports().last());
        let ports = json!({ "range": [first, last] });
        let ports = if first == last { json!(first) } else { ports };
        conditions.push(compare("==", field("th", "dport"), ports));
    }
    conditions
}

pub(super) fn transports() -> Value {
    meta("==", "l4proto", json!({ "set": ["tcp", "udp"] }))
}

pub(super) fn rule(table: &str, chain: &str, expressions: Vec<Value>) -> Value {
    let rule = json!({ "family": FAMILY, "table": table, "chain": chain, "expr": expressions });
    json!({ "add": { "rule": rule } })
}

pub(super) fn compare(operator: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": operator, "left": left, "right": right } })
}

pub(super) fn meta(operator: &str, key: &str, value: Value) -> Value {
    compare(operator, json!({ "meta": { "key": key } }), value)
}

pub(super) fn from(interfaces: &[String]) -> Value {
    match interfaces {
        [one] => meta("==", "iifname", json!(one)),
        several => meta("==", "iifname", json!({ "set": several })),
    }
}

pub(super) fn field(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

pub(super) fn state(states: &[&str]) -> Value {
    compare("in", json!({ "ct": { "key": "state" } }), json!(states))
}

/// Sets the mark of the packet (`"meta"`) or of its flow (`"ct"`) to what a map has for the source address, if it has
/// anything.
pub(super) fn set_mark(of: &str, protocol: &str, map: &str) -> Value {
    json!({ "mangle": {
        "key": { of: { "key": "mark" } },
        "value": { "map": { "key": field(protocol, "saddr"), "data": map } },
    } })
}

pub(super) fn counter() -> Value {
    json!({ "counter": null })
}

pub(super) fn verdict(name: &str) -> Value {
    json!({ name: null })
}

pub(super) fn net(prefix: IpNet) -> Value {
    json!({ "prefix": { "addr": prefix.network().to_string(), "len": prefix.prefix_len() } })
}
