//! kill -9 of each program in mid-lease: no accepted voucher is lost, no capacity leaks, the other side ends.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::thread;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::program::Program;
use serde_json::Value;

const OFFER: [&str; 8] = [
    "--price-per-second",
    "0.001",
    "--allow",
    "127.0.0.1/32:tcp/*",
    "--max-leases",
    "1",
    "--max-duration",
    "1h",
];

/// A lease in mid-life. The programs are taken out of it to be killed or waited for.
struct Lease {
    market: Market,
    provider_wallet: Wallet,
    requester_wallet: Wallet,
    provider: Option<Program>,
    requester: Option<Program>,
}

impl Lease {
    fn provider(&mut self) -> &mut Program {
        self.provider.as_mut().unwrap()
    }

    fn requester(&mut self) -> &mut Program {
        self.requester.as_mut().unwrap()
    }
}

/// A lease of ten minutes whose third second has been paid.
fn paid_lease() -> Lease {
    let mut market = Market::on_loopback();
    let provider_wallet = market.wallet("provider");
    let requester_wallet = market.wallet("requester");
    market.start_broker();
    let provider = market.start_provider(&provider_wallet, "127.0.1.1", &OFFER);
    market.run(&requester_wallet, &["deposit", "10"]);
    let words = "--duration 10m --budget 1 --json";
    let mut requester = Program::start("connect", &mut market.connect(&requester_wallet, words));
    for _ in 0..3 {
        requester.wait_for("\"second\"", SOON);
    }
    Lease {
        market,
        provider_wallet,
        requester_wallet,
        provider: Some(provider),
        requester: Some(requester),
    }
}

fn whole(value: &Value) -> u128 {
    value
        .as_str()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no amount"))
}

/// Leases that could start now, as `ipsx search` shows them; `None` when the offer is not there.
fn free_leases(lease: &Lease) -> Option<u64> {
    let found = lease.market.run(&lease.requester_wallet, &["search"]);
    found["offers"]
        .as_array()
        .unwrap()
        .first()
        .map(|o| o["free_leases"].as_u64().unwrap())
}

fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} within {limit:?}");
        thread::sleep(Duration::from_millis(250));
    }
}

/// What the requester has signed for in its last lease.
fn signed_for(lease: &Lease) -> u128 {
    let leases = lease
        .market
        .run(&lease.requester_wallet, &["leases", "--all"]);
    whole(&leases["leases"][0]["amount"])
}

#[test]
fn a_killed_provider_keeps_its_vouchers_and_its_capacity_returns() {
    let mut lease = paid_lease();
    assert_eq!(free_leases(&lease), Some(0));
    lease.provider().kill();
    let ended = lease
        .requester
        .take()
        .unwrap()
        .finish(Duration::from_secs(60));
    assert_eq!(
        ended.code,
        Some(9),
        "the requester ends, and says whose fault it was: {ended:#?}"
    );

    let provider = lease
        .market
        .start_provider(&lease.provider_wallet, "127.0.1.1", &OFFER);
    lease.provider = Some(provider);
    wait_until("the capacity is back", Duration::from_secs(45), || {
        free_leases(&lease) == Some(1)
    });
    let claims = lease
        .market
        .run(&lease.provider_wallet, &["settle", "--yes"]);
    let signed = signed_for(&lease);
    assert!(
        whole(&claims["paid"]) > 0 && whole(&claims["paid"]) <= signed,
        "{claims}, {signed}"
    );
}

#[test]
fn a_killed_requester_is_noticed_and_pays_no_more_than_it_signed() {
    let mut lease = paid_lease();
    lease.requester().kill();
    // Three seconds of silence, then a minute's patience on hold.
    lease.provider().wait_for("ended", Duration::from_secs(90));
    wait_until("the capacity is back", Duration::from_secs(30), || {
        free_leases(&lease) == Some(1)
    });
    let leases = lease
        .market
        .run(&lease.requester_wallet, &["leases", "--all"]);
    let status = leases["leases"][0]["status"].as_str().unwrap();
    assert!(status != "active" && status != "agreed", "{leases}");
    let claims = lease
        .market
        .run(&lease.provider_wallet, &["settle", "--yes"]);
    assert!(whole(&claims["paid"]) > 0, "{claims}");
    assert!(whole(&claims["paid"]) <= signed_for(&lease), "{claims}");
}

#[test]
fn a_killed_broker_stops_no_lease_and_forgets_none() {
    let mut lease = paid_lease();
    lease.market.broker.as_mut().unwrap().kill();
    // The vouchers travel inside the tunnel: both go on.
    for _ in 0..4 {
        lease
            .requester()
            .wait_for("\"second\"", Duration::from_secs(10));
    }
    lease.market.start_broker();
    wait_until(
        "the agent is back, with its lease counted",
        Duration::from_secs(45),
        || free_leases(&lease) == Some(0),
    );
    for _ in 0..2 {
        lease
            .requester()
            .wait_for("\"second\"", Duration::from_secs(10));
    }
    lease.requester().signal("INT");
    let ended = lease
        .requester
        .take()
        .unwrap()
        .finish(Duration::from_secs(30));
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    wait_until("the capacity is back", Duration::from_secs(30), || {
        free_leases(&lease) == Some(1)
    });
    let claims = lease
        .market
        .run(&lease.provider_wallet, &["settle", "--yes"]);
    assert!(whole(&claims["paid"]) > 0, "{claims}");
}
