//! A hundred thousand handshake initiations a second are no reason to stop for those who are there already.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "a test acts and fails by panicking"
)]

use std::process::Command;
use std::time::Duration;

use ipsx_tests::flood::Scene;

const RATE: u32 = 100_000;
const LASTS: Duration = Duration::from_secs(40);

fn survives(label: &str, kind: &str) {
    let scene = Scene::new(label);
    let measured = Duration::from_secs(3);
    let before = scene.goodput(measured);
    let program = Command::new(env!("CARGO_BIN_EXE_flood"));
    let mut flood = scene.flood(program, kind, RATE, LASTS);
    let during = scene.goodput(measured);
    let handshakes: Vec<_> = (0..2)
        .map(|_| scene.handshake(Duration::from_secs(30)))
        .collect();
    let sent = flood.wait_for("sent ", 2 * LASTS);
    let after = scene.goodput(measured);
    println!(
        "{kind}: {before:.0}, {during:.0}, {after:.0} Mbit/s before, during, after; handshakes {handshakes:?}; {sent}"
    );
    // The flood and everything else share two processors, and all of them are busy with other tests.
    assert!(during > before / 10.0, "{during} of {before} Mbit/s");
    assert!(after > before / 10.0, "{after} of {before} Mbit/s");
    for handshake in handshakes {
        assert!(handshake.is_some(), "a handshake is lost in the flood");
    }
}

#[test]
fn a_peer_works_on_while_strangers_call() {
    survives("fl-v", "valid");
}

#[test]
fn a_peer_works_on_while_junk_arrives() {
    survives("fl-j", "junk");
}
