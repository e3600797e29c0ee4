#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use clap::{Args, Command};

use super::super::keys::TEXTS;
use super::*;

const EXAMPLE: &str = include_str!("../../../../packaging/ipsx-broker.example.toml");

fn from_text(text: &str) -> Result<BrokerConfig, ConfigError> {
    from_parts(text, &Settings::default())
}

fn from_parts(text: &str, flags: &Settings) -> Result<BrokerConfig, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.toml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), flags)
}

fn message(text: &str) -> String {
    from_text(text).unwrap_err().to_string()
}

#[test]
fn the_example_is_the_default() {
    let config = from_text(&format!("data_dir = \"/tmp/x\"\n{EXAMPLE}")).unwrap();
    assert_eq!(config, BrokerConfig::new("/tmp/x"));
}

#[test]
fn the_example_the_help_and_the_program_know_the_same_keys() {
    let command = Settings::augment_args(Command::new("ipsx-broker"));
    let flags: BTreeSet<_> = command
        .get_arguments()
        .map(|arg| {
            assert!(arg.get_help().is_some(), "{} has no help", arg.get_id());
            arg.get_id().to_string()
        })
        .collect();
    let documented: BTreeSet<_> = EXAMPLE
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once(" = "))
        .map(|(key, _)| key.to_string())
        .filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert_eq!(documented, flags);
    let known = TEXTS
        .iter()
        .map(|(key, ..)| *key)
        .chain(NUMBERS.iter().map(|(key, ..)| *key));
    assert_eq!(known.map(String::from).collect::<BTreeSet<_>>(), flags);
}

#[test]
fn a_relay_has_ports_and_needs_the_reflector() {
    let relay = |text: &str| from_text(&format!("data_dir = \"/tmp/x\"\n{text}"));
    let config = relay("relay_ports = \"41000-41009\"\nmax_relay_bytes_per_second = 5000").unwrap();
    let relay_of = config.relay.unwrap();
    assert_eq!(relay_of.ports, 41_000..=41_009);
    assert_eq!(relay_of.bytes_per_second, 5_000);
    let share = |ports: &str| {
        let config = relay(&format!("relay_ports = \"{ports}\"")).unwrap();
        config.relay.unwrap().leases_per_wallet
    };
    let ports = ["41000-41000", "41000-41011", "41000-41063", "41000-41999"];
    assert_eq!(ports.map(share), [2, 3, 16, 16]);
    let set = "relay_ports = \"41000-41009\"\nmax_relayed_leases_per_wallet";
    let config = relay(&format!("{set} = 7")).unwrap();
    assert_eq!(config.relay.unwrap().leases_per_wallet, 7);
    let refused = message(&format!("{set} = 0"));
    assert!(
        refused.contains("max_relayed_leases_per_wallet"),
        "{refused}"
    );
    // Also where nothing is relayed.
    for none in ["", "relay_ports = \"\"\n"] {
        let without = |share: u8| format!("{none}max_relayed_leases_per_wallet = {share}");
        assert_eq!(message(&without(0)), refused);
        assert_eq!(relay(&without(7)).unwrap().relay, None);
    }
    assert_eq!(relay("relay_ports = \"\"").unwrap().relay, None);
    for wrong in ["41000", "41009-41000", "80-90", "41000-70000", "a-b"] {
        let refused = message(&format!("relay_ports = \"{wrong}\""));
        assert!(refused.contains("41000-41999"), "{refused}");
    }
    let alone = message("relay_ports = \"41000-41009\"\nreflector_listen = \"\"");
    assert!(alone.contains("reflector_listen"), "{alone}");
}

#[test]
fn a_flag_goes_before_the_file() {
    let flags = Settings {
        http_listen: Some("127.0.0.1:9".into()),
        ..Settings::default()
    };
    let text = "http_listen = \"127.0.0.1:1\"\nagents_listen = \"127.0.0.1:2\"";
    let config = from_parts(text, &flags).unwrap();
    assert_eq!(config.http_listen.port(), 9);
    assert_eq!(config.agents_listen.port(), 2);
}

#[test]
fn an_error_names_key_value_range_and_an_example() {
    assert_eq!(
        message("http_listen = \"localhost\""),
        "http_listen = \"localhost\": it must be an IP address and a port. Example: http_listen = \"127.0.0.1:8480\""
    );
    assert_eq!(
        message("fee_bps = 1001"),
        "fee_bps = 1001: it must be a number from 0 to 1000. Example: fee_bps = 100"
    );
    let error = message("max_offers = \"many\"");
    assert!(
        error.starts_with("max_offers = string \"many\" (in "),
        "{error}"
    );
    assert!(
        error.contains("a number from 1 to 1000000. Example: max_offers = 100000"),
        "{error}"
    );
    let error = message("max_ofers = 3");
    assert!(
        error.contains("max_ofers") && error.contains("is no key of this program"),
        "{error}"
    );
    assert!(message("max_offers = -1").contains("a number from 1 to 1000000"));
    assert!(message("data_dir = 5").contains("it must be a directory"));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert!(message("sign_seconds = 60").contains("less than start_seconds, 60"));
    assert!(message("propose_seconds = 20").contains("less than sign_seconds, 20"));
    assert!(message("rpc_url = \"http://127.0.0.1:8545\"").contains("only chain = \"rpc\" uses"));
    assert!(message("chain = \"rpc\"").starts_with("rpc_url is missing"));
    let everywhere = message("agents_listen = \"0.0.0.0:8481\"");
    assert!(everywhere.starts_with("agents_public is missing: agents_listen is 0.0.0.0:8481"));
    assert_eq!(from_text("admin_listen = \"\"").unwrap().admin_listen, None);
    assert!(message("admin_listen = \"off\"").contains("a port, or nothing"));
    let hosts = from_text("admin_hosts = [\"Broker.internal\"]")
        .unwrap()
        .admin_hosts;
    assert_eq!(hosts, ["broker.internal"]);
    for bad in ["", "a:1", "a b", "http://a"] {
        let text = message(&format!("admin_hosts = [\"{bad}\"]"));
        assert!(text.contains("without a port"), "{text}");
    }
    assert!(message("chain = \"main\"").contains("it must be embedded or rpc"));
    for bad in [
        "ftp://x",
        "http://",
        "http://a/b",
        "http://u@h",
        "https://x?y",
    ] {
        assert!(
            message(&format!("public_url = {bad:?}")).contains("without a path"),
            "{bad}"
        );
    }
    let good = from_text("public_url = \"https://broker.example.org/\"").unwrap();
    assert_eq!(
        good.public_url.as_deref(),
        Some("https://broker.example.org")
    );
}

#[test]
fn a_file_that_can_not_be_read_is_named_in_one_line() {
    let error = load(Some(Path::new("/nonexistent/b.toml")), &Settings::default());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/b.toml")
    );
    let error = message("fee_bps = = 1");
    assert!(
        error.contains("broker.toml") && !error.contains('\n'),
        "{error}"
    );
}

#[test]
fn a_node_needs_its_contract() {
    let text = "chain = \"rpc\"\nrpc_url = \"http://127.0.0.1:8545/key\"\ncentralizer = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"";
    let ChainConfig::Rpc { url, network, .. } = from_text(text).unwrap().chain else {
        panic!("not a node")
    };
    assert_eq!((url.as_str(), network), ("http://127.0.0.1:8545/key", None));
}

#[test]
fn one_of_several_brokers_shares_everything_with_the_others() {
    let chain = "chain = \"rpc\"\nrpc_url = \"http://n\"\ncentralizer = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"";
    let whole = format!(
        "{chain}\nstore = \"postgres://h/d\"\nnats = \"nats://u:secret@a,tls://b\"\nname = \"b1\""
    );
    let fleet = from_text(&whole).unwrap().fleet.unwrap();
    assert_eq!(fleet.nats.expose(), "nats://u:secret@a,tls://b");
    assert!(!format!("{fleet:?}").contains("secret"));
    let without = |line: &str| {
        let lines = whole.lines().filter(|other| !other.starts_with(line));
        message(&lines.collect::<Vec<_>>().join("\n"))
    };
    assert!(without("name").contains("name"), "{}", without("name"));
    assert!(without("nats").contains("nats"), "{}", without("nats"));
    assert!(without("store").contains("PostgreSQL"));
    let embedded = "store = \"postgres://h/d\"\nnats = \"nats://a\"\nname = \"b1\"";
    assert!(message(embedded).contains("chain"));
    assert!(message(&whole.replace("b1", "B 1")).contains("paris-1"));
    let password = message(&whole.replace("tls://b", "http://b"));
    assert!(!password.contains("secret"), "{password}");
    assert!(message(&format!("{whole}\ncredit_line = \"1\"")).contains("credit_line"));
}
