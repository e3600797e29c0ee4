//! A stock WireGuard client in a namespace of its own uses a lease by the exported configuration, while `ipsx`
//! pays; what was metered agrees with what curl and iperf3 say they moved.
//!
//! ```text
//! requester 10.99.0.1 ──── 10.99.0.2 provider and broker 10.98.0.1 ──── 10.98.0.2 web
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::namespace::Namespace;
use ipsx_tests::program::{Program, built};
use ipsx_tests::{stock_client, web};
use serde_json::Value;

const WEB: &str = "10.98.0.2";
const DOWNLOAD: u64 = 30_000_000;
const UPLOAD: usize = 10_000_000;
/// Metered bytes are inner IP packets: headers of IP and TCP (at least 40 bytes in 1,420) and acknowledgements come
/// on top of what curl and iperf3 count.
const OVERHEAD: f64 = 1.08;

struct Topology {
    requester: Namespace,
    provider: Namespace,
    web: Namespace,
}

/// `test` keeps the tests of this process apart.
fn topology(test: &str) -> Topology {
    let [requester, provider, web] =
        ["requester", "provider", "web"].map(|name| Namespace::new(&format!("{test}-{name}")));
    requester.join(
        ("veth-out", "10.99.0.1/24"),
        &provider,
        ("veth-lease", "10.99.0.2/24"),
    );
    provider.join(
        ("veth-wan", "10.98.0.1/24"),
        &web,
        ("veth-web", &format!("{WEB}/24")),
    );
    // The leased address is the provider's own, 10.99.0.2; the web must know the way back to it.
    web.ip(&["route", "add", "10.99.0.2/32", "via", "10.98.0.1"]);
    Topology {
        requester,
        provider,
        web,
    }
}

fn bytes(statement: &Value, key: &str) -> f64 {
    statement[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {statement}")) as f64
}

/// A lease that a stock client uses, with a web server and iperf3 at its far end.
struct Leased {
    net: Topology,
    market: Market,
    requester: Wallet,
    payer: Program,
    /// Taken down in this order: what uses the lease goes first.
    _servers: [Program; 2],
    _client: Program,
    _provider: Program,
}

/// Leases from a provider that is started with these words besides.
fn lease(test: &str, words: &[&str]) -> Leased {
    let net = topology(test);
    // Which namespace a program runs in follows from whose it is.
    let provider_side = net.provider.name().to_owned();
    let requester_side = net.requester.name().to_owned();
    let inside = move |program: &str| {
        let side = if program == "ipsx:requester" {
            &requester_side
        } else {
            &provider_side
        };
        let binary = built(program.split(':').next().unwrap());
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", side])
            .arg(binary.get_program());
        command
    };
    let mut market = Market::new("10.99.0.2", &[("10.99.0.0/24", "FR")], Box::new(inside));
    let provider_wallet = market.wallet("provider");
    let requester = market.wallet("requester");
    market.start_broker();
    let rules = [
        "--price-per-second",
        "0.001",
        "--tier",
        "open",
        "--allow",
        "10.98.0.2/32:any/*",
    ];
    let words = [&rules[..], words].concat();
    let provider = market.start_provider(&provider_wallet, "10.99.0.2", &words);
    market.run(&requester, &["deposit", "10"]);

    let file = market.path().join("lease.conf");
    let file_text = file.to_str().unwrap();
    let mut payer = Program::start(
        "connect --export",
        &mut market.ipsx_as(
            "ipsx:requester",
            &requester.data,
            &[
                "connect",
                "--country",
                "FR",
                "--duration",
                "1m",
                "--budget",
                "1",
                "--export",
                "wg",
                file_text,
            ],
        ),
    );
    payer.wait_for("lease.conf", SOON);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the file holds a private key");

    let interface = format!("ipsx{}{}", words.len(), std::process::id() % 100_000);
    let client = stock_client::start(&net.requester, &interface, &file, &[WEB, "2000::/3"]);
    let mut server = net.web.command("iperf3");
    let mut iperf3 = Program::start("iperf3", server.args(["--server", "--forceflush"]));
    iperf3.wait_for("Server listening", SOON);
    let mut origin = net.web.command(env!("CARGO_BIN_EXE_origin"));
    let origin = Program::start("origin", origin.arg("0.0.0.0:8080"));
    Leased {
        net,
        market,
        requester,
        payer,
        _servers: [iperf3, origin],
        _client: client,
        _provider: provider,
    }
}

#[test]
fn wireguard_go_downloads_through_a_lease_and_the_bytes_agree() {
    let leased = lease("bytes", &["--mbit-up", "1000", "--mbit-down", "1000"]);
    let Leased {
        net,
        market,
        requester: requester_wallet,
        payer,
        ..
    } = leased;
    let url = format!("http://{WEB}:8080/");
    let mut curl = net.requester.command("curl");
    let seen = web::run(curl.args(["--retry", "5", "--retry-connrefused"]), &url);
    assert_eq!(
        seen.body, "10.99.0.2",
        "the web sees the leased address: {seen:?}"
    );
    let large = web::run(
        &mut net.requester.command("curl"),
        &format!("{url}bytes/{DOWNLOAD}"),
    );
    assert_eq!(large.size, DOWNLOAD, "{:?}", large.code);
    let body = market.path().join("upload");
    fs::write(&body, vec![b'u'; UPLOAD]).unwrap();
    let mut curl = net.requester.command("curl");
    let upload = web::run(curl.arg("--upload-file").arg(&body), &url);
    assert_eq!(upload.body, UPLOAD.to_string(), "{upload:?}");
    let iperf3 = net
        .requester
        .command("iperf3")
        .args(["--client", WEB, "--bytes", "10M", "--json"])
        .output()
        .unwrap();
    let iperf3: Value = serde_json::from_slice(&iperf3.stdout).unwrap();
    // iperf3 ends when all is written, not when all has arrived: the truth lies between its two ends.
    let moved_up = ["sum_received", "sum_sent"]
        .map(|end| UPLOAD as f64 + iperf3["end"][end]["bytes"].as_u64().unwrap() as f64);

    payer.signal("INT");
    let ended = payer.finish(Duration::from_secs(30));
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let leases = market.run(&requester_wallet, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap().to_owned();
    let statement = &market.run(&requester_wallet, &["statement", &id])["totals"];
    let (down, up) = (bytes(statement, "bytes_down"), bytes(statement, "bytes_up"));
    let moved_down = DOWNLOAD as f64;
    assert!(
        (moved_down..moved_down * OVERHEAD).contains(&down),
        "down {down} for {moved_down}"
    );
    // Acknowledgements of the download go up too: one packet of 52 bytes for every two of 1,420.
    let acknowledgements = moved_down * 0.03;
    let most = moved_up[1] * OVERHEAD + acknowledgements;
    assert!(
        (moved_up[0]..most).contains(&up),
        "up {up} for {moved_up:?}"
    );
    println!(
        "metered/moved: down {:.4}, up {:.4} to {:.4}",
        down / moved_down,
        up / moved_up[1],
        up / moved_up[0]
    );
}

/// What the provider sells is what it carries; and whoever runs it sees the lease in `wg show`, and can change nothing.
#[test]
fn a_lease_is_held_to_its_rates_and_watched_by_wg() {
    let name = format!("watch{}", std::process::id() % 100_000);
    let leased = lease(
        "rates",
        &["--mbit-up", "10", "--mbit-down", "30", "--uapi", &name],
    );
    let iperf3 = |reverse: bool| {
        let mut command = leased.net.requester.command("iperf3");
        command.args(["--client", WEB, "--time", "5", "--omit", "1", "--json"]);
        if reverse {
            command.arg("--reverse");
        }
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap_or_else(|| panic!("iperf3 says {report:#}"))
            / 1e6
    };
    let (up, down) = (iperf3(false), iperf3(true));
    println!("Mbit/s: up {up:.2} of 10, down {down:.2} of 30");
    // The rates are those of inner IP packets, whose headers iperf3 does not count.
    // An upload learns of its limit by losses, which cost it some of the rate; a download waits.
    assert!((3.0..10.2).contains(&up), "up {up} Mbit/s");
    assert!((20.0..30.2).contains(&down), "down {down} Mbit/s");

    // The lease carries no IPv6, and says so instead of keeping anybody waiting; nor does IPv6 leave beside the tunnel.
    let started = Instant::now();
    let mut curl = leased.net.requester.command("curl");
    curl.args(["--silent", "--globoff", "--max-time", "20"]);
    let refused = curl.arg("http://[2606:4700::1111]/").status().unwrap();
    assert_eq!(refused.code(), Some(7), "curl could not connect");
    assert!(started.elapsed() < Duration::from_secs(5));

    let wg = |words: &[&str]| Command::new("wg").args(words).output().unwrap();
    let dump = wg(&["show", &name, "dump"]);
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    let lines: Vec<Vec<_>> = dump.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 2, "{dump}");
    assert_eq!(lines[0][0], "(none)", "the private key is told: {dump}");
    assert_eq!(lines[1][1], "(none)");
    assert!(lines[1][2].starts_with("10.99.0.1:"), "{dump}");
    let sent: u64 = lines[1][6].parse().unwrap();
    assert!(sent > 10_000_000, "{dump}");
    let peer = lines[1][0];
    for words in [
        &["set", &name, "listen-port", "1"][..],
        &["set", &name, "peer", peer, "remove"],
    ] {
        let refused = wg(words);
        assert!(!refused.status.success(), "{words:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("not permitted"), "{said}");
    }
    let after = wg(&["show", &name, "peers"]);
    assert_eq!(String::from_utf8_lossy(&after.stdout).trim(), peer);
}
