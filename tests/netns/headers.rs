//! What the outside headers of a tunnel say: congestion marks are carried both ways (RFC 6040), traffic classes are not
//! told. Counted by the kernel's packet filter on the wire and at the interface. And what is too long for the way.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use ipsx_tests::end::{End, Implementation, SOON, two_ends};
use ipsx_tests::namespace::Namespace;
use ipsx_tests::origin::noise;
use ipsx_tests::program::Program;

/// Expedited forwarding (DSCP 46), and the two bits of a mark.
const EF: u8 = 46 << 2;

/// Packets that arrive, by mark and class, inside and outside; and what a congested router does to the datagrams.
const COUNTERS: &str = "table inet seen {
    counter outside_not_ect {}
    counter outside_ect0 {}
    counter outside_ce {}
    counter outside_class {}
    counter inside_not_ect {}
    counter inside_ect0 {}
    counter inside_ce {}
    counter inside_class {}
    chain router {
        type filter hook prerouting priority -300;
    }
    chain outside {
        type filter hook prerouting priority -200;
        meta l4proto != udp return
        udp dport != 51820 return
        ip ecn not-ect counter name outside_not_ect
        ip ecn ect0 counter name outside_ect0
        ip ecn ce counter name outside_ce
        ip dscp != cs0 counter name outside_class
    }
    chain inside {
        type filter hook prerouting priority -200;
        icmp type echo-request jump marks
        icmpv6 type echo-request jump marks
    }
    chain marks {
        ip ecn not-ect counter name inside_not_ect
        ip ecn ect0 counter name inside_ect0
        ip ecn ce counter name inside_ce
        ip dscp ef counter name inside_class
        ip6 ecn not-ect counter name inside_not_ect
        ip6 ecn ect0 counter name inside_ect0
        ip6 ecn ce counter name inside_ce
        ip6 dscp ef counter name inside_class
    }
}
";

/// Sends five pings of this type of service, and tells how many were answered.
fn ping(end: &End, address: &str, tos: u8) -> usize {
    let mut command = end.namespace.command("ping");
    let output = command
        .args(["-c", "5", "-i", "0.1", "-W", "2", "-Q", &tos.to_string()])
        .arg(address)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.matches("bytes from").count()
}

#[test]
fn marks_cross_the_tunnel_and_classes_stay_inside() {
    let (mut left, mut right, folder) = two_ends("ecn");
    for end in [&mut left, &mut right] {
        end.start(Implementation::Ipsx);
    }
    left.configure(&right, true, folder.path());
    right.configure(&left, true, folder.path());
    assert!(left.pings("10.98.1.2"));
    right.nft(COUNTERS);

    // The mark is on the datagram as on the packet; the class is on the packet alone.
    for address in ["10.98.1.2", "fd98::2"] {
        assert_eq!(ping(&left, address, EF | 0b10), 5);
        let names = ["outside_ect0", "inside_ect0", "inside_class"];
        assert_eq!(right.counted(&names), [5, 5, 5], "to {address}");
    }
    assert_eq!(ping(&left, "10.98.1.2", EF), 5);
    let names = [
        "outside_ect0",
        "outside_ce",
        "outside_class",
        "inside_not_ect",
        "inside_class",
    ];
    assert_eq!(right.counted(&names), [0, 0, 0, 5, 5]);

    // A congested router: who understands the mark gets it, who does not loses the packet.
    right.nft("add rule inet seen router udp dport 51820 ip ecn set ce");
    for address in ["10.98.1.2", "fd98::2"] {
        assert_eq!(ping(&left, address, EF | 0b10), 5);
        let names = ["outside_ce", "inside_ce", "inside_ect0", "inside_class"];
        assert_eq!(right.counted(&names), [5, 5, 0, 5], "to {address}");
        assert_eq!(ping(&left, address, 0), 0);
        let names = ["inside_ce", "inside_not_ect"];
        assert_eq!(right.counted(&names), [0, 0], "to {address}");
    }
}

/// The longest IP packet of the second link, less than a full packet of the tunnel needs outside.
const NARROW: &str = "1300";

/// Puts a router between two ends, whose link to the right one is narrow.
fn routed(left: &End, right: &End) -> Namespace {
    let router = Namespace::new("mtu-router");
    for (end, inside) in [(left, "to-left"), (right, "to-right")] {
        let own = format!("10.99.1.{}", end.number);
        end.namespace.join(
            ("veth-out", &format!("{own}/32")),
            &router,
            (inside, "10.99.2.1/32"),
        );
        end.namespace
            .ip(&["route", "add", "10.99.2.1/32", "dev", "veth-out"]);
        end.namespace
            .ip(&["route", "add", "10.99.1.0/24", "via", "10.99.2.1"]);
        router.ip(&["route", "add", &format!("{own}/32"), "dev", inside]);
    }
    right
        .namespace
        .ip(&["link", "set", "veth-out", "mtu", NARROW]);
    router.ip(&["link", "set", "to-right", "mtu", NARROW]);
    let mut forward = router.command("sysctl");
    let forward = forward.args(["-qw", "net.ipv4.ip_forward=1"]).status();
    assert!(forward.unwrap().success());
    router
}

/// Whether a ping of this many bytes, IP header included, that must not be cut is answered; and what ping says.
fn whole_ping(end: &End, address: &str, bytes: usize) -> (bool, String) {
    let mut command = end.namespace.command("ping");
    let payload = bytes - if address.contains(':') { 48 } else { 28 };
    command.args(["-M", "do", "-c", "1", "-W", "2", "-s", &payload.to_string()]);
    let output = command.arg(address).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// A narrow way loses nothing for long: datagrams are cut, and senders inside the tunnel hear what fits.
#[test]
fn senders_learn_what_the_way_takes() {
    const BYTES: usize = 4 << 20;
    let (mut left, mut right) = (End::new("mtu-l", 1), End::new("mtu-r", 2));
    let folder = tempfile::tempdir().unwrap();
    let _router = routed(&left, &right);
    for end in [&mut left, &mut right] {
        end.start(Implementation::Ipsx);
    }
    left.configure(&right, true, folder.path());
    right.configure(&left, true, folder.path());
    assert!(left.pings("10.98.1.2"));

    let mut origin = left.namespace.command(env!("CARGO_BIN_EXE_origin"));
    let _origin = Program::start("origin", origin.arg("[::]:8080"));
    for host in ["10.98.1.1", "[fd98::1]"] {
        let mut curl = right.namespace.command("curl");
        let url = format!("http://{host}:8080/noise/{BYTES}");
        curl.args([
            "--silent",
            "--globoff",
            "--retry-max-time",
            "20",
            "--retry",
            "9",
            "--retry-connrefused",
        ]);
        curl.args(["--max-time", &SOON.as_secs().to_string(), &url]);
        let fetched = curl.output().unwrap();
        assert!(
            fetched.stdout == noise(BYTES),
            "{} of {BYTES} bytes arrived from {host}",
            fetched.stdout.len()
        );
    }
    // 1,300 less 20 of IP, 8 of UDP, 32 of WireGuard, and padding to 16; IPv6 hosts can't be asked for less than 1,280.
    for (address, fits) in [("10.98.1.2", 1232), ("fd98::2", 1280)] {
        let (answered, said) = whole_ping(&left, address, fits);
        assert!(answered, "{fits} bytes to {address}: {said}");
        let (answered, said) = whole_ping(&left, address, fits + 1);
        assert!(!answered, "{} bytes to {address}", fits + 1);
        assert!(
            ["mtu = ", "mtu: ", "mtu="]
                .iter()
                .any(|words| said.contains(&format!("{words}{fits}"))),
            "{said}"
        );
    }
}
