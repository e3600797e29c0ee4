#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use ipsx_agent_core::provider::RecordedConnections;
use ipsx_metering::{B256, Connection, DealId, UnixSeconds, connection_path, connection_root};
use ipsx_settlement::Wallet;
use ipsx_tunnel_core::{Device, DeviceConfig, PeerConfig, PeerId, PrivateKey, Side};
use ipsx_tunnel_os::{FlowEvent, FlowProtocol};

use super::disclose::{Asked, pick, signed_leaves};
use super::files;
use super::{Owners, RecordSecret, Recorder};

const NOON: u64 = 1_795_176_000;
const DAY: u64 = 86_400;
const LEASES: [DealId; 2] = [DealId(B256::repeat_byte(1)), DealId(B256::repeat_byte(2))];

/// Every record of a data folder.
pub(crate) fn recorded(data: &Path, secret: &RecordSecret) -> Vec<Connection> {
    let (entries, _) = files::read(&files::folder(data), secret, UnixSeconds::MAX).unwrap();
    entries.into_iter().map(|entry| entry.record).collect()
}

fn secret(number: u8) -> RecordSecret {
    RecordSecret::of_wallet(&Wallet::from_secret(&[number; 32]).unwrap())
}

/// Two peers of a device.
fn peers() -> [PeerId; 2] {
    let key = || PrivateKey::generate(&mut rand::rngs::OsRng);
    let config = DeviceConfig {
        private_key: key(),
        side: Side::Provider,
        gateway_v4: Ipv4Addr::new(10, 77, 0, 1),
        control_port: 1,
    };
    let mut device = Device::new(config, [7; 32], Instant::now());
    [2, 3].map(|host| {
        let peer = PeerConfig {
            public_key: key().public_key(),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec![format!("10.77.0.{host}/32").parse().unwrap()],
            keepalive: None,
        };
        device.add_peer(peer, Instant::now()).unwrap()
    })
}

/// A recorder for two leases, with the roots that it said.
struct World {
    recorder: Recorder,
    peers: [PeerId; 2],
    roots: RefCell<HashMap<DealId, B256>>,
    flows: u64,
}

impl World {
    fn new(data: &Path, retention: u64) -> Self {
        let (owners, peers) = (Owners::default(), peers());
        for (peer, lease) in peers.into_iter().zip(LEASES) {
            owners.insert(peer, lease);
        }
        let (recorder, _flows) = Recorder::new(data, secret(1).key(), retention, owners);
        Self {
            recorder,
            peers,
            roots: RefCell::default(),
            flows: 0,
        }
    }

    fn open(&mut self, lease: usize, source_port: u16, destination: &str, now: u64) -> u64 {
        self.flows += 1;
        let opened = FlowEvent::Opened {
            peer: self.peers[lease],
            flow: self.flows,
            protocol: FlowProtocol::Tcp,
            source_port,
            destination: destination.parse().unwrap(),
        };
        self.recorder.take(opened, UnixSeconds(now));
        self.flows
    }

    fn close(&mut self, lease: usize, flow: u64, now: u64) {
        let closed = FlowEvent::Closed {
            peer: self.peers[lease],
            flow,
            bytes_up: 10,
            bytes_down: 20,
        };
        self.recorder.take(closed, UnixSeconds(now));
    }

    fn write(&mut self, now: u64) {
        let roots = &self.roots;
        let said = |lease, recorded: RecordedConnections| {
            roots.borrow_mut().insert(lease, recorded.root);
        };
        self.recorder.write(&said, UnixSeconds(now));
    }
}

fn asked(time: u64, source_port: u16) -> Asked {
    Asked {
        time: UnixSeconds(time),
        tolerance: 5,
        source_port,
        transport: None,
        destination: None,
        address: None,
    }
}

/// Leases side by side, over three hours and two starts of the program: each record leads to its lease's root, through
/// hashes alone.
#[test]
fn every_record_is_under_its_leases_root_across_hours() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    for hour in 0..3 {
        for number in 0..5 {
            let at = NOON + hour * 3_600 + number;
            let port = 40_000 + (10 * hour + number) as u16;
            let flow = world.open(0, port, "203.0.113.5:443", at);
            world.open(1, port + 100, "203.0.113.6:443", at);
            world.close(0, flow, at + 9);
        }
        world.write(NOON + hour * 3_600);
    }
    let data = files::folder(folder.path());
    let (entries, closed) = files::read(&data, &secret(1), UnixSeconds::MAX).unwrap();
    assert_eq!((entries.len(), closed), (3 * 5 * 3, 0));
    for lease in LEASES {
        let root = world.roots.borrow()[&lease];
        let leaves = signed_leaves(files::leaves(&data, lease).unwrap(), root).unwrap();
        let of_lease: Vec<_> = entries
            .iter()
            .filter(|e| e.record.deal_id == lease)
            .collect();
        assert_eq!(leaves.len(), of_lease.len());
        for entry in of_lease {
            let path = connection_path(&leaves, entry.index).unwrap();
            assert_eq!(
                connection_root(entry.leaf(), entry.index, &path),
                Some(root)
            );
        }
        assert_eq!(signed_leaves(leaves, B256::repeat_byte(9)), None);
    }
    // A root that was signed before the last records came still has its leaves.
    let early = files::leaves(&data, LEASES[0]).unwrap()[..4].to_vec();
    let mut tree = ipsx_metering::ConnectionTree::default();
    for leaf in &early {
        tree.push(*leaf).unwrap();
    }
    let all = files::leaves(&data, LEASES[0]).unwrap();
    assert_eq!(signed_leaves(all, tree.root()), Some(early));
}

#[test]
fn only_the_right_key_opens_the_record_and_nothing_stands_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    world.open(0, 40_123, "203.0.113.5:443", NOON);
    world.write(NOON);
    let data = files::folder(folder.path());
    assert_eq!(recorded(folder.path(), &secret(1)).len(), 1);
    let (entries, closed) = files::read(&data, &secret(2), UnixSeconds::MAX).unwrap();
    assert_eq!((entries.len(), closed), (0, 1));
    let kept = RecordSecret::from_text(&secret(1).to_text()).unwrap();
    assert_eq!(recorded(folder.path(), &kept).len(), 1);
    for file in std::fs::read_dir(&data).unwrap() {
        let path = file.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        for secret in [
            &[203, 0, 113, 5][..],
            &40_123_u16.to_be_bytes(),
            b"203.0.113.5",
        ] {
            let shown = content.windows(secret.len()).any(|part| part == secret);
            assert!(secret.len() < 4 || !shown, "{}", path.display());
        }
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// What is handed over for one record has nothing in it that another one could be guessed from.
#[test]
fn a_proof_tells_nothing_of_any_other_connection() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    for number in 0..8 {
        world.open(0, 40_000 + number, &format!("203.0.113.{number}:443"), NOON);
    }
    world.write(NOON);
    let data = files::folder(folder.path());
    let (entries, _) = files::read(&data, &secret(1), UnixSeconds::MAX).unwrap();
    let leaves = files::leaves(&data, LEASES[0]).unwrap();
    let shown = &entries[3];
    let path = connection_path(&leaves, shown.index).unwrap();
    let text = serde_json::to_string(&(shown.index, shown.blinding, shown.record, &path)).unwrap();
    for other in entries.iter().filter(|other| other.index != shown.index) {
        let record = other.record;
        for part in [
            format!("\"{}\"", record.destination),
            record.source_port.to_string(),
            format!("{:x}", other.blinding),
        ] {
            assert!(!text.contains(&part), "{part} in {text}");
        }
        // Even who guesses the whole record cannot tell: without its own blinding no hash comes out.
        let guessed = ipsx_metering::connection_leaf(shown.blinding, &record);
        assert!(!path.contains(&guessed));
        assert!(!path.contains(&ipsx_metering::connection_leaf(B256::ZERO, &record)));
    }
    assert!(
        path.contains(&entries[2].leaf()),
        "the neighbour is there as a hash"
    );
}

/// A kill in the middle of a write loses the torn record alone, and the next start goes on in files of its own.
#[test]
fn a_torn_end_loses_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    for number in 0..3 {
        world.open(0, 40_000 + number, "203.0.113.5:443", NOON);
    }
    world.write(NOON);
    let data = files::folder(folder.path());
    let sealed = std::fs::read_dir(&data)
        .unwrap()
        .map(|file| file.unwrap().path());
    let sealed = sealed
        .into_iter()
        .find(|path| path.extension().unwrap() == "sealed")
        .unwrap();
    let whole = std::fs::read(&sealed).unwrap();
    for lost in [1, 100, 142] {
        std::fs::write(&sealed, &whole[..whole.len() - lost]).unwrap();
        assert_eq!(
            recorded(folder.path(), &secret(1)).len(),
            2,
            "{lost} bytes lost"
        );
    }
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&sealed, &changed).unwrap();
    assert_eq!(
        recorded(folder.path(), &secret(1)).len(),
        2,
        "a changed record is not read"
    );
    let mut again = World::new(folder.path(), DAY);
    again.open(1, 50_000, "203.0.113.5:443", NOON + 1);
    again.write(NOON + 1);
    assert_eq!(recorded(folder.path(), &secret(1)).len(), 3);
}

#[test]
fn records_are_forgotten_after_the_retention_but_later_ones_stay_provable() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    world.open(0, 40_001, "203.0.113.5:443", NOON);
    world.write(NOON);
    let later = NOON + 2 * DAY;
    world.open(0, 40_002, "203.0.113.6:443", later);
    world.write(later);
    let kept = recorded(folder.path(), &secret(1));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].source_port, 40_002);
    let data = files::folder(folder.path());
    let root = world.roots.borrow()[&LEASES[0]];
    let leaves = signed_leaves(files::leaves(&data, LEASES[0]).unwrap(), root).unwrap();
    assert_eq!(leaves.len(), 2);
    files::forget(&data, DAY, UnixSeconds(later + 40 * DAY)).unwrap();
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn only_a_single_connection_is_picked() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), DAY);
    let first = world.open(0, 40_001, "203.0.113.5:443", NOON);
    world.close(0, first, NOON + 60);
    // The port is used again, by another lease.
    world.open(1, 40_001, "203.0.113.6:80", NOON + 63);
    world.write(NOON);
    let entries = || {
        files::read(&files::folder(folder.path()), &secret(1), UnixSeconds::MAX)
            .unwrap()
            .0
    };
    let found = pick(entries(), &asked(NOON + 30, 40_001)).unwrap();
    assert_eq!(found.len(), 2, "its opening and its end");
    assert!(found.iter().all(|entry| entry.record.deal_id == LEASES[0]));
    assert_eq!(pick(entries(), &asked(NOON + 62, 40_001)), Err(2));
    let destination: SocketAddr = "203.0.113.6:80".parse().unwrap();
    let narrowed = Asked {
        destination: Some(destination),
        ..asked(NOON + 62, 40_001)
    };
    assert_eq!(
        pick(entries(), &narrowed).unwrap()[0].record.deal_id,
        LEASES[1]
    );
    assert_eq!(pick(entries(), &asked(NOON - 60, 40_001)), Err(0));
    assert_eq!(pick(entries(), &asked(NOON, 40_002)), Err(0));
}

/// A full disk loses nothing: what waits is written once there is room.
#[test]
fn what_cannot_be_written_waits() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("connections");
    std::fs::write(&in_the_way, "").unwrap();
    let mut world = World::new(folder.path(), DAY);
    world.open(0, 40_001, "203.0.113.5:443", NOON);
    world.write(NOON);
    assert!(
        world.roots.borrow().is_empty(),
        "no root before it is on disk"
    );
    std::fs::remove_file(&in_the_way).unwrap();
    world.write(NOON + 1);
    assert_eq!(world.roots.borrow().len(), 1);
    assert_eq!(recorded(folder.path(), &secret(1)).len(), 1);
}
