//! One interface as several devices.

use super::*;
use crate::uapi::{AllowedIpChange, PeerUpdate};

const SHARDS: u8 = 3;

/// An interface in three parts, and peers that call it.
struct Interface {
    shards: Vec<Device>,
    now: Instant,
    /// Datagrams that were handed over from each shard to another.
    handed_over: usize,
}

fn update(n: u8) -> PeerUpdate {
    PeerUpdate {
        public_key: key(n).public_key(),
        remove: false,
        update_only: false,
        preshared_key: None,
        endpoint: None,
        keepalive: None,
        replace_allowed_ips: true,
        allowed_ips: nets(&[&format!("10.0.0.{n}/32")])
            .into_iter()
            .map(AllowedIpChange::Allow)
            .collect(),
    }
}

fn caller(n: u8, now: Instant) -> Device {
    let mut device = Device::new(DeviceConfig::bare(key(n)), [n; 32], now);
    let interface = PeerConfig {
        public_key: key(1).public_key(),
        preshared_key: None,
        endpoint: Some(outer(1)),
        allowed_ips: nets(&["0.0.0.0/0"]),
        keepalive: None,
    };
    device.add_peer(interface, now).unwrap();
    device
}

impl Interface {
    fn new(peers: std::ops::Range<u8>) -> Self {
        let now = Instant::now();
        let shards = (0..SHARDS).map(|index| {
            let shard = Shard::new(index, SHARDS).unwrap();
            Device::new_shard(DeviceConfig::bare(key(1)), [index; 32], now, shard)
        });
        let mut interface = Self {
            shards: shards.collect(),
            now,
            handed_over: 0,
        };
        for n in peers {
            interface.set(&update(n));
        }
        interface
    }

    fn set(&mut self, update: &PeerUpdate) {
        for shard in &mut self.shards {
            shard.configure_peer(update, self.now).unwrap();
        }
    }

    /// What comes out when a datagram arrives at shard `at`.
    fn arrive(&mut self, at: usize, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let (mut buffer, now) = ([0; 2048], self.now);
        let found = match self.shards[at].handle_sharded(from, datagram, now, &mut buffer) {
            Ok(Arrived::Elsewhere(owner)) => {
                assert_ne!(owner, at);
                self.handed_over += 1;
                self.shards[owner].handle_forwarded(from, datagram, now, &mut buffer)
            }
            other => other,
        };
        match found.unwrap() {
            Arrived::Here(Some(Inbound::Packet { packet, .. })) => Some(packet.to_vec()),
            Arrived::Here(_) => None,
            Arrived::Elsewhere(_) => panic!("sent on twice"),
        }
    }

    /// Carries what a caller sends, to shard `at`, and the answers back; returns what came out of the tunnel.
    fn exchange(&mut self, caller: &mut Device, at: usize, from: SocketAddr) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        loop {
            let sent = datagrams(caller);
            for (_, datagram) in &sent {
                packets.extend(self.arrive(at, from, datagram));
            }
            let mut delivered = Delivered::default();
            let mut back = 0;
            for shard in &mut self.shards {
                for (_, datagram) in datagrams(shard) {
                    take(caller, outer(1), &datagram, self.now, &mut delivered);
                    back += 1;
                }
            }
            if sent.is_empty() && back == 0 {
                return packets;
            }
        }
    }
}

fn from_peer(n: u8) -> Vec<u8> {
    let to = (Ipv4Addr::new(192, 0, 2, 1), 9);
    udp((Ipv4Addr::new(10, 0, 0, n), 9), to, &[n; 100])
}

#[test]
fn a_datagram_finds_its_shard_wherever_it_arrives() {
    let mut interface = Interface::new(2..20);
    for n in 2..20 {
        let mut peer = caller(n, interface.now);
        let packet = from_peer(n);
        peer.handle_packet(&packet, interface.now).unwrap();
        let arrived = interface.exchange(&mut peer, 0, outer(n));
        assert_eq!(arrived, std::slice::from_ref(&packet), "peer {n}");
        // Data after the handshake, at every shard, as after a change of the steering.
        for at in 0..SHARDS.into() {
            peer.handle_packet(&packet, interface.now).unwrap();
            let arrived = interface.exchange(&mut peer, at, outer(n));
            assert_eq!(arrived, std::slice::from_ref(&packet), "peer {n} at {at}");
        }
    }
    let each: Vec<usize> = interface.shards.iter().map(|s| s.peers().count()).collect();
    assert_eq!(each, [6, 6, 6]);
    assert!(interface.handed_over > 18);
}

#[test]
fn the_second_byte_of_an_index_says_whose_it_is() {
    for index in 0..SHARDS {
        let mut interface = Interface::new(2..5);
        let shard = &mut interface.shards[usize::from(index)];
        let id = shard.peers().next().unwrap().0;
        shard.set_endpoint(id, outer(9));
        shard.initiate(id, interface.now).unwrap();
        let datagram = datagrams(shard).remove(0).1;
        assert_eq!(datagram[5] % SHARDS, index);
    }
}

#[test]
fn packets_go_to_the_shard_of_the_longest_prefix() {
    let mut interface = Interface::new(2..5);
    let owner = |interface: &Interface, last: u8| {
        let packet = udp(
            (Ipv4Addr::new(192, 0, 2, 1), 9),
            (Ipv4Addr::new(10, 0, 0, last), 9),
            b"x",
        );
        let said: Vec<usize> = interface
            .shards
            .iter()
            .map(|shard| shard.shard_of_packet(&packet))
            .collect();
        said
    };
    let mut wide = update(5);
    wide.allowed_ips = vec![AllowedIpChange::Allow("10.0.0.0/24".parse().unwrap())];
    interface.set(&wide);
    let of_wide = owner(&interface, 77);
    assert!(of_wide.iter().all(|&shard| shard == of_wide[0]));
    let before = owner(&interface, 3);
    assert!(before.iter().all(|&shard| shard == before[0]));
    // Taken away everywhere: the shorter prefix is left.
    let mut gone = update(3);
    gone.remove = true;
    interface.set(&gone);
    assert_eq!(owner(&interface, 3), of_wide);
    // Nobody's: each counts it itself.
    let mut gone = update(5);
    gone.remove = true;
    interface.set(&gone);
    assert_eq!(owner(&interface, 77), [0, 1, 2]);
    // A peer's address moves to a peer of another shard.
    let mut moved = update(4);
    moved.replace_allowed_ips = false;
    moved.allowed_ips = vec![AllowedIpChange::Allow("10.0.0.2/32".parse().unwrap())];
    interface.set(&moved);
    assert_eq!(owner(&interface, 2), owner(&interface, 4));
    let mut peer = caller(2, interface.now);
    peer.handle_packet(&from_peer(2), interface.now).unwrap();
    let initiation = datagrams(&mut peer).remove(0).1;
    assert_eq!(interface.arrive(1, outer(2), &initiation), None);
    for shard in &mut interface.shards {
        shard.remove_all_peers();
        assert!(shard.foreign.is_empty() && shard.by_key.is_empty());
    }
    assert_eq!(owner(&interface, 2), [0, 1, 2]);
}

#[test]
fn a_peer_may_not_use_an_address_of_another_shards_peer() {
    let mut interface = Interface::new(2..5);
    let mut peer = caller(2, interface.now);
    peer.handle_packet(&from_peer(3), interface.now).unwrap();
    let mut refused = 0;
    for _ in 0..4 {
        for (_, datagram) in datagrams(&mut peer) {
            for at in 0..usize::from(SHARDS) {
                let (mut buffer, now) = ([0; 2048], interface.now);
                let shard = &mut interface.shards[at];
                match shard.handle_forwarded(outer(2), &datagram, now, &mut buffer) {
                    Err(DropReason::SpoofedSource) => refused += 1,
                    Ok(Arrived::Here(inbound)) => assert_eq!(inbound, None),
                    _ => {}
                }
            }
        }
        for shard in &mut interface.shards {
            for (_, datagram) in datagrams(shard) {
                let mut ignored = Delivered::default();
                take(&mut peer, outer(1), &datagram, interface.now, &mut ignored);
            }
        }
    }
    assert_eq!(refused, 1);
}
