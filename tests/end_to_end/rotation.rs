//! Leases that follow each other through one proxy, or are held at once, with real providers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test acts and fails by panicking"
)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use serde_json::Value;

struct World {
    market: Market,
    origin: Origin,
    requester: Wallet,
    providers: Vec<Program>,
}

impl World {
    /// So many providers on loopback, the cheapest first.
    fn new(providers: usize) -> Self {
        let mut market = Market::on_loopback();
        let origin = Origin::start("127.0.0.1:0");
        let rule = origin.rule();
        let names = ["first", "second", "third"];
        let wallets: Vec<_> = names[..providers]
            .iter()
            .map(|name| market.wallet(name))
            .collect();
        let requester = market.wallet("requester");
        market.start_broker();
        let start = |(index, wallet): (usize, &Wallet)| {
            let price = format!("0.00{}", index + 1);
            let words = ["--price-per-second", &price, "--allow", &rule];
            market.start_provider(wallet, &format!("127.0.1.{}", index + 1), &words)
        };
        let providers = wallets.iter().enumerate().map(start).collect();
        market.run(&requester, &["deposit", "20"]);
        Self {
            market,
            origin,
            requester,
            providers,
        }
    }

    /// Connects, and returns the proxy's address as well.
    fn connect(&self, words: &str) -> (Program, String) {
        let mut command = self.market.connect(&self.requester, words);
        let mut program = Program::start(
            "connect",
            command.args(["--duration", "10m", "--budget", "2"]),
        );
        let proxy = program.proxy(SOON);
        (program, proxy)
    }

    /// A connection to the origin that has not asked for anything yet.
    fn open(&self, proxy: &str) -> TcpStream {
        let mut stream = TcpStream::connect(proxy).unwrap();
        let target = self.origin.address();
        write!(
            stream,
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"
        )
        .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    }

    fn leases(&self) -> Vec<Value> {
        let leases = self.market.run(&self.requester, &["leases", "--all"]);
        leases["leases"].as_array().unwrap().clone()
    }
}

/// Asks over a connection that was opened before, and returns all that came.
fn ask(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_address_changes_without_a_gap_and_stays_when_there_is_no_other() {
    let mut world = World::new(2);
    let (mut program, proxy) = world.connect("--rotate 10s");
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1", "the cheapest first");
    let before = world.open(&proxy);
    program.wait_for("rotated", SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.2");
    assert!(
        ask(before).ends_with("\r\n\r\n127.0.1.1"),
        "it goes on where it was"
    );
    program.wait_for("rotated", SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");

    // Nobody else lends any more.
    world.providers.pop().unwrap().kill();
    program.wait_for("kept ", SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");
    program.signal("INT");
    let finished = program.finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");

    let leases = world.leases();
    assert_eq!(leases.len(), 3, "{leases:#?}");
    assert!(
        leases.iter().all(|lease| lease["status"] == "ended"),
        "{leases:#?}"
    );
}

#[test]
fn several_at_once_take_turns_and_one_that_is_lost_is_left_out() {
    let mut world = World::new(3);
    let words = "--count 3 --distinct provider --max-price-per-second 0.004";
    let (mut program, proxy) = world.connect(words);
    let mut seen: Vec<_> = (0..6).map(|_| world.origin.sees(&proxy)).collect();
    seen.sort();
    let each = ["127.0.1.1", "127.0.1.2", "127.0.1.3"];
    assert_eq!(seen, each.map(|address| [address; 2]).concat());

    let gone = world.providers.pop().unwrap();
    gone.signal("INT");
    program.wait_for("lost      127.0.1.3", SOON);
    gone.finish(SOON);
    let seen: BTreeSet<_> = (0..4).map(|_| world.origin.sees(&proxy)).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), each[..2]);
    program.signal("INT");
    let finished = program.finish(SOON);
    assert_eq!(finished.code, Some(9), "one of them failed: {finished:#?}");
    let leases = world.leases();
    let mut came_out: Vec<_> = leases.iter().map(|lease| &lease["status"]).collect();
    came_out.sort_by_key(|status| status.to_string());
    assert_eq!(came_out, ["ended", "ended", "provider_failed"]);

    // Two are too few for three, and nothing is leased.
    let words = "--count 3 --distinct provider --budget 6";
    let refused = world.market.connect(&world.requester, words).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("2 of 3 addresses"), "{said}");
    assert_eq!(world.leases().len(), 3);

    // Killed amid two of them: the next command ends both.
    let words = "--count 2 --max-price-per-second 0.004";
    let (mut program, proxy) = world.connect(words);
    assert_ne!(world.origin.sees(&proxy), world.origin.sees(&proxy));
    program.kill();
    let words = "--count 3 --distinct asn --budget 6";
    let after = world.market.connect(&world.requester, words).output();
    let after = after.unwrap();
    let said = String::from_utf8_lossy(&after.stderr);
    assert_eq!(said.matches("is ended now").count(), 2, "{said}");
}

/// Too few provide for two leases: the request rests, also while the broker is killed, until somebody else comes.
#[test]
fn several_are_waited_for_until_there_are_as_many() {
    let mut world = World::new(1);
    let words = "--count 2 --distinct provider --max-price-per-second 0.004 --wait 5m";
    let mut command = world.market.connect(&world.requester, words);
    let command = command.args(["--duration", "10m", "--budget", "2"]);
    let mut given_up = Program::start("connect", command);
    given_up.wait_for("too few offers fit yet", SOON);
    given_up.signal("INT");
    let finished = given_up.finish(SOON);
    assert_eq!(finished.code, Some(14), "{finished:#?}");

    let mut waiting = Program::start("connect", command);
    waiting.wait_for("too few offers fit yet", SOON);
    world.market.broker.take().unwrap().kill();
    world.market.start_broker();
    world.providers[0].wait_for("offer placed", SOON);
    let (wallet, rule) = (world.market.wallet("second"), world.origin.rule());
    let words = ["--price-per-second", "0.002", "--allow", &rule];
    let second = world.market.start_provider(&wallet, "127.0.1.2", &words);
    waiting.wait_for("enough offers have come", SOON);
    let proxy = waiting.proxy(SOON);
    let seen: BTreeSet<_> = (0..2).map(|_| world.origin.sees(&proxy)).collect();
    let each = ["127.0.1.1", "127.0.1.2"].map(String::from);
    assert_eq!(seen, BTreeSet::from(each));
    waiting.signal("INT");
    let finished = waiting.finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(world.leases().len(), 2);
    drop(second);
}

/// Whoever works the number out may ask for one, with whatever goes with one.
#[test]
fn a_count_of_one_rotates_as_none_does() {
    let world = World::new(2);
    let (mut program, proxy) = world.connect("--count 1 --rotate 10s");
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");
    program.wait_for("rotated", SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.2");
    program.signal("INT");
    assert_eq!(program.finish(SOON).code, Some(0));
    let words = "--count 2 --rotate 10s --budget 1";
    let refused = world.market.connect(&world.requester, words).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[test]
fn whoever_wants_another_provider_does_not_get_the_same_one() {
    let world = World::new(1);
    let (mut program, proxy) = world.connect("--rotate 10s --distinct provider");
    program.wait_for("kept ", SOON);
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");
    // A network that nobody knows is no other one either.
    let words = "--rotate 10s --distinct asn --budget 1";
    let mut command = world.market.connect(&world.requester, words);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    program.kill();
    // What a kill leaves open is ended by the next command that needs the network.
    let after = command.output().unwrap();
    let said = String::from_utf8_lossy(&after.stderr);
    assert!(said.contains("is ended now"), "{said}");
}
