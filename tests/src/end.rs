//! The ends of a plain WireGuard tunnel, each a namespace with an interface in it.
//!
//! ```text
//! left 10.99.1.1 ──── 10.99.1.2 right        inside: 10.98.1.1, fd98::1 ──── 10.98.1.2, fd98::2
//! ```

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::namespace::{Namespace, run};
use crate::program::{Program, built};

/// The port that every end listens on.
pub const PORT: &str = "51820";
/// How long anything may take.
pub const SOON: Duration = Duration::from_secs(20);

/// What makes an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// `ipsx tunnel`.
    Ipsx,
    /// `wireguard-go`.
    WireguardGo,
}

/// One end: a namespace with an interface in it.
pub struct End {
    /// Where it lives.
    pub namespace: Namespace,
    /// Its name.
    pub interface: String,
    key: String,
    /// Its key.
    pub public_key: String,
    /// Last part of its addresses, inside and outside.
    pub number: u8,
    /// The program that runs it.
    pub daemon: Option<Program>,
}

impl End {
    /// An end that is not started.
    pub fn new(label: &str, number: u8) -> Self {
        let key = run("wg", &["genkey"]).trim().to_owned();
        let public_key = sh(&format!("echo {key} | wg pubkey"));
        Self {
            namespace: Namespace::new(label),
            // Unique on this machine: the control sockets are not in any namespace.
            interface: format!("{label}-{}", std::process::id() % 100_000),
            key,
            public_key,
            number,
            daemon: None,
        }
    }

    /// The command that starts it.
    pub fn command(&self, implementation: Implementation) -> Command {
        match implementation {
            Implementation::Ipsx => {
                let mut command = self.namespace.command(built("ipsx").get_program());
                command.args(["tunnel", &self.interface]);
                command
            }
            Implementation::WireguardGo => {
                let mut command = self.namespace.command("wireguard-go");
                command
                    .args(["--foreground", &self.interface])
                    .env("LOG_LEVEL", "error");
                command
            }
        }
    }

    /// Starts it and waits for its control socket.
    pub fn start(&mut self, implementation: Implementation) {
        let name = format!("{implementation:?} as {}", self.interface);
        let daemon = Program::start(&name, &mut self.command(implementation));
        let started = Instant::now();
        while !self.socket().exists() {
            assert!(
                started.elapsed() < SOON,
                "{name} makes no control socket: {}",
                daemon.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon = Some(daemon);
    }

    /// Its control socket.
    pub fn socket(&self) -> std::path::PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    /// Configures it by a file and brings it up; `calls` says whether it knows where the other is.
    pub fn configure(&self, other: &Self, calls: bool, folder: &Path) {
        let endpoint = format!("Endpoint = 10.99.1.{}:{PORT}\n", other.number);
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\n{}\
             AllowedIPs = 10.98.1.{n}/32, fd98::{n}/128\n",
            self.key,
            other.public_key,
            if calls { &endpoint } else { "" },
            n = other.number,
        );
        let file = folder.join(format!("{}.conf", self.interface));
        fs::write(&file, text).unwrap();
        self.wg(&["setconf", &self.interface, file.to_str().unwrap()]);
        for address in [
            format!("10.98.1.{}/24", self.number),
            format!("fd98::{}/64", self.number),
        ] {
            let words = ["address", "add", &address, "dev", &self.interface];
            let nodad = if address.contains(':') {
                &["nodad"][..]
            } else {
                &[]
            };
            self.namespace.ip(&[&words[..], nodad].concat());
        }
        let up = ["link", "set", &self.interface, "mtu", "1420", "up"];
        self.namespace.ip(&up);
    }

    /// `wg` with these words; it must succeed.
    pub fn wg(&self, words: &[&str]) -> String {
        let output = self.namespace.command("wg").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "wg {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has the namespace's packet filter do what this script says.
    pub fn nft(&self, script: &str) {
        let mut command = self.namespace.command("nft");
        let mut child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(script.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "nft takes {script}");
    }

    /// Packets of these counters of the table `inet seen`, since the last look at any of them.
    pub fn counted(&self, names: &[&str]) -> Vec<u64> {
        let mut command = self.namespace.command("nft");
        let output = command
            .args(["-j", "reset", "counters", "table", "inet", "seen"])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = report["nftables"].as_array().unwrap();
        let packets = |name: &&str| {
            all.iter()
                .find(|entry| entry["counter"]["name"] == **name)
                .unwrap_or_else(|| panic!("{name} in {report:#}"))["counter"]["packets"]
                .as_u64()
                .unwrap()
        };
        names.iter().map(packets).collect()
    }

    /// Bytes received and sent, as `wg show` tells.
    pub fn transfer(&self) -> (u64, u64) {
        let text = self.wg(&["show", &self.interface, "transfer"]);
        let mut words = text.split_whitespace().skip(1).map(|w| w.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    }

    /// Whether three pings are all answered.
    pub fn pings(&self, address: &str) -> bool {
        let mut ping = self.namespace.command("ping");
        ping.args(["-c", "3", "-i", "0.2", "-W", "5", address]);
        ping.output().unwrap().status.success()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A program that is killed leaves its control socket behind.
        self.daemon = None;
        let _ = fs::remove_file(self.socket());
    }
}

/// What a shell script prints, without white space around it.
pub fn sh(script: &str) -> String {
    run("sh", &["-c", script]).trim().to_owned()
}

/// Two ends, joined outside; `test` keeps the tests of this process apart.
pub fn two_ends(test: &str) -> (End, End, tempfile::TempDir) {
    let (left, right) = (
        End::new(&format!("{test}-l"), 1),
        End::new(&format!("{test}-r"), 2),
    );
    left.namespace.join(
        ("veth-left", "10.99.1.1/24"),
        &right.namespace,
        ("veth-right", "10.99.1.2/24"),
    );
    (left, right, tempfile::tempdir().unwrap())
}
