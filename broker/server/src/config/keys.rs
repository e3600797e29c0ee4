//! What may stand at each key of the configuration, for whoever wrote something else.

use std::fmt::Display;

use super::ConfigError;

/// Text keys: name, what is allowed, an example.
pub(super) const TEXTS: [(&str, &str, &str); 28] = [
    (
        "fund",
        "addresses, each with = and a whole number of tokens, on the embedded chain",
        "[\"0x5fbdb2315678afecb367f032d93f642f64180aa3=1000\"]",
    ),
    ("data_dir", "a directory", "\"/var/lib/ipsx-broker\""),
    (
        "store",
        "sqlite, or a URL that begins with postgres://",
        "\"postgres://ipsx@localhost/ipsx?host=/run/postgresql\"",
    ),
    (
        "nats",
        "URLs that begin with nats:// or tls://",
        "\"nats://10.0.0.1:4222,nats://10.0.0.2:4222\"",
    ),
    (
        "name",
        "1 to 55 of a-z, 0-9, - and _, unlike the other brokers' names",
        "\"paris-1\"",
    ),
    (
        "http_listen",
        "an IP address and a port",
        "\"127.0.0.1:8480\"",
    ),
    (
        "agents_listen",
        "an IP address and a port",
        "\"127.0.0.1:8481\"",
    ),
    (
        "admin_listen",
        "an IP address and a port, or nothing",
        "\"127.0.0.1:8482\"",
    ),
    (
        "agents_public",
        "an IP address and a port",
        "\"203.0.113.7:8481\"",
    ),
    (
        "reflector_listen",
        "an IP address and a port, or nothing",
        "\"0.0.0.0:8483\"",
    ),
    (
        "relay_ports",
        "the first and the last of some UDP ports, with - between them, or nothing",
        "\"41000-41999\"",
    ),
    (
        "public_url",
        "an http or https URL without a path",
        "\"https://broker.example.org\"",
    ),
    (
        "admin_hosts",
        "names of hosts without a port",
        "[\"broker.internal\"]",
    ),
    ("trusted_proxies", "IP addresses", "[\"127.0.0.1\"]"),
    ("country_db", "a file", "\"/usr/share/GeoIP/country.mmdb\""),
    ("city_db", "a file", "\"/usr/share/GeoIP/city.mmdb\""),
    ("asn_db", "a file", "\"/usr/share/GeoIP/asn.mmdb\""),
    ("prove", "optional or required", "\"required\""),
    ("wallet", "a file", "\"/etc/ipsx/operator.json\""),
    (
        "passphrase_file",
        "a file",
        "\"/etc/ipsx/operator.passphrase\"",
    ),
    ("chain", "embedded or rpc", "\"embedded\""),
    (
        "rpc_url",
        "an http or https URL",
        "\"http://127.0.0.1:8545\"",
    ),
    (
        "rpc_public_url",
        "an http or https URL",
        "\"https://rpc.example.org\"",
    ),
    (
        "centralizer",
        "an address of 40 hex digits",
        "\"0x5fbdb2315678afecb367f032d93f642f64180aa3\"",
    ),
    (
        "network",
        "an id of 64 hex digits",
        "\"0x4f1a34a2a0a1a3d0b1b6b0d2d29c0d0c7c1f1f0e6f1d8f0a1e2b3c4d5e6f7081\"",
    ),
    (
        "credit_line",
        "a whole number of token units, in quotes",
        "\"5_000_000_000_000_000_000\"",
    ),
    (
        "claim_at_least",
        "a whole number of token units, in quotes",
        "\"1_000_000_000_000_000\"",
    ),
    (
        "treasury",
        "an address of 40 hex digits",
        "\"0x5fbdb2315678afecb367f032d93f642f64180aa3\"",
    ),
];

/// Number keys: name, least, most, an example.
pub(super) const NUMBERS: [(&str, u64, u64, u64); 23] = [
    ("fee_bps", 0, 1_000, 100),
    ("rpc_finality", 0, 10_000, 12),
    ("propose_seconds", 1, 60, 5),
    ("sign_seconds", 5, 600, 20),
    ("start_seconds", 10, 3_600, 60),
    ("grace_seconds", 1, 3_600, 30),
    ("proof_seconds", 60, 2_592_000, 86_400),
    ("max_agents", 1, 1_000_000, 25_000),
    ("max_offers", 1, 1_000_000, 100_000),
    ("max_offers_per_provider", 1, 100_000, 256),
    ("max_messages_per_second", 1, 100_000, 100),
    ("max_prefix_connects_per_second", 0, 1_000_000, 50),
    ("max_prefix_messages_per_second", 0, 1_000_000, 2_000),
    (
        "max_relay_bytes_per_second",
        1_000,
        100_000_000_000,
        12_500_000,
    ),
    (
        "max_lease_relay_bytes_per_second",
        1_000,
        100_000_000_000,
        1_250_000,
    ),
    ("max_relayed_leases_per_wallet", 1, 65_535, 16),
    ("max_unstarted_deals", 1, 10_000, 8),
    ("max_resting_requests", 0, 1_000_000, 100_000),
    ("max_resting_requests_per_payer", 0, 100_000, 32),
    ("max_http_requests", 1, 1_000_000, 1_024),
    ("max_address_requests_per_second", 0, 1_000_000, 200),
    ("max_wallet_requests_per_second", 0, 1_000_000, 100),
    ("session_seconds", 60, 86_400, 3_600),
];

/// What may stand at a key, and an example of it.
pub(super) fn allowed(key: &str) -> (String, String) {
    let text = TEXTS.iter().find(|(name, ..)| *name == key);
    let number = NUMBERS.iter().find(|(name, ..)| *name == key);
    match (text, number) {
        (Some((_, allowed, example)), _) => ((*allowed).into(), (*example).into()),
        (None, Some((_, least, most, example))) => (
            format!("a number from {least} to {most}"),
            example.to_string(),
        ),
        (None, None) => ("what ipsx-broker --help says".into(), "…".into()),
    }
}

pub(super) fn bad_value(
    key: &str,
    value: impl Display,
    source_name: Option<String>,
) -> ConfigError {
    let (allowed, example) = allowed(key);
    ConfigError::Value {
        key: key.into(),
        value: value.to_string(),
        source_name,
        allowed,
        example,
    }
}
