//! A tunnel end that is flooded with handshake initiations while others use it.
//!
//! ```text
//! left 10.99.1.1 ──── 10.99.1.2 right 10.99.2.1 ──── 10.99.2.2 stranger
//! ```
#![allow(clippy::float_arithmetic, reason = "rates are measured")]

use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_tunnel_core::{Device, DeviceConfig, PeerConfig, PrivateKey, PublicKey};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::end::{End, Implementation, PORT, SOON, two_ends};
use crate::namespace::{Namespace, run};
use crate::program::Program;

/// Bytes of a handshake initiation.
pub const INITIATION: usize = 148;

/// Initiations made with one key before another is taken.
const PER_KEY: usize = 32;

/// Initiations with the right first MAC, from keys that nobody knows, one after the other.
pub fn valid(target: PublicKey, count: usize) -> Vec<u8> {
    let now = Instant::now();
    let mut rng = StdRng::seed_from_u64(7);
    let mut all = Vec::with_capacity(count * INITIATION);
    while all.len() < count * INITIATION {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let key = PrivateKey::generate(&mut rng);
        let mut stranger = Device::new(DeviceConfig::bare(key), seed, now);
        let config = PeerConfig {
            public_key: target,
            preshared_key: None,
            endpoint: Some(([192, 0, 2, 1], 1).into()),
            allowed_ips: Vec::new(),
            keepalive: None,
        };
        let peer = stranger.add_peer(config, now).unwrap();
        for _ in 0..PER_KEY {
            stranger.initiate_again(peer, now).unwrap();
            let transmit = stranger.poll_transmit().unwrap();
            assert_eq!(transmit.contents().len(), INITIATION);
            all.extend_from_slice(transmit.contents());
        }
    }
    all.truncate(count * INITIATION);
    all
}

/// What looks like an initiation and is nothing.
pub fn junk(count: usize) -> Vec<u8> {
    let mut all = vec![0; count * INITIATION];
    StdRng::seed_from_u64(7).fill_bytes(&mut all);
    for message in all.chunks_mut(INITIATION) {
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
    }
    all
}

/// A peer at work, the end that it uses, and a stranger to both.
pub struct Scene {
    /// Who calls.
    pub left: End,
    /// Who is flooded.
    pub right: End,
    stranger: Namespace,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// Both ends at work. The way from the stranger is without offloads, as that from a plain network card.
    pub fn new(label: &str) -> Self {
        let (mut left, mut right, folder) = two_ends(label);
        for end in [&mut left, &mut right] {
            end.start(Implementation::Ipsx);
        }
        left.configure(&right, true, folder.path());
        right.configure(&left, false, folder.path());
        assert!(left.pings("10.98.1.2"));
        let stranger = Namespace::new(&format!("{label}-s"));
        let (own, others) = (
            ("veth-stranger", "10.99.2.2/24"),
            ("veth-public", "10.99.2.1/24"),
        );
        stranger.join(own, &right.namespace, others);
        let ethtool = ["exec", stranger.name(), "ethtool", "-K", own.0];
        let off = ["tx-udp-segmentation", "off"];
        run("ip", &[&["netns"], &ethtool[..], &off].concat());
        Self {
            left,
            right,
            stranger,
            _folder: folder,
        }
    }

    /// Begins a flood of `rate` initiations a second by this program, which is `flood` of this crate.
    pub fn flood(&self, program: Command, kind: &str, rate: u32, lasts: Duration) -> Program {
        // On one processor, so that it takes no more than that.
        let mut command = self.stranger.command("taskset");
        command.args(["-c", "0"]).arg(program.get_program());
        command.args([&format!("10.99.2.1:{PORT}"), &self.right.public_key]);
        command.args([rate.to_string(), lasts.as_secs_f64().to_string()]);
        let mut flood = Program::start("flood", command.arg(kind));
        flood.wait_for("flooding", SOON);
        flood
    }

    /// Mbit/s of one connection through the tunnel to the flooded end.
    pub fn goodput(&self, lasts: Duration) -> f64 {
        let mut server = self.right.namespace.command("iperf3");
        let mut listening = Program::start(
            "iperf3",
            server.args(["--server", "--one-off", "--forceflush"]),
        );
        listening.wait_for("Server listening", SOON);
        let mut client = self.left.namespace.command("iperf3");
        client.args(["--client", "10.98.1.2", "--json", "--time"]);
        let output = client.arg(lasts.as_secs().to_string()).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rate = &report["end"]["sum_received"]["bits_per_second"];
        rate.as_f64()
            .unwrap_or_else(|| panic!("iperf3 says {report:#}"))
            / 1e6
    }

    /// How long the peer's next handshake takes, if less than `limit`.
    pub fn handshake(&self, limit: Duration) -> Option<Duration> {
        // Another interval ends the session and begins a handshake, and a packet waits for it.
        let shown = self
            .left
            .wg(&["show", &self.left.interface, "persistent-keepalive"]);
        let interval = if shown.contains("300") { "400" } else { "300" };
        let mut words = vec!["set", &self.left.interface, "peer", &self.right.public_key];
        words.extend(["persistent-keepalive", interval]);
        self.left.wg(&words);
        let mut ping = self.left.namespace.command("ping");
        let seconds = limit.as_secs().to_string();
        ping.args(["-c", "1", "-W", &seconds, "10.98.1.2"]);
        let started = Instant::now();
        let answered = ping.output().unwrap().status.success();
        answered.then(|| started.elapsed())
    }
}
