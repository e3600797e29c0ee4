//! Two hundred leases at once that come and go on one provider: what they need is given back.
//!
//! ```text
//! requesters 10.99.0.1 ──── 10.99.0.2 provider 10.98.0.1 ──── 10.98.0.2 web
//! ```
//!
//! For 20 seconds, or as long as `IPSX_SOAK_SECONDS` says.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::program::Program;
use ipsx_tests::soak::{ECHO, EGRESS, UPLINK};

/// How long a busy machine may take for what should be done at once.
const SOON: Duration = Duration::from_secs(180);
/// What the allocator and the kernel's rounding may make of the same memory.
const SLACK_KIB: u64 = 1024;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    rss_kib: u64,
    descriptors: usize,
    threads: u64,
}

impl Held {
    fn by(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.unwrap().split_whitespace().next().unwrap();
            word.parse().unwrap()
        };
        Self {
            rss_kib: value("VmRSS:"),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
            threads: value("Threads:"),
        }
    }
}

/// Everything that an exit may change in its network: packet filter, rules, routes, addresses.
fn network(namespace: &Namespace) -> String {
    let inside = |words: &[&str]| {
        let start = ["netns", "exec", namespace.name()];
        run("ip", &[&start, words].concat())
    };
    [
        inside(&["nft", "--stateless", "list", "ruleset"]),
        inside(&["ip", "rule"]),
        inside(&["ip", "route", "show", "table", "all"]),
        inside(&["ip", "-brief", "address"]),
    ]
    .join("--\n")
}

fn part(namespace: &Namespace, words: &[&str], ready: &str) -> Program {
    let mut command: Command = namespace.command(env!("CARGO_BIN_EXE_soak"));
    let mut program = Program::start(words[0], command.args(words));
    if !ready.is_empty() {
        program.wait_for(ready, SOON);
    }
    program
}

/// Waits until the provider holds and has set up what it did before the first lease.
fn settles(provider: &Program, namespace: &Namespace, before: &(Held, String)) {
    let begin = Instant::now();
    loop {
        let (held, network) = (Held::by(provider.id()), network(namespace));
        // Threads that wait for blocking work end after a while without any.
        if held.descriptors <= before.0.descriptors
            && held.threads <= before.0.threads
            && network == before.1
        {
            return;
        }
        assert!(
            begin.elapsed() < SOON,
            "before: {:#?}\n{}\nafter the last lease: {held:#?}\n{network}",
            before.0,
            before.1
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// `slots` is how many leases there are at once.
fn soak(exit: &str, slots: u64) {
    let seconds: u64 = std::env::var("IPSX_SOAK_SECONDS").map_or(20, |text| text.parse().unwrap());
    let names = ["requesters", "provider", "web"].map(|name| format!("{name}-{}", &exit[..1]));
    let [requesters, provider_side, web] = [0, 1, 2].map(|i| Namespace::new(&names[i]));
    requesters.join(
        ("veth-out", "10.99.0.1/24"),
        &provider_side,
        ("veth-lease", "10.99.0.2/24"),
    );
    provider_side.join((UPLINK, "10.98.0.1/24"), &web, ("veth-web", "10.98.0.2/24"));
    web.ip(&["route", "add", EGRESS, "via", "10.98.0.1"]);
    let folder = tempfile::tempdir().unwrap();

    let _echo = part(&web, &["echo", ECHO], "echoing");
    let words = ["provider", exit, folder.path().to_str().unwrap()];
    let provider = part(&provider_side, &words, "providing");
    // What the first lease of each slot leaves is no leak: the pools of allocator and runtime.
    let warm_up = part(&requesters, &["clients", &slots.to_string(), "1"], "");
    assert_eq!(warm_up.finish(SOON).code, Some(0));
    std::thread::sleep(Duration::from_secs(12));
    let before = (Held::by(provider.id()), network(&provider_side));

    let words = ["clients", &slots.to_string(), &seconds.to_string()];
    let clients = part(&requesters, &words, "");
    let begin = Instant::now();
    let mut samples = Vec::new();
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(250));
        samples.push(Held::by(provider.id()));
    }
    let finished = clients.finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let leases: u64 = finished
        .stdout
        .iter()
        .find_map(|line| line.strip_prefix("leases ")?.parse().ok())
        .unwrap();
    assert!(leases >= slots, "only {leases} leases");

    settles(&provider, &provider_side, &before);
    let after = Held::by(provider.id());
    let peak = |samples: &[Held]| samples.iter().map(|held| held.rss_kib).max().unwrap();
    let third = samples.len() / 3;
    let (middle, last) = (
        peak(&samples[third..2 * third]),
        peak(&samples[2 * third..]),
    );
    println!(
        "{exit} exit: {leases} leases in {seconds} s, up to {slots} at once; provider {} KiB before, at most {middle} \
         in the second third and {last} in the last, {} afterwards; descriptors {} before, at most {}, {} afterwards",
        before.0.rss_kib,
        after.rss_kib,
        before.0.descriptors,
        samples.iter().map(|held| held.descriptors).max().unwrap(),
        after.descriptors,
    );
    assert!(
        last <= middle + middle / 10 + SLACK_KIB,
        "memory grows: {middle} KiB in the second third, {last} in the last"
    );
}

#[test]
fn userspace_exit_keeps_nothing_of_leases_that_ended() {
    soak("userspace", 200);
}

#[test]
fn kernel_exit_keeps_nothing_of_leases_that_ended() {
    soak("kernel", 200);
}
