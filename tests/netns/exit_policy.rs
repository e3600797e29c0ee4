//! Nothing that an exit must refuse gets out: by neither exit, by no transport, and not even past the process, by the
//! kernel exit's table alone.
//!
//! ```text
//! peer ~~~~ exit 11.0.0.1, 2a00:1::1 ──── 11.0.0.2, 2a00:1::2 world, which answers to every address
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::time::Duration;

use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::program::Program;
use ipsx_tests::refused::{OPEN_V4, OPEN_V6, PACKETS_PER_ADDRESS, refused};
use serde_json::Value;

const PROBE: &str = env!("CARGO_BIN_EXE_policy_probe");
const LONG: Duration = Duration::from_secs(90);

/// What the world counts: what came to the open addresses, and what came to any other.
const COUNTERS: &str = r#"
table inet seen {
    counter open_tcp {}
    counter open_udp {}
    counter open_echo {}
    counter other {}
    chain opened {
        meta l4proto tcp counter name open_tcp accept
        meta l4proto udp counter name open_udp accept
        meta l4proto { icmp, ipv6-icmp } counter name open_echo accept
    }
    chain arriving {
        type filter hook prerouting priority raw; policy accept;
        iifname != "wan" accept
        ip daddr 9.9.9.9 jump opened
        ip6 daddr 2620:fe::9 jump opened
        meta l4proto { tcp, udp } counter name other
        icmp type echo-request counter name other
        icmpv6 type echo-request counter name other
    }
}
"#;

struct Wire {
    exit: Namespace,
    world: Namespace,
    folder: tempfile::TempDir,
}

impl Wire {
    fn new(label: &str) -> Self {
        let [exit, world] = ["exit", "world"].map(|side| Namespace::new(&format!("{label}{side}")));
        exit.join(("wan", "11.0.0.1/24"), &world, ("wan", "11.0.0.2/24"));
        for (namespace, number) in [(&exit, 1), (&world, 2)] {
            let address = format!("2a00:1::{number}/64");
            namespace.ip(&["address", "add", &address, "dev", "wan", "nodad"]);
        }
        exit.ip(&["route", "add", "default", "via", "11.0.0.2"]);
        exit.ip(&["route", "add", "default", "via", "2a00:1::2"]);
        world.ip(&["route", "add", "local", "default", "dev", "lo"]);
        world.ip(&["-6", "route", "add", "local", "default", "dev", "lo"]);
        let rules = tempfile::NamedTempFile::new().unwrap();
        fs::write(rules.path(), COUNTERS).unwrap();
        let loaded = world.command("nft").arg("-f").arg(rules.path()).status();
        assert!(loaded.unwrap().success());
        Self {
            exit,
            world,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Packets that the world has counted by this name.
    fn seen(&self, counter: &str) -> u64 {
        let words = [
            "netns",
            "exec",
            self.world.name(),
            "nft",
            "-j",
            "list",
            "counter",
        ];
        let mut words = words.to_vec();
        words.extend(["inet", "seen", counter]);
        let listed: Value = serde_json::from_str(&run("ip", &words)).unwrap();
        let counters = listed["nftables"].as_array().unwrap();
        counters
            .iter()
            .find_map(|object| object["counter"]["packets"].as_u64())
            .unwrap()
    }

    /// Packets that the kernel exit's table has denied on their way out.
    fn denied(&self) -> u64 {
        let words = [
            "netns",
            "exec",
            self.exit.name(),
            "nft",
            "-j",
            "list",
            "chain",
        ];
        let mut words = words.to_vec();
        words.extend(["inet", "ipsx_ipsx0", "up"]);
        let listed: Value = serde_json::from_str(&run("ip", &words)).unwrap();
        let rules = listed["nftables"].as_array().unwrap().iter();
        let denials = rules.filter_map(|object| {
            let expressions = object["rule"]["expr"].as_array()?;
            let denies = expressions.iter().any(|e| e.get("drop").is_some());
            let mut counters = expressions
                .iter()
                .filter_map(|e| e["counter"]["packets"].as_u64());
            denies.then(|| counters.next()).flatten()
        });
        denials.sum()
    }

    /// Waits until all that is open has come out, which is the last that was sent.
    fn wait_for_open(&self, counters: &[&str]) {
        for counter in counters {
            for _ in 0..200 {
                if self.seen(counter) >= 2 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(
                self.seen(counter) >= 2,
                "{counter}: {OPEN_V4} and {OPEN_V6} are not reached"
            );
        }
    }

    /// Runs the probe through an exit until it reports; it goes on after that.
    fn probe(&self, exit: &str) -> Program {
        let mut command = self.exit.command(PROBE);
        command.args(["through", exit]).arg(self.folder.path());
        let mut probe = Program::start("policy_probe", &mut command);
        let line = probe.wait_for("dropped", LONG);
        let report: Value = serde_json::from_str(&line).unwrap();
        let expected = (refused().len() * PACKETS_PER_ADDRESS) as u64;
        let dropped = report["dropped"].as_object().unwrap();
        let counted: u64 = dropped.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(report["sent"], expected);
        assert_eq!(counted, expected, "every refusal has its reason: {report}");
        for reason in [
            "unspecified",
            "loopback",
            "private",
            "link_local",
            "metadata",
            "carrier_nat",
            "multicast",
            "broadcast",
            "documentation",
            "benchmarking",
            "reserved",
            "unique_local",
            "own_network",
        ] {
            assert!(dropped.contains_key(reason), "none was {reason}: {report}");
        }
        probe
    }
}

#[test]
fn nothing_refused_gets_out_of_the_userspace_exit() {
    let wire = Wire::new("pu");
    let _probe = wire.probe("userspace");
    wire.wait_for_open(&["open_tcp", "open_udp"]);
    assert_eq!(wire.seen("other"), 0);
}

#[test]
fn nothing_refused_gets_out_of_the_kernel_exit_nor_past_its_table_alone() {
    let wire = Wire::new("pk");
    let mut probe = wire.probe("kernel");
    wire.wait_for_open(&["open_tcp", "open_udp", "open_echo"]);
    assert_eq!(wire.seen("other"), 0);

    // The program is gone, its table is not: an interface of the same name takes the place of the one that it judged
    // every packet for.
    probe.kill();
    let before = wire.seen("open_udp");
    let peer = Namespace::new("pkpeer");
    wire.exit
        .join(("ipsx0", "10.77.0.1/16"), &peer, ("out", "10.77.0.2/16"));
    wire.exit
        .ip(&["address", "add", "fd77::1/64", "dev", "ipsx0", "nodad"]);
    peer.ip(&["address", "add", "fd77::2/64", "dev", "out", "nodad"]);
    peer.ip(&["route", "add", "default", "via", "10.77.0.1"]);
    peer.ip(&["route", "add", "default", "via", "fd77::1"]);
    let forward =
        "cd /proc/sys/net; echo 1 > ipv4/conf/ipsx0/forwarding; echo 1 > ipv6/conf/all/forwarding";
    let set = wire.exit.command("sh").args(["-c", forward]).status();
    assert!(set.unwrap().success());
    // The table lets nothing in from there, and so no question of the neighbours for each other's hardware address.
    let hardware = "02:00:00:00:00:01";
    wire.exit.ip(&["link", "set", "ipsx0", "address", hardware]);
    for gateway in ["10.77.0.1", "fd77::1"] {
        peer.ip(&[
            "neigh", "replace", gateway, "lladdr", hardware, "dev", "out",
        ]);
    }
    let sent = peer.command(PROBE).arg("raw").output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    println!(
        "past the process: {}",
        String::from_utf8_lossy(&sent.stdout).trim()
    );
    for _ in 0..200 {
        if wire.seen("open_udp") >= before + 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(wire.seen("open_udp") >= before + 2, "the way out works");
    assert_eq!(wire.seen("other"), 0);
    // The routing code drops the rest by itself: loopback, multicast, and what no packet may have as destination.
    let denied = wire.denied();
    println!("the table denied {denied}");
    assert!(denied > 300, "the table denied only {denied}");
}
