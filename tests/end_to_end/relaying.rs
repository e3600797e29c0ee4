//! Leases that a broker's relay carries, as their two sides are told of it, with real programs on loopback: the provider says
//! that it is reached where nobody is, so that there is no other way.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::nats::Nats;
use ipsx_tests::origin::Origin;
use ipsx_tests::postgres::Server;
use ipsx_tests::program::{Program, built};
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

/// Two brokers of one network over PostgreSQL and NATS, each with a relay of its own.
struct Fleet {
    first: Market,
    brokers: [Market; 2],
    lender: Wallet,
    borrower: Wallet,
    _servers: (Server, Nats),
}

/// Ports of each broker's relay.
const RANGES: [(&str, &str); 2] = [
    ("21310-21319", "127.0.0.1:2131"),
    ("21320-21329", "127.0.0.1:2132"),
];

impl Fleet {
    /// None where the tests are to do without the servers.
    fn start() -> Option<Self> {
        let nats = Nats::for_test()?;
        let postgres = Server::for_test()?;
        let store = postgres.database("market");
        let mut first = Market::on_loopback();
        let (lender, borrower) = (first.wallet("lender"), first.wallet("borrower"));
        first.start_broker();
        let url = format!("nats://{}", nats.address);
        let mut range = RANGES.iter();
        let brokers = ["left", "right"].map(|name| {
            let mut broker = first.sibling();
            let (ports, _) = range.next().unwrap();
            broker.tell_broker(&["--store", &store, "--nats", &url, "--name", name]);
            broker.tell_broker(&["--relay-ports", ports]);
            broker.start_broker();
            broker
        });
        first.run(&borrower, &["deposit", "10"]);
        // The second one takes over what is to be its own.
        let until = Instant::now() + SOON;
        let has_part = |broker: &Market| (1.0..256.0).contains(&broker.metric("ipsx_shards"));
        while !brokers.iter().all(has_part) {
            assert!(Instant::now() < until, "one broker has all of the market");
            sleep(Duration::from_millis(100));
        }
        Some(Self {
            first,
            brokers,
            lender,
            borrower,
            _servers: (postgres, nats),
        })
    }

    /// A program that asks these brokers, the first of them first.
    fn program(&self, wallet: &Wallet, brokers: [usize; 2], words: &[&str]) -> Program {
        let url = |at: usize| format!("http://{}", self.brokers[at].http());
        let mut command = built("ipsx");
        command
            .arg("--data")
            .arg(&wallet.data)
            .args(["--broker", &brokers.map(url).join(",")])
            .arg("--passphrase-file")
            .arg(self.first.path().join("passphrase"))
            .args(words);
        Program::start(words[0], &mut command)
    }

    fn provider(&self, brokers: [usize; 2], origin: &Origin) -> Program {
        let rule = origin.rule();
        let words = "provide --accept-consent --bind 127.0.1.1 --listen 127.0.1.1:0 --price-per-second 0.001";
        let mut words: Vec<_> = words.split(' ').collect();
        words.extend(["--advertise", NOWHERE, "--allow", &rule]);
        let mut provider = self.program(&self.lender, brokers, &words);
        provider.wait_for("offer placed", SOON);
        provider
    }

    /// Leases that this broker relays.
    fn relayed(&self, at: usize) -> f64 {
        self.brokers[at].metric("ipsx_relayed_leases")
    }
}

#[test]
fn in_a_fleet_the_relay_is_of_the_broker_whose_the_deal_is_and_of_the_next_when_that_dies() {
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let origin = Origin::start("127.0.0.1:0");
    // Whoever hears the provider has the part of the market that it belongs to.
    let provider = fleet.provider([0, 1], &origin);
    let hears = |broker: &Market| broker.metric("ipsx_agents_connected") == 1.0;
    let owner = fleet.brokers.iter().position(hears).unwrap();
    let other = 1 - owner;
    provider.signal("INT");
    provider.finish(SOON);
    // Both sides are connected to the other broker.
    let provider = fleet.provider([other, owner], &origin);
    assert!(hears(&fleet.brokers[owner]));
    let words = "connect --duration 10m --budget 1 --proxy 127.0.0.1:0";
    let words: Vec<_> = words.split(' ').collect();
    let mut lease = fleet.program(&fleet.borrower, [other, owner], &words);
    lease.wait_for(&format!("is reached by {}", RANGES[owner].1), SOON);
    let proxy = lease.proxy(SOON);
    assert_eq!(origin.sees(&proxy), "127.0.1.1");
    assert_eq!((fleet.relayed(owner), fleet.relayed(other)), (1.0, 0.0));

    fleet.brokers[owner].broker.take().unwrap().kill();
    let killed = Instant::now();
    lease.wait_for(&format!("is reached by {}", RANGES[other].1), SOON);
    println!("relayed by the next broker after {:?}", killed.elapsed());
    assert_eq!(origin.sees(&proxy), "127.0.1.1");
    assert_eq!(fleet.relayed(other), 1.0);
    lease.signal("INT");
    let ended = lease.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(fleet.relayed(other), 0.0);
    drop(provider);
}
