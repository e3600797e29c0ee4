//! `ipsx tunnel` with several workers: many peers at once, each with packets that begin at either end.
//!
//! ```text
//! peer n   10.99.n.2 ──── 10.99.n.1   hub        inside: 10.98.2.n ──── 10.98.2.1
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::origin::noise;
use ipsx_tests::program::{Program, built};

const SOON: Duration = Duration::from_secs(30);
const FETCHED: usize = 2 << 20;
const PEERS: u8 = 5;

/// A namespace with an interface in it.
struct End {
    namespace: Namespace,
    interface: String,
    key: String,
    public_key: String,
    _daemon: Option<Program>,
}

impl End {
    fn start(label: &str, program: &[&str]) -> Self {
        let key = run("wg", &["genkey"]).trim().to_owned();
        let public_key = run("sh", &["-c", &format!("echo {key} | wg pubkey")]);
        let mut end = Self {
            namespace: Namespace::new(label),
            // Unique on this machine: the control sockets are not in any namespace.
            interface: format!("{label}-{}", std::process::id() % 100_000),
            key,
            public_key: public_key.trim().to_owned(),
            _daemon: None,
        };
        let mut command = end.namespace.command(program[0]);
        command.args(&program[1..]).arg(&end.interface);
        let daemon = Program::start(label, &mut command);
        let started = Instant::now();
        while !end.socket().exists() {
            let said = daemon.stderr();
            assert!(started.elapsed() < SOON, "no control socket: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        end._daemon = Some(daemon);
        end
    }

    fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    fn configure(&self, port: u16, address: &str, peers: &str, folder: &Path) {
        let key = &self.key;
        let text = format!("[Interface]\nPrivateKey = {key}\nListenPort = {port}\n{peers}");
        let file = folder.join(format!("{}.conf", self.interface));
        fs::write(&file, text).unwrap();
        self.wg(&["setconf", &self.interface, file.to_str().unwrap()]);
        self.namespace
            .ip(&["address", "add", address, "dev", &self.interface]);
        self.namespace.ip(&["link", "set", &self.interface, "up"]);
    }

    fn wg(&self, words: &[&str]) -> String {
        output(self.namespace.command("wg").args(words))
    }

    fn pings(&self, address: &str) -> bool {
        let mut ping = self.namespace.command("ping");
        ping.args(["-c", "3", "-i", "0.2", "-W", "5", address]);
        ping.output().unwrap().status.success()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A program that is killed leaves its control socket behind.
        self._daemon = None;
        let _ = fs::remove_file(self.socket());
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The hub and its peers, configured; half of them are called, half call.
fn star() -> (End, Vec<End>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ipsx = built("ipsx").get_program().to_str().unwrap().to_owned();
    let hub = End::start("hub", &[&ipsx, "tunnel", "--workers", "3"]);
    let mut peers = Vec::new();
    let mut of_hub = String::new();
    for n in 1..=PEERS {
        let label = format!("spoke{n}");
        // Another implementation, and our own with two workers that call each other's.
        let peer = if n % 2 == 0 {
            End::start(&label, &["wireguard-go", "--foreground"])
        } else {
            End::start(&label, &[&ipsx, "tunnel", "--workers", "2"])
        };
        hub.namespace.join(
            (&format!("veth-{n}"), &format!("10.99.{n}.1/24")),
            &peer.namespace,
            ("veth-hub", &format!("10.99.{n}.2/24")),
        );
        of_hub += &format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = 10.98.2.{}/32\n",
            peer.public_key,
            n + 1
        );
        if n > PEERS / 2 {
            of_hub += &format!("Endpoint = 10.99.{n}.2:51820\n");
        }
        let of_peer = format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = 10.98.2.0/24\nEndpoint = 10.99.{n}.1:51820\n",
            hub.public_key
        );
        let address = format!("10.98.2.{}/24", n + 1);
        peer.configure(51820, &address, &of_peer, folder.path());
        peers.push(peer);
    }
    hub.configure(51820, "10.98.2.1/24", &of_hub, folder.path());
    (hub, peers, folder)
}

#[test]
fn many_peers_share_several_workers() {
    let (hub, peers, _folder) = star();
    for (peer, n) in peers.iter().zip(2u8..) {
        if n > 1 + PEERS / 2 {
            assert!(hub.pings(&format!("10.98.2.{n}")), "the hub calls {n}");
        }
        assert!(peer.pings("10.98.2.1"), "{n} can't reach the hub");
    }
    everybody_fetches(&hub, &peers);
    counters_agree(&hub, &peers);

    // All move to other ports, and the hub learns it from their next packets, whichever worker hears them.
    for peer in &peers {
        peer.wg(&["set", &peer.interface, "listen-port", "51999"]);
        assert!(peer.pings("10.98.2.1"), "roaming");
    }
    let endpoints = hub.wg(&["show", &hub.interface, "endpoints"]);
    assert_eq!(
        endpoints.matches(":51999").count(),
        peers.len(),
        "{endpoints}"
    );
    // The hub moves as well.
    hub.wg(&["set", &hub.interface, "listen-port", "51777"]);
    for n in 2..2 + PEERS {
        assert!(hub.pings(&format!("10.98.2.{n}")), "the hub moved");
    }

    // New handshakes: the sessions' keys change, at both ends.
    let shared = run("wg", &["genpsk"]);
    let file = _folder.path().join("shared");
    fs::write(&file, shared).unwrap();
    for (peer, n) in peers.iter().zip(2u8..) {
        for (end, other) in [(&hub, peer), (peer, &hub)] {
            let file = file.to_str().unwrap();
            let key = &other.public_key;
            end.wg(&["set", &end.interface, "peer", key, "preshared-key", file]);
        }
        assert!(hub.pings(&format!("10.98.2.{n}")), "with another key");
    }
    everybody_fetches(&hub, &peers);

    // One goes; the others, and their addresses, stay.
    let gone = &peers[0].public_key;
    hub.wg(&["set", &hub.interface, "peer", gone, "remove"]);
    assert!(!peers[0].pings("10.98.2.1"));
    assert!(peers[1].pings("10.98.2.1"));
    let shown = hub.wg(&["show", &hub.interface, "peers"]);
    assert_eq!(shown.lines().count(), peers.len() - 1);
}

/// Packets of the connection that fills its queue, and others with one packet each.
const BULK: usize = 300;
const OTHERS: usize = 16;

#[test]
fn a_full_connection_delays_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let ipsx = built("ipsx").get_program().to_str().unwrap().to_owned();
    let program = [&ipsx, "tunnel", "--workers", "1"];
    let (from, to) = (End::start("lane1", &program), End::start("lane2", &program));
    from.namespace.join(
        ("veth-1", "10.99.1.1/24"),
        &to.namespace,
        ("veth-2", "10.99.1.2/24"),
    );
    for (end, other, n) in [(&from, &to, 1), (&to, &from, 2)] {
        let peer = format!(
            "[Peer]\nPublicKey = {}\nAllowedIPs = 10.98.1.0/24\nEndpoint = 10.99.1.{}:51820\n",
            other.public_key,
            3 - n
        );
        end.configure(51820, &format!("10.98.1.{n}/24"), &peer, folder.path());
    }
    assert!(from.pings("10.98.1.2"));
    let mut arrivals = to.namespace.command(env!("CARGO_BIN_EXE_arrivals"));
    let mut arrivals = Program::start("arrivals", &mut arrivals);
    arrivals.wait_for("listening", SOON);

    // All of them wait at the interface, whose program stands still.
    let daemon = from._daemon.as_ref().unwrap();
    daemon.signal("STOP");
    let mut shell = from.namespace.command("bash");
    let to_receiver = "/dev/udp/10.98.1.2/7000";
    shell.arg("-c").arg(format!(
        "b=$(head -c 1300 /dev/zero | tr '\\0' b); exec 3>{to_receiver}
         for i in $(seq {BULK}); do printf %s $b >&3; done
         for i in $(seq {OTHERS}); do printf o >{to_receiver}; done"
    ));
    output(&mut shell);
    daemon.signal("CONT");

    let said = arrivals.wait_for("arrived ", SOON);
    let arrived = said.trim_start_matches("arrived ").trim();
    // The receiver may lose some of the bulk. Of the others each shares its queue with a probability of one in sixteen, and
    // waits for 47 packets otherwise.
    let (first, rest) = arrived.split_at(arrived.len().min(47 + OTHERS));
    let overtook = first.matches('o').count();
    assert!(overtook > OTHERS * 2 / 3 && rest.contains('b'), "{arrived}");
}

/// All at once, from the hub and to the hub.
fn everybody_fetches(hub: &End, peers: &[End]) {
    let origin = |end: &End| {
        let mut origin = end.namespace.command(env!("CARGO_BIN_EXE_origin"));
        Program::start("origin", origin.arg("[::]:8080"))
    };
    let _origins: Vec<Program> = std::iter::once(hub).chain(peers).map(origin).collect();
    std::thread::scope(|scope| {
        for (peer, n) in peers.iter().zip(2u8..) {
            let (hub, peer) = (&hub.namespace, &peer.namespace);
            scope.spawn(move || fetch(peer, "10.98.2.1"));
            scope.spawn(move || fetch(hub, &format!("10.98.2.{n}")));
        }
    });
}

fn fetch(by: &Namespace, from: &str) {
    let mut curl = by.command("curl");
    curl.args(["--silent", "--max-time", "100", "--retry", "20"]);
    curl.args(["--retry-connrefused", "--retry-delay", "1"]);
    let fetched = curl.arg(format!("http://{from}:8080/noise/{FETCHED}"));
    let fetched = fetched.output().unwrap().stdout;
    assert!(
        fetched == noise(FETCHED),
        "{} bytes from {from}",
        fetched.len()
    );
}

fn counters_agree(hub: &End, peers: &[End]) {
    // What is under way arrives.
    std::thread::sleep(Duration::from_millis(500));
    let counts = |end: &End| -> Vec<(String, u64, u64)> {
        let text = end.wg(&["show", &end.interface, "transfer"]);
        let words = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let key = words.next().unwrap();
            let mut number = || words.next().unwrap().parse().unwrap();
            (key, number(), number())
        };
        text.lines().map(words).collect()
    };
    let of_hub = counts(hub);
    assert_eq!(of_hub.len(), peers.len());
    for peer in peers {
        let (_, received, sent) = counts(peer).remove(0);
        let (_, from, to) = of_hub
            .iter()
            .find(|(key, ..)| *key == peer.public_key)
            .unwrap();
        assert!(*from <= sent && received <= *to);
        assert!(*from > FETCHED as u64 && received > FETCHED as u64);
    }
    let handshakes = hub.wg(&["show", &hub.interface, "latest-handshakes"]);
    assert!(!handshakes.contains("\t0"), "{handshakes}");
}
