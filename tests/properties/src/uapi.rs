//! The text that configures an interface: whatever is accepted, the answer to `get=1` says it, and an interface that is
//! told the answer gives the same answer.

use std::time::{Duration, Instant};

use ipsx_tunnel_core::uapi::{
    InterfaceSettings, InterfaceUpdate, Request, describe_peers, respond_get,
};
use ipsx_tunnel_core::{Device, DeviceConfig, PrivateKey};

/// Lines of an answer that are no settings.
const COUNTERS: [&str; 5] = [
    "last_handshake_time_sec=",
    "last_handshake_time_nsec=",
    "tx_bytes=",
    "rx_bytes=",
    "errno=",
];

struct Interface {
    settings: InterfaceSettings,
    device: Device,
    now: Instant,
}

impl Interface {
    fn new(now: Instant) -> Self {
        Self {
            settings: InterfaceSettings::default(),
            device: Device::new(
                DeviceConfig::bare(PrivateKey::from_bytes([3; 32])),
                [1; 32],
                now,
            ),
            now,
        }
    }

    fn set(&mut self, update: &InterfaceUpdate) {
        if let Some(key) = &update.private_key {
            self.settings.private_key.clone_from(key);
            if let Some(key) = key {
                self.device.set_private_key(key.clone(), self.now);
            }
        }
        if let Some(port) = update.listen_port {
            self.settings.listen_port = port;
        }
        if let Some(mark) = update.fwmark {
            self.settings.fwmark = mark;
        }
        if update.replace_peers {
            let all: Vec<_> = self.device.peers().map(|(id, _)| id).collect();
            for id in all {
                self.device.remove_peer(id);
            }
        }
        for peer in &update.peers {
            // The library has room for 2^24 peers; nothing else fails.
            self.device.configure_peer(peer, self.now).unwrap();
        }
    }

    fn answer(&self) -> String {
        let peers = describe_peers(&self.device, |_| Duration::ZERO);
        respond_get(&self.settings, [peers.as_str()]).to_string()
    }
}

pub(crate) fn check(input: &[u8]) {
    let end = Request::complete(input);
    assert!(end.is_none_or(|end| (1..=input.len()).contains(&end) && input[end - 1] == b'\n'));
    let Ok(text) = std::str::from_utf8(&input[..end.unwrap_or(input.len())]) else {
        return;
    };
    let update = match Request::parse(text) {
        Ok(Request::Set(update)) => update,
        Ok(Request::Get) => return,
        Err(error) => {
            assert!(error.errno() > 0 && !error.to_string().is_empty());
            return;
        }
    };
    let now = Instant::now();
    let mut interface = Interface::new(now);
    interface.set(&update);
    let answer = interface.answer();
    assert!(answer.ends_with("errno=0\n\n"));

    let settings: Vec<_> = answer
        .lines()
        .filter(|line| !COUNTERS.iter().any(|counter| line.starts_with(counter)))
        .collect();
    let request = format!("set=1\nreplace_peers=true\n{}", settings.join("\n"));
    let again = Request::parse(&request)
        .unwrap_or_else(|error| panic!("{error} in what was answered:\n{request}"));
    let Request::Set(again) = again else {
        panic!("that was a change");
    };
    let mut copy = Interface::new(now);
    copy.set(&again);
    assert_eq!(copy.answer(), answer);
}
