//! kill -9 of the broker under load, over and over, at whatever point of a lease's way through the desk: what anybody was
//! told is held afterwards, and nothing was sold or promised twice.
//!
//! `IPSX_KILLS=300 cargo test -p ipsx-tests --test broker_kills` kills more often than the suite does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::Duration;

use ipsx_tests::market::Market;
use ipsx_tests::program::built;
use ipsx_tests::rush::{Rush, Size};
use rand::Rng;

const KILLS: usize = 5;
/// Longest time that the load lasts between two kills, in milliseconds.
const LONGEST: u64 = 250;
/// After which every lease that nobody starts has lapsed.
const LAPSED: Duration = Duration::from_secs(15);

#[test]
fn what_was_said_is_held_wherever_the_broker_is_killed() {
    let kills = std::env::var("IPSX_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let program = |name: &str| {
        let mut command = built(name);
        command.env("IPSX_BROKER_LOG", "error");
        command
    };
    let market = Market::new("127.0.0.1", &[("127.0.0.0/8", "FR")], Box::new(program));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    // So few places that they are sold out now and then.
    let size = Size {
        agents: 6,
        leases: 30,
        customers: 12,
    };
    let mut rush = Rush::begin(&runtime, market, size);
    for _ in 0..kills {
        let load = rand::thread_rng().gen_range(0..LONGEST);
        std::thread::sleep(Duration::from_millis(load));
        rush.kill_broker();
    }
    let leases = rush.customers.leases();
    let aftermath = rush.end(&runtime);
    let held = aftermath.check(&runtime);
    println!(
        "{kills} kills, {leases} leases, {held:?}; refused: {:#?}",
        aftermath.problems
    );
    assert!(held.bound >= leases && leases > kills, "{held:?}");
    std::thread::sleep(LAPSED);
    let held = aftermath.check(&runtime);
    assert_eq!(held.open, 0, "{held:?}");
}
