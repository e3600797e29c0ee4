//! `ipsx demo`: the whole market in one command, as a newcomer runs it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::{Duration, Instant};

use ipsx_tests::program::{Finished, Program, built};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn demo(words: &[&str]) -> Finished {
    Program::start("demo", built("ipsx").arg("demo").args(words)).finish(LIMIT)
}

fn report(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(
        finished.stdout.len(),
        1,
        "one JSON object and nothing else: {finished:#?}"
    );
    serde_json::from_str(&finished.stdout[0]).unwrap()
}

fn integer(value: &Value) -> u128 {
    value
        .as_str()
        .map_or_else(|| value.as_u64().map(u128::from), |s| s.parse().ok())
        .unwrap_or_else(|| panic!("{value} is not a whole number"))
}

fn sum(balances: &Value) -> u128 {
    balances.as_object().unwrap().values().map(integer).sum()
}

#[test]
fn the_report_says_what_was_leased_used_and_paid() {
    let started = Instant::now();
    let report = report(&demo(&["--seconds", "5", "--country", "DE", "--json"]));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(report["exit_ip_seen"], "127.0.1.2");
    assert_eq!(report["country"], "DE");
    assert_eq!(report["conserved"], true);
    assert!((4..=8).contains(&integer(&report["seconds"])), "{report}");
    assert!(integer(&report["bytes_down"]) > 1_000_000, "{report}");
    assert!(integer(&report["bytes_up"]) > 0, "{report}");
    assert!(integer(&report["vouchers"]) >= 4, "{report}");
    let (amount, fee) = (integer(&report["amount"]), integer(&report["fee"]));
    assert!(amount > 0 && fee < amount, "{report}");
    assert_eq!(
        sum(&report["balances_before"]),
        sum(&report["balances_after"]),
        "{report}"
    );
}

#[test]
fn each_country_leaves_from_its_own_address() {
    for (country, address) in [("FR", "127.0.1.1"), ("JP", "127.0.1.3")] {
        let report = report(&demo(&["--seconds", "5", "--country", country, "--json"]));
        assert_eq!(report["exit_ip_seen"], address, "{country}");
    }
}

#[test]
fn two_at_once_do_not_meet() {
    let start = || {
        Program::start(
            "demo",
            built("ipsx").args(["demo", "--seconds", "5", "--json"]),
        )
    };
    let (one, other) = (start(), start());
    report(&one.finish(LIMIT));
    report(&other.finish(LIMIT));
}

#[test]
fn a_country_without_an_offer_is_said_and_nothing_is_paid() {
    let finished = demo(&["--country", "BR"]);
    assert_eq!(finished.code, Some(5), "{finished:#?}");
    assert!(finished.stderr.contains("BR"), "{finished:#?}");
}

#[test]
fn people_see_each_second_and_who_paid_whom() {
    let finished = demo(&["--seconds", "5"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let text = finished.stdout.join("\n");
    for expected in [
        "127.0.1.",
        "voucher",
        "settle",
        "requester",
        "provider",
        "treasury",
    ] {
        assert!(
            text.to_lowercase().contains(expected),
            "{expected:?} is missing from\n{text}"
        );
    }
}
