//! What Prometheus reads of a provider's and a broker's money, from the processes themselves.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "a test acts and fails by panicking, and what it reads are floats"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON};
use ipsx_tests::program::Program;
use ipsx_tests::web;

/// Every sample by its name with labels.
fn scrape(url: &str) -> BTreeMap<String, f64> {
    let got = web::run(&mut Command::new("curl"), url);
    assert_eq!(got.status, 200, "{url}: {got:?}");
    let samples = got.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Reads until what is read is as it should be.
fn wait_for(url: &str, holds: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
    let deadline = Instant::now() + SOON;
    loop {
        let samples = scrape(url);
        if holds(&samples) {
            return samples;
        }
        assert!(Instant::now() < deadline, "{samples:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn money_can_be_watched_at_a_provider_and_at_the_broker() {
    let mut market = Market::on_loopback();
    let (wallet, requester) = (market.wallet("fr"), market.wallet("requester"));
    market.start_broker();
    let mut provider = market.ipsx(&wallet.data, &["provide", "--accept-consent"]);
    provider.args(["--bind", "127.0.1.1", "--listen", "127.0.1.1:0"]);
    provider.args(["--price-per-second", "0.5", "--max-leases", "3"]);
    provider.args(["--claim-at-end", "--metrics", "127.0.0.1:0"]);
    let mut provider = Program::start("provider", &mut provider);
    let line = provider.wait_for("metrics at ", SOON);
    let url = line.rsplit(' ').next().unwrap().to_owned();
    provider.wait_for("offer placed", SOON);
    let of_broker = format!("http://{}/metrics", market.admin());

    market.run(&requester, &["deposit", "50"]);
    let words = "--country FR --duration 30s --budget 20";
    let mut lease = Program::start("connect", &mut market.connect(&requester, words));
    lease.proxy(SOON);

    let running = wait_for(&url, |now| now["ipsx_unclaimed_tokens"] > 0.0);
    assert_eq!(running["ipsx_broker_connected"], 1.0);
    assert_eq!(
        (running["ipsx_leases"], running["ipsx_leases_free"]),
        (1.0, 2.0)
    );
    let both = running["ipsx_unclaimed_tokens"] + running["ipsx_unclaimed_room_tokens"];
    assert!((both - 1_000.0).abs() < 1e-6, "{running:#?}");
    // Vouchers run ahead of use.
    assert!(running["ipsx_unpaid_tokens"] < 2.0, "{running:#?}");
    let promised = scrape(&of_broker);
    assert_eq!(promised["ipsx_deposits_tokens"], 50.0);
    assert!(promised["ipsx_promised_tokens"] > 0.0 && promised["ipsx_promised_tokens"] <= 20.0);
    assert_eq!(promised["ipsx_reserved_channels"], 1.0);
    assert_eq!(promised["ipsx_bond_exposure_tokens"], 0.0);
    assert_eq!(promised["ipsx_held_tokens"], 0.0);

    lease.signal("INT");
    assert_eq!(lease.finish(Duration::from_secs(60)).code, Some(0));
    let confirmed = "ipsx_claims_total{outcome=\"confirmed\"}";
    let claimed = wait_for(&url, |now| {
        now.get(confirmed).is_some_and(|count| *count > 0.0)
    });
    assert!(claimed["ipsx_claims_total{outcome=\"sent\"}"] >= claimed[confirmed]);
    assert!(claimed["ipsx_claimed_tokens_total"] > 0.0);
    assert!(claimed["ipsx_claim_fees_tokens_total"] < claimed["ipsx_claimed_tokens_total"]);
    assert!(claimed["ipsx_claim_gas_total"] > 21_000.0, "{claimed:#?}");
    let over = wait_for(&url, |now| now["ipsx_unclaimed_tokens"] == 0.0);
    assert_eq!(over["ipsx_unpaid_tokens"], 0.0);

    let elsewhere = url.replace("/metrics", "/");
    assert_eq!(web::run(&mut Command::new("curl"), &elsewhere).status, 404);
    provider.signal("INT");
    assert_eq!(provider.finish(Duration::from_secs(60)).code, Some(0));
}
