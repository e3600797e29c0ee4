//! Leases that a broker's relay carries, as their two sides are told of it, with real programs on loopback: the provider says
//! that it is reached where nobody is, so that there is no other way.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use serde_json::Value;

/// Where nobody listens, and nobody is seen.
const NOWHERE: &str = "127.0.9.9:9";

struct World {
    market: Market,
    origin: Origin,
    requester: Wallet,
    provider: Program,
}

impl World {
    /// A broker that relays by these ports, and what else it is told.
    fn new(ports: &str, words: &[&str]) -> Self {
        let mut market = Market::on_loopback();
        let origin = Origin::start("127.0.0.1:0");
        let (lender, requester) = (market.wallet("lender"), market.wallet("requester"));
        market.tell_broker(&["--relay-ports", ports]);
        market.tell_broker(words);
        market.start_broker();
        let rule = origin.rule();
        let words = ["--price-per-second", "0.001", "--allow", &rule];
        let words = [&words[..], &["--advertise", NOWHERE]].concat();
        let provider = market.start_provider(&lender, "127.0.1.1", &words);
        market.run(&requester, &["deposit", "20"]);
        Self {
            market,
            origin,
            requester,
            provider,
        }
    }

    fn connect(&self, words: &str) -> Program {
        let mut command = self.market.connect(&self.requester, words);
        let command = command.args(["--duration", "10m", "--budget", "2"]);
        Program::start("connect", command)
    }

    fn leases(&self) -> Vec<Value> {
        let leases = self.market.run(&self.requester, &["leases"]);
        leases["leases"].as_array().unwrap().clone()
    }
}

#[test]
fn both_sides_are_told_that_a_lease_is_relayed_and_by_what() {
    let mut world = World::new("21300-21309", &[]);
    let mut lease = world.connect("");
    let told = lease.wait_for("relayed   127.0.1.1 is reached by ", SOON);
    let relay = told
        .split([' ', ','])
        .find(|word| word.starts_with("127.0.0.1:2130"));
    let relay = relay.unwrap_or_else(|| panic!("{told}")).to_owned();
    let proxy = lease.proxy(SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");
    let told = format!("relayed: its requester comes by {relay}");
    world.provider.wait_for(&told, SOON);

    // Another program of the same wallet sees it meanwhile, in words too.
    let leases = world.leases();
    assert_eq!(leases[0]["relay"], relay, "{leases:#?}");
    let words = world.market.ipsx(&world.requester.data, &["leases"]);
    let words = { words }.output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("active, relayed"), "{words}");
    lease.signal("INT");
    let ended = lease.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(world.leases()[0]["relay"], relay, "it was");

    let mut lease = world.connect("--json");
    let event = lease.wait_for("\"relayed\"", SOON);
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["exit_address"], "127.0.1.1", "{event}");
    let relay = event["relay"].as_str().unwrap();
    assert!(relay.starts_with("127.0.0.1:2130"), "{event}");
    lease.wait_for("\"second\"", SOON);
    lease.signal("INT");
    assert_eq!(lease.finish(SOON).code, Some(0));
}
