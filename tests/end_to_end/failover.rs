//! Two brokers of one network: when the one is killed that a provider is connected to, the provider goes to the other, and
//! so do requesters that know of both. As a fleet over PostgreSQL and NATS, the one that is left sells what it offers.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet, json};
use ipsx_tests::nats::Nats;
use ipsx_tests::postgres::Server;
use ipsx_tests::program::{Program, built};

/// It notices within 3 s, and is placed at once; the rest is for a busy machine.
const BACK: Duration = Duration::from_secs(10);

/// What a fleet shares.
struct Servers {
    _postgres: Server,
    nats: Nats,
    store: String,
}

impl Servers {
    /// None where the tests are to do without them.
    fn start() -> Option<Self> {
        let nats = Nats::for_test()?;
        let postgres = Server::for_test()?;
        let store = postgres.database("market");
        Some(Self {
            _postgres: postgres,
            nats,
            store,
        })
    }

    fn tell(&self, broker: &mut Market, name: &str) {
        let nats = format!("nats://{}", self.nats.address);
        broker.tell_broker(&["--store", &self.store, "--nats", &nats, "--name", name]);
    }
}

#[test]
fn a_provider_and_a_requester_go_to_the_other_broker_when_theirs_is_killed() {
    let mut first = Market::on_loopback();
    let (lender, borrower) = (first.wallet("lender"), first.wallet("borrower"));
    first.start_broker();
    let servers = Servers::start();
    let mut brokers = ["left", "right"].map(|name| {
        let mut broker = first.sibling();
        if let Some(servers) = &servers {
            servers.tell(&mut broker, name);
        }
        broker.start_broker();
        broker
    });
    // Whoever begins after a deposit waits until what others may have promised on it has lapsed.
    first.run(&borrower, &["deposit", "10"]);
    let urls = brokers
        .each_ref()
        .map(|one| format!("http://{}", one.http()));
    let ipsx = |wallet: &Wallet, urls: &[String], words: &[&str]| -> Command {
        let mut command = built("ipsx");
        command
            .arg("--data")
            .arg(&wallet.data)
            .args(["--broker", &urls.join(",")])
            .arg("--passphrase-file")
            .arg(first.path().join("passphrase"))
            .args(words);
        command
    };

    let words = "provide --accept-consent --bind 127.0.1.1 --listen 127.0.1.1:0 --price-per-second 0.001 --allow 127.0.0.1/32:tcp/*";
    let words: Vec<_> = words.split(' ').collect();
    let mut provider = Program::start("provider", &mut ipsx(&lender, &urls, &words));
    provider.wait_for("offer placed", SOON);
    let offers = |one: &Market| {
        one.run(&borrower, &["search"])["offers"]
            .as_array()
            .unwrap()
            .len()
    };
    // Whoever hears it, which in a fleet may be another one than it is connected to.
    let connected = |one: &Market| one.metric("ipsx_agents_connected") as usize;
    let connected = brokers.each_ref().map(connected);
    assert_eq!(connected.iter().sum::<usize>(), 1, "{connected:?}");
    let [its, other] = if connected[0] == 1 { [0, 1] } else { [1, 0] };

    let killed = Instant::now();
    brokers[its].broker.take().unwrap().kill();
    provider.wait_for("offer placed", BACK);
    println!("placed at the other broker after {:?}", killed.elapsed());
    assert_eq!(offers(&brokers[other]), 1);

    // Asks the dead one first.
    let urls = [urls[its].clone(), urls[other].clone()];
    let found = ipsx(&borrower, &urls, &["search", "--json"]).output();
    let found = json(&found.unwrap());
    assert_eq!(found["offers"].as_array().unwrap().len(), 1, "{found}");
    let words = "connect --duration 10m --budget 1 --proxy 127.0.0.1:0 --json";
    let words: Vec<_> = words.split(' ').collect();
    let mut lease = Program::start("connect", &mut ipsx(&borrower, &urls, &words));
    for _ in 0..3 {
        lease.wait_for("\"second\"", SOON);
    }
    lease.signal("INT");
    assert_eq!(lease.finish(SOON).code, Some(0));
}
