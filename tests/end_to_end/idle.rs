//! What a provider costs its host while nobody leases.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::Duration;

use ipsx_tests::market::Market;
use ipsx_tests::program::status_figure;

/// The most memory that a provider without leases may have in all, in KiB. A program that is built without optimisation
/// is several times as large.
const RESIDENT: u64 = 12 << 10;
/// The most that is its own. Pages of the program's file and of the libraries are not in it: they are the system's
/// cache.
const OWN: u64 = 5 << 10;

#[test]
fn an_idle_provider_takes_little_memory() {
    let mut market = Market::on_loopback();
    let wallet = market.wallet("provider");
    market.start_broker();
    let words = ["--price-per-second", "0.001", "--price-per-gib", "0.5"];
    let provider = market.start_provider(&wallet, "127.0.1.1", &words);
    // What only starting needs is given back by then.
    std::thread::sleep(Duration::from_secs(7));
    let [resident, own, threads] =
        ["VmRSS", "RssAnon", "Threads"].map(|name| status_figure(provider.id(), name));
    println!("{resident} KiB resident, {own} KiB of it not from files; {threads} threads");
    assert!(own < OWN, "{own} KiB are its own");
    assert!(
        cfg!(debug_assertions) || resident < RESIDENT,
        "{resident} KiB are resident"
    );
}
