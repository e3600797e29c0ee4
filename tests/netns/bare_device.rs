//! `ipsx tunnel` as a drop-in for wireguard-go: against it in both roles, against itself, and by `wg` alone.
//!
//! ```text
//! left 10.99.1.1 ──── 10.99.1.2 right        inside: 10.98.1.1, fd98::1 ──── 10.98.1.2, fd98::2
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::time::Duration;

use ipsx_tests::end::{End, Implementation, PORT, SOON, sh, two_ends};
use ipsx_tests::namespace::run;
use ipsx_tests::origin::noise;
use ipsx_tests::program::{Program, built};
use serde_json::Value;

/// Bytes fetched and compared, in each direction and over both IP versions.
const FETCHED: usize = 8 << 20;

/// Everything that two ends have to do for each other; the left one calls.
fn work_together(test: &str, left: Implementation, right: Implementation) {
    let (mut caller, mut called, folder) = two_ends(test);
    caller.start(left);
    called.start(right);
    caller.configure(&called, true, folder.path());
    called.configure(&caller, false, folder.path());
    assert!(caller.pings("10.98.1.2"), "{left:?} can't reach {right:?}");
    assert!(called.pings("fd98::1"), "{right:?} can't reach {left:?}");
    for (from, to) in [(&caller, &called), (&called, &caller)] {
        data_arrives_intact(from, to);
    }
    for reverse in [false, true] {
        let moved = iperf3(&caller, &called, reverse);
        assert!(
            moved > 1_000_000,
            "iperf3 moved {moved} bytes, reverse {reverse}"
        );
    }
    for (end, implementation) in [(&caller, left), (&called, right)] {
        if implementation == Implementation::Ipsx {
            packets_cross_the_interface_joined(end);
        }
    }
    both_say_the_same(&caller, &called);
}

fn data_arrives_intact(from: &End, to: &End) {
    let mut origin = from.namespace.command(env!("CARGO_BIN_EXE_origin"));
    let _origin = Program::start("origin", origin.arg("[::]:8080"));
    for host in [
        format!("10.98.1.{}", from.number),
        format!("[fd98::{}]", from.number),
    ] {
        let mut curl = to.namespace.command("curl");
        let url = format!("http://{host}:8080/noise/{FETCHED}");
        curl.args(["--silent", "--globoff", "--max-time", "60", "--retry", "20"]);
        let fetched = curl
            .args(["--retry-connrefused", "--retry-delay", "1", &url])
            .output()
            .unwrap();
        assert!(
            fetched.stdout == noise(FETCHED),
            "{} of {FETCHED} bytes arrived from {host}, or others: {}",
            fetched.stdout.len(),
            fetched.status
        );
    }
}

/// Bytes that one connection moves within two seconds.
fn iperf3(client: &End, server: &End, reverse: bool) -> u64 {
    let mut command = server.namespace.command("iperf3");
    let mut listening = Program::start(
        "iperf3",
        command.args(["--server", "--one-off", "--forceflush"]),
    );
    listening.wait_for("Server listening", SOON);
    let mut command = client.namespace.command("iperf3");
    let address = format!("10.98.1.{}", server.number);
    command.args(["--client", &address, "--time", "2", "--json"]);
    if reverse {
        command.arg("--reverse");
    }
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["end"]["sum_received"]["bytes"]
        .as_u64()
        .unwrap_or_else(|| panic!("iperf3 says {report:#}"))
}

/// What a program writes is cut by the device, and what arrived is joined by it: on average a packet at the interface is
/// longer than any that crosses the network.
fn packets_cross_the_interface_joined(end: &End) {
    for direction in ["rx", "tx"] {
        let figure = |what: &str| -> u64 {
            let file = format!(
                "/sys/class/net/{}/statistics/{direction}_{what}",
                end.interface
            );
            let mut cat = end.namespace.command("cat");
            let output = cat.arg(file).output().unwrap();
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        let (bytes, packets) = (figure("bytes"), figure("packets"));
        assert!(
            bytes > 1_500 * packets,
            "{direction}: {bytes} bytes in {packets} packets at {}",
            end.interface
        );
    }
}

fn both_say_the_same(left: &End, right: &End) {
    // What is under way arrives.
    std::thread::sleep(Duration::from_millis(500));
    for (a, b) in [(left, right), (right, left)] {
        let ((received, _), (_, sent)) = (a.transfer(), b.transfer());
        // A busy machine loses datagrams on the way.
        assert!(
            received <= sent && received > sent / 2,
            "{received} of {sent} bytes arrived at {}",
            a.interface
        );
        assert!(received > 2 * FETCHED as u64, "{received}");
        let dump = a.wg(&["show", &a.interface, "dump"]);
        let peer: Vec<_> = dump.lines().nth(1).unwrap().split('\t').collect();
        assert_eq!(peer[0], b.public_key);
        assert_eq!(peer[2], format!("10.99.1.{}:{PORT}", b.number));
        assert_eq!(
            peer[3],
            format!("10.98.1.{n}/32,fd98::{n}/128", n = b.number)
        );
        let handshake: u64 = peer[4].parse().unwrap();
        let now: u64 = sh("date +%s").parse().unwrap();
        assert!(
            (now - 120..=now).contains(&handshake),
            "{handshake} at {now}"
        );
    }
}

#[test]
fn calls_wireguard_go() {
    work_together("out", Implementation::Ipsx, Implementation::WireguardGo);
}

#[test]
fn is_called_by_wireguard_go() {
    work_together("in", Implementation::WireguardGo, Implementation::Ipsx);
}

#[test]
fn works_with_itself() {
    work_together("self", Implementation::Ipsx, Implementation::Ipsx);
}

#[test]
fn wg_changes_it_while_it_runs_and_peers_roam() {
    let (mut left, mut right, folder) = two_ends("wg");
    left.start(Implementation::Ipsx);
    right.start(Implementation::WireguardGo);
    left.configure(&right, false, folder.path());
    right.configure(&left, true, folder.path());
    assert!(right.pings("10.98.1.1"));

    // Another port and a mark; the other end learns it from the next packet.
    left.wg(&[
        "set",
        &left.interface,
        "listen-port",
        "51999",
        "fwmark",
        "0x7",
    ]);
    assert!(left.pings("10.98.1.2"), "roaming");
    let endpoints = right.wg(&["show", &right.interface, "endpoints"]);
    assert!(endpoints.contains("10.99.1.1:51999"), "{endpoints}");
    assert_eq!(left.wg(&["show", &left.interface, "fwmark"]).trim(), "0x7");

    // A key for both, then for one only.
    let shared = folder.path().join("shared");
    fs::write(&shared, run("wg", &["genpsk"])).unwrap();
    let share = |end: &End, other: &End, file: &str| {
        end.wg(&[
            "set",
            &end.interface,
            "peer",
            &other.public_key,
            "preshared-key",
            file,
        ]);
    };
    share(&left, &right, shared.to_str().unwrap());
    share(&right, &left, shared.to_str().unwrap());
    // wireguard-go keeps its session, which the other end has forgotten, until it hears a handshake.
    assert!(left.pings("10.98.1.2"), "with a key for both");
    share(&left, &right, "/dev/null");
    assert!(!left.pings("10.98.1.2"), "the keys differ");
    share(&left, &right, shared.to_str().unwrap());

    let peer = ["set", &left.interface, "peer", &right.public_key];
    left.wg(&[&peer[..], &["persistent-keepalive", "25"]].concat());
    let keepalive = left.wg(&["show", &left.interface, "persistent-keepalive"]);
    assert_eq!(keepalive.trim(), format!("{}\t25", right.public_key));

    // Addresses, a peer and the own key are taken away.
    left.wg(&[&peer[..], &["allowed-ips", "10.98.1.9/32"]].concat());
    assert!(!left.pings("10.98.1.2"), "the address is no peer's");
    left.wg(&[&peer[..], &["remove"]].concat());
    assert_eq!(left.wg(&["show", &left.interface, "peers"]), "");
    left.wg(&["set", &left.interface, "private-key", "/dev/null"]);
    assert_eq!(
        left.wg(&["show", &left.interface, "private-key"]).trim(),
        "(none)"
    );
}

#[test]
fn ends_as_it_should() {
    let mut end = End::new("end", 1);
    for signal in ["TERM", "INT"] {
        end.start(Implementation::Ipsx);
        let second = Program::start("second", &mut end.command(Implementation::Ipsx));
        let refused = second.finish(SOON);
        assert_eq!(refused.code, Some(2), "{refused:#?}");
        let daemon = end.daemon.take().unwrap();
        daemon.signal(signal);
        let finished = daemon.finish(SOON);
        assert_eq!(finished.code, Some(0), "{signal}: {finished:#?}");
        assert!(!end.socket().exists(), "the socket is left after {signal}");
    }
    // Deleted by somebody else.
    end.start(Implementation::Ipsx);
    end.namespace.ip(&["link", "delete", &end.interface]);
    let finished = end.daemon.take().unwrap().finish(SOON);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(finished.stdout.join("\n").contains("was deleted"));
    // Killed: what it left behind is in nobody's way.
    end.start(Implementation::Ipsx);
    end.daemon.take().unwrap().kill();
    assert!(end.socket().exists());
    fs::remove_file(end.socket()).unwrap();
    end.start(Implementation::Ipsx);
}

#[test]
fn says_which_privilege_is_missing() {
    let end = End::new("none", 1);
    for (capability, options) in [("net_admin", &[][..]), ("sys_nice", &["--realtime"])] {
        let without = format!("-{capability}");
        let mut command = end.namespace.command("setpriv");
        command
            .args(["--bounding-set", &without, "--inh-caps", &without])
            .arg(built("ipsx").get_program())
            .arg("tunnel")
            .args(options)
            .arg(&end.interface);
        let finished = Program::start("ipsx without privilege", &mut command).finish(SOON);
        assert_eq!(finished.code, Some(2), "{finished:#?}");
        let name = format!("CAP_{}", capability.to_uppercase());
        assert!(finished.stderr.contains(&name), "{finished:#?}");
        assert!(!end.socket().exists());
        let interfaces = end.namespace.command("ip").arg("link").output().unwrap();
        let interfaces = String::from_utf8(interfaces.stdout).unwrap();
        assert!(!interfaces.contains(&end.interface), "{interfaces}");
    }
}

/// `SCHED_RR` as proc(5) has it.
const ROUND_ROBIN: &str = "2";

#[test]
fn only_what_moves_packets_runs_ahead() {
    let end = End::new("ahead", 1);
    let mut command = end.command(Implementation::Ipsx);
    let mut daemon = Program::start("ahead", command.args(["--realtime", "--workers", "2"]));
    daemon.wait_for("ready for", SOON);
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
    let policies: Vec<_> = tasks
        .map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            // The name is in brackets, and may have any characters.
            let (head, tail) = stat.rsplit_once(") ").unwrap();
            let name = head.split_once('(').unwrap().1.to_owned();
            (name, tail.split(' ').nth(38).unwrap().to_owned())
        })
        .collect();
    for (name, policy) in &policies {
        assert_eq!(policy == ROUND_ROBIN, name == "ipsx-tunnel", "{policies:?}");
    }
    let ahead = policies.iter().filter(|(_, policy)| policy == ROUND_ROBIN);
    assert_eq!(ahead.count(), 2, "{policies:?}");
}
