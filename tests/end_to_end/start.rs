//! Leases that start later, with real programs.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;

/// More than a minute after the 20 s in which both may sign.
const AHEAD: &str = "85s";
const LEASE: &str = "--duration 8s --budget 1";

struct World {
    market: Market,
    origin: Origin,
    provider: Wallet,
    requester: Wallet,
    lender: Program,
}

impl World {
    fn new() -> Self {
        let mut market = Market::on_loopback();
        let origin = Origin::start("127.0.0.1:0");
        let rule = origin.rule();
        let (provider, requester) = (market.wallet("provider"), market.wallet("requester"));
        let timers = market.path().join("broker.toml");
        std::fs::write(
            &timers,
            "propose_seconds = 2\nsign_seconds = 9\nstart_seconds = 10\n",
        )
        .unwrap();
        market.tell_broker(&["--config", timers.to_str().unwrap()]);
        market.start_broker();
        let words = [
            "--price-per-second",
            "0.001",
            "--max-leases",
            "1",
            "--allow",
            &rule,
        ];
        let lender = market.start_provider(&provider, "127.0.1.1", &words);
        market.run(&requester, &["deposit", "20"]);
        Self {
            market,
            origin,
            provider,
            requester,
            lender,
        }
    }

    fn book(&self) -> Program {
        let mut command = self.market.connect(&self.requester, LEASE);
        let mut program = Program::start("connect", command.args(["--start-in", AHEAD]));
        program.wait_for("starts    in", SOON);
        program
    }
}

#[test]
fn an_address_is_booked_and_used_when_its_time_has_come() {
    let mut world = World::new();
    let booked = Instant::now();
    let mut lease = world.book();
    world.lender.wait_for("is to start at", SOON);
    // It is held meanwhile.
    let mut now = world.market.connect(&world.requester, LEASE);
    let refused = now.output().unwrap();
    assert_eq!(refused.status.code(), Some(12), "{refused:?}");
    // The booking is on the broker's disk, and both wait for it.
    world.market.broker.as_mut().unwrap().kill();
    std::thread::sleep(Duration::from_secs(2));
    world.market.start_broker();
    let proxy = lease.proxy(Duration::from_secs(120));
    assert!(
        booked.elapsed() > Duration::from_secs(75),
        "{:?}",
        booked.elapsed()
    );
    assert_eq!(world.origin.sees(&proxy), "127.0.1.1");
    let finished = lease.finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    // What was prepaid is a part of what was paid, not more.
    let leases = world.market.run(&world.requester, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap();
    let statement = world.market.run(&world.requester, &["statement", id]);
    let claims = world.market.run(&world.provider, &["settle", "--yes"]);
    assert_eq!(
        claims["paid"], statement["totals"]["promised"],
        "{statement:#}"
    );
}

#[test]
fn what_an_absent_requester_has_prepaid_is_claimed() {
    let mut world = World::new();
    let mut lease = world.book();
    lease.kill();
    world.lender.wait_for("ended", Duration::from_secs(150));
    let claims = world.market.run(&world.provider, &["settle", "--yes"]);
    let paid: u128 = claims["paid"].as_str().unwrap().parse().unwrap();
    assert!(paid > 0, "{claims}");
}

/// The second provider comes while the request rests already.
#[test]
fn several_are_waited_for_and_booked_for_one_second() {
    let mut world = World::new();
    let words =
        "--count 2 --distinct provider --duration 8s --budget 2 --wait 2m --start-within 45s";
    let mut command = world.market.connect(&world.requester, words);
    let mut lease = Program::start("connect", command.args(["--start-in", AHEAD]));
    lease.wait_for("too few offers fit yet", SOON);
    let (second, rule) = (world.market.wallet("second"), world.origin.rule());
    let words = ["--price-per-second", "0.002", "--allow", &rule];
    let _second = world.market.start_provider(&second, "127.0.1.2", &words);
    lease.wait_for("enough offers have come", SOON);
    lease.wait_for("starts    in", SOON);
    let proxy = lease.proxy(Duration::from_secs(165));
    let mut seen = [world.origin.sees(&proxy), world.origin.sees(&proxy)];
    seen.sort();
    assert_eq!(seen, ["127.0.1.1", "127.0.1.2"]);
    let finished = lease.finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
}
