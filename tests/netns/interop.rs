//! A tunnel between this project's device and wireguard-go over its whole life, in both roles: new keys while data
//! flows, other addresses and ports, and either side gone and back.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::time::{Duration, Instant};

use ipsx_tests::end::{End, Implementation, PORT, two_ends};

/// When the caller makes new keys (REKEY_AFTER_TIME), and a little more.
const REKEYED: u32 = 128;

/// How long an end may take to see that the other has forgotten the session: it waits for an answer for 15 s
/// (KEEPALIVE_TIMEOUT and REKEY_TIMEOUT), tries, and tries again 5 s later if that was lost.
const NOTICED: Duration = Duration::from_secs(30);

/// Two ends at work; the left one calls.
fn working(
    test: &str,
    left: Implementation,
    right: Implementation,
) -> (End, End, tempfile::TempDir) {
    let (mut caller, mut called, folder) = two_ends(test);
    caller.start(left);
    called.start(right);
    caller.configure(&called, true, folder.path());
    called.configure(&caller, false, folder.path());
    assert!(caller.pings("10.98.1.2"), "{left:?} can't reach {right:?}");
    (caller, called, folder)
}

/// Seconds since 1970 at which the end's only peer last had a handshake.
fn handshaked_at(end: &End) -> u64 {
    let text = end.wg(&["show", &end.interface, "latest-handshakes"]);
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Where the end's only peer is.
fn endpoint(end: &End) -> String {
    let text = end.wg(&["show", &end.interface, "endpoints"]);
    text.split_whitespace().nth(1).unwrap().to_owned()
}

/// Pings once a time until there is an answer.
fn answers_within(end: &End, address: &str, limit: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        let mut ping = end.namespace.command("ping");
        ping.args(["-c", "1", "-W", "1", address]);
        if ping.output().unwrap().status.success() {
            return true;
        }
    }
    false
}

/// Data flows on while new keys are made: hardly a packet is lost.
fn rekeys(test: &str, left: Implementation, right: Implementation) {
    let (caller, called, _folder) = working(test, left, right);
    let first = (handshaked_at(&caller), handshaked_at(&called));
    let count = REKEYED * 4;
    let mut ping = caller.namespace.command("ping");
    ping.args(["-q", "-i", "0.25", "-W", "5", "-c", &count.to_string()]);
    let output = ping.arg("10.98.1.2").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let received: u32 = text
        .split(", ")
        .find_map(|part| part.strip_suffix(" received")?.parse().ok())
        .unwrap_or_else(|| panic!("ping says {text}"));
    assert!(received + 2 >= count, "{received} of {count}: {text}");
    for (end, first) in [(&caller, first.0), (&called, first.1)] {
        let later = handshaked_at(end);
        assert!(
            (115..=REKEYED.into()).contains(&(later - first)),
            "{} s between the handshakes of {}",
            later - first,
            end.interface
        );
    }
}

#[test]
fn makes_new_keys_with_wireguard_go() {
    rekeys("rekey-o", Implementation::Ipsx, Implementation::WireguardGo);
}

#[test]
fn wireguard_go_makes_new_keys_with_it() {
    rekeys("rekey-i", Implementation::WireguardGo, Implementation::Ipsx);
}

/// Counts handshake initiations on the wire, whoever sends them.
const INITIATIONS: &str = "table inet seen {
    counter initiations {}
    chain initiation {
        meta l4proto udp @th,64,8 1 counter name initiations
    }
    chain arriving {
        type filter hook prerouting priority -300;
        jump initiation
    }
    chain leaving {
        type filter hook output priority -300;
        jump initiation
    }
}
";

/// A router that gives the caller's datagrams another address and port, as one does that has forgotten a mapping.
const OTHER_MAPPING: &str = "table ip router {
    chain out {
        type nat hook postrouting priority 100;
        udp dport 51820 snat to 10.99.1.11:52000
    }
}
";

/// The caller is seen at another port, then through a router, then has another address; the called one follows at
/// the first packet, and the session stays.
fn roams(test: &str, left: Implementation, right: Implementation) {
    let (mut caller, called, _folder) = working(test, left, right);
    called.nft(INITIATIONS);
    caller.wg(&["set", &caller.interface, "listen-port", "51999"]);
    assert!(caller.pings("10.98.1.2"), "another port");
    assert_eq!(endpoint(&called), "10.99.1.1:51999");
    let add = ["address", "add", "10.99.1.11/24", "dev", "veth-left"];
    caller.namespace.ip(&add);
    caller.nft(OTHER_MAPPING);
    assert!(caller.pings("10.98.1.2"), "through a router");
    assert_eq!(endpoint(&called), "10.99.1.11:52000");
    assert!(called.pings("10.98.1.1"), "and back through it");
    assert_eq!(called.counted(&["initiations"]), [0], "the keys stay");

    caller.nft("delete table ip router");
    let delete = ["address", "delete", "10.99.1.1/24", "dev", "veth-left"];
    caller.namespace.ip(&delete);
    // With the first address its network's second address went as well.
    let again = ["address", "replace", "10.99.1.11/24", "dev", "veth-left"];
    caller.namespace.ip(&again);
    assert!(
        answers_within(&caller, "10.98.1.2", NOTICED),
        "another address"
    );
    assert_eq!(endpoint(&called), "10.99.1.11:51999");
    assert!(called.pings("10.98.1.1"), "and back");
    // wireguard-go goes on sending from the address that it was called at. Once that is gone it can send nothing until
    // it has waited 15 s for an answer; then it forgets the address and calls.
    let stuck = left == Implementation::WireguardGo
        && (caller.daemon.as_mut().unwrap()).printed("Failed to send data packet");
    let expected = u64::from(stuck);
    assert_eq!(called.counted(&["initiations"]), [expected], "{stuck}");
}

#[test]
fn roams_under_wireguard_go() {
    roams("roam-o", Implementation::Ipsx, Implementation::WireguardGo);
}

#[test]
fn follows_a_wireguard_go_that_roams() {
    roams("roam-i", Implementation::WireguardGo, Implementation::Ipsx);
}

/// Kills an end's program and starts it anew, with the same keys and nothing else.
fn restart(
    end: &mut End,
    other: &End,
    implementation: Implementation,
    calls: bool,
    folder: &std::path::Path,
) {
    end.daemon.take().unwrap().kill();
    fs::remove_file(end.socket()).unwrap();
    end.start(implementation);
    end.configure(other, calls, folder);
}

/// First the caller is killed, which calls again, then the called one, which can only wait to be called.
fn comes_back(test: &str, left: Implementation, right: Implementation) {
    let (mut caller, mut called, folder) = working(test, left, right);
    restart(&mut caller, &called, left, true, folder.path());
    assert!(answers_within(&caller, "10.98.1.2", NOTICED), "the caller");
    assert!(called.pings("10.98.1.1"), "the caller is called back");
    restart(&mut called, &caller, right, false, folder.path());
    assert_eq!(
        called
            .wg(&["show", &called.interface, "endpoints"])
            .split('\t')
            .nth(1)
            .unwrap()
            .trim(),
        "(none)"
    );
    assert!(answers_within(&caller, "10.98.1.2", NOTICED), "the called");
    assert_eq!(endpoint(&called), format!("10.99.1.1:{PORT}"));
    assert!(called.pings("10.98.1.1"));
}

#[test]
fn either_side_comes_back_when_it_calls_wireguard_go() {
    comes_back("back-o", Implementation::Ipsx, Implementation::WireguardGo);
}

#[test]
fn either_side_comes_back_when_wireguard_go_calls() {
    comes_back("back-i", Implementation::WireguardGo, Implementation::Ipsx);
}
