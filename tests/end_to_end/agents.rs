//! Thousands of agents at one broker: what each costs it, and that all come back after a kill -9.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::{Duration, Instant};

use ipsx_tests::crowd::{Crowd, Plan};
use ipsx_tests::market::Market;
use ipsx_tests::program::{built, status_figure};

/// Agents that fill what a broker needs once, whoever connects.
const FIRST: usize = 500;
/// As many as a debug build connects in a few seconds; `benches/src/bin/agents.rs` takes ten times as many.
const MORE: usize = 2_000;
/// The most memory that one may cost, in bytes: what the allocator leaves unused between what is used is part of it.
const EACH: u64 = 20_000;

fn wait_for(crowds: &[&Crowd], what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        let losses: Vec<_> = crowds.iter().map(|crowd| crowd.losses()).collect();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{what} within a minute: {losses:#?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{what} after {:?}", start.elapsed());
}

/// Memory of its own in KiB, once nothing of the handshakes is left.
fn settled(broker: u32) -> u64 {
    std::thread::sleep(Duration::from_secs(5));
    status_figure(broker, "RssAnon")
}

#[test]
fn two_thousand_agents_cost_little_and_come_back_after_a_kill() {
    let program = |name: &str| {
        let mut command = built(name);
        command.env("IPSX_BROKER_LOG", "warn");
        command
    };
    let mut market = Market::new("127.0.0.1", &[("127.0.0.0/8", "FR")], Box::new(program));
    market.start_broker();
    let broker = market.broker.as_ref().unwrap().id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    let agents = market.agents().parse().unwrap();
    let crowd = |count| Plan {
        agents: count,
        sockets: 20,
        ..Plan::default()
    };
    let first = Crowd::gather(agents, crowd(FIRST));
    wait_for(&[&first], "the first are placed", || {
        first.placed() == FIRST
    });
    let few = settled(broker);
    let more = Crowd::gather(agents, crowd(MORE));
    let crowds = [&first, &more];
    let placed = || first.placed() + more.placed();
    wait_for(&crowds, "all are placed", || placed() == FIRST + MORE);
    let many = settled(broker);
    let each = many.saturating_sub(few) * 1_024 / MORE as u64;
    println!("{each} bytes each");
    assert!(each < EACH, "{each} bytes each");
    assert_eq!(placed(), FIRST + MORE, "they stay");

    let connects = || first.connects() + more.connects();
    let before = connects();
    market.broker.as_mut().unwrap().kill();
    market.start_broker();
    wait_for(&crowds, "all are back", || {
        connects() >= before + FIRST + MORE && placed() == FIRST + MORE
    });
}
