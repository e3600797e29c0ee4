//! A plain interface: no gates, no control datagrams, settings that change while it runs.

use super::*;
use crate::offload::{Gso, OffloadHeader, Segments};

const LEFT: &str = "10.0.0.1";
const RIGHT: &str = "10.0.0.2";

/// Two plain interfaces that know each other; the right one learns where the left one is.
struct Link {
    left: Device,
    right: Device,
    now: Instant,
    /// What came out at each end.
    at_left: Vec<Vec<u8>>,
    at_right: Vec<Vec<u8>>,
}

impl Link {
    fn new() -> Self {
        let now = Instant::now();
        let mut left = Device::new(DeviceConfig::bare(key(1)), [1; 32], now);
        let mut right = Device::new(DeviceConfig::bare(key(2)), [2; 32], now);
        for (device, other, endpoint, inner) in [
            (&mut left, 2, Some(outer(2)), RIGHT),
            (&mut right, 1, None, LEFT),
        ] {
            let config = PeerConfig {
                public_key: key(other).public_key(),
                preshared_key: None,
                endpoint,
                allowed_ips: nets(&[&format!("{inner}/32")]),
                keepalive: None,
            };
            device.add_peer(config, now).unwrap();
        }
        Self {
            left,
            right,
            now,
            at_left: Vec::new(),
            at_right: Vec::new(),
        }
    }

    /// Carries datagrams until there are none.
    fn settle(&mut self) {
        let Self {
            left, right, now, ..
        } = self;
        while carry(left, right, outer(1), *now, &mut self.at_right)
            | carry(right, left, outer(2), *now, &mut self.at_left)
        {}
    }

    fn only_peer(device: &Device) -> (PeerId, PeerSettings<'_>) {
        device.peers().next().unwrap()
    }
}

/// Carries what one end has to send; true if there was something.
fn carry(
    from: &mut Device,
    to: &mut Device,
    source: SocketAddr,
    now: Instant,
    arrived: &mut Vec<Vec<u8>>,
) -> bool {
    let mut moved = false;
    while let Some(batch) = from.poll_transmit() {
        moved = true;
        for datagram in batch.contents().chunks(batch.segment_size) {
            let mut buffer = vec![0; 70_000];
            if let Ok(Some(Inbound::Packet { packet, .. })) =
                to.handle_datagram(source, datagram, now, &mut buffer)
            {
                arrived.push(packet.to_vec());
            }
        }
        from.recycle(batch);
    }
    moved
}

fn packet(source: &str, destination: &str, payload: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 4411);
    let payload = vec![7; payload];
    assert!(packet::udp(
        &mut packet,
        at(source),
        at(destination),
        &payload
    ));
    packet
}

/// A UDP super-packet of `count` datagrams with 500 bytes each.
fn super_packet(count: usize) -> (OffloadHeader, Vec<u8>) {
    let mut bytes = packet(LEFT, RIGHT, 500);
    bytes.resize(28 + 500 * count, 7);
    let len = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    let header = OffloadHeader {
        needs_checksum: true,
        gso: Gso::Udp,
        header_len: 28,
        segment_size: 500,
        checksum_start: 20,
        checksum_offset: 6,
    };
    (header, bytes)
}

#[test]
fn carries_everything_and_counts_what_left() {
    let mut link = Link::new();
    let sent = packet(LEFT, RIGHT, 100);
    link.left.handle_packet(&sent, link.now).unwrap();
    link.settle();
    assert_eq!(link.at_right, [sent]);
    let answer = packet(RIGHT, LEFT, 300);
    link.right.handle_packet(&answer, link.now).unwrap();
    link.settle();
    assert_eq!(link.at_left, [answer]);
    let (_, left) = Link::only_peer(&link.left);
    let (_, right) = Link::only_peer(&link.right);
    assert_eq!(left.transfer.sent, right.transfer.received);
    assert_eq!(left.transfer.received, right.transfer.sent);
    // Initiation, keepalive that confirms it, and 128 bytes padded; response and 328 padded.
    assert_eq!(left.transfer.sent, 148 + 32 + 128 + 32);
    assert_eq!(right.transfer.sent, 92 + 336 + 32);
    assert!(left.handshaked_at.is_some() && right.endpoint == Some(outer(1)));
    let from_elsewhere = packet("10.0.0.9", RIGHT, 1);
    link.left.handle_packet(&from_elsewhere, link.now).unwrap();
    link.settle();
    assert_eq!(link.right.dropped().get(DropReason::SpoofedSource), 1);
}

#[test]
fn super_packets_arrive_cut_before_and_after_the_handshake() {
    let mut link = Link::new();
    for round in 1..=2 {
        let (header, mut bytes) = super_packet(5);
        let segments = Segments::new(header, &mut bytes).unwrap();
        link.left.handle_segments(&segments, link.now).unwrap();
        link.settle();
        assert_eq!(link.at_right.len(), 5 * round);
    }
    let (header, mut bytes) = super_packet(5);
    let segments = Segments::new(header, &mut bytes).unwrap();
    for (i, arrived) in link.at_right.iter().enumerate() {
        let mut expected = vec![0; segments.len_of(i % 5)];
        segments.write(i % 5, &mut expected);
        assert_eq!(*arrived, expected);
    }
    // The segments of one go in one batch.
    let (header, mut bytes) = super_packet(5);
    let segments = Segments::new(header, &mut bytes).unwrap();
    link.left.handle_segments(&segments, link.now).unwrap();
    assert_eq!(link.left.poll_transmit().unwrap().segments(), 5);
}

#[test]
fn padding_ends_at_the_mtu_and_larger_interfaces_work() {
    let mut link = Link::new();
    link.left.set_mtu(9_000);
    let sent = packet(LEFT, RIGHT, 1_390);
    let mut jumbo = packet(LEFT, RIGHT, 1_000);
    jumbo.resize(8_999, 1);
    jumbo[2..4].copy_from_slice(&8_999u16.to_be_bytes());
    for packet in [&sent, &jumbo] {
        link.left.handle_packet(packet, link.now).unwrap();
        link.settle();
    }
    assert_eq!(link.at_right, [sent, jumbo.clone()]);
    link.left.handle_packet(&jumbo, link.now).unwrap();
    assert_eq!(
        link.left.poll_transmit().unwrap().contents().len(),
        9_000 + 32
    );
    let too_long = link.left.handle_packet(&vec![0x45; 65_001], link.now);
    assert_eq!(too_long, Err(DropReason::Oversize));
}

#[test]
fn new_keys_end_sessions_and_the_next_packet_opens_one() {
    let mut link = Link::new();
    let sent = packet(LEFT, RIGHT, 1);
    let send = |link: &mut Link| {
        let before = link.at_right.len();
        link.left.handle_packet(&sent, link.now).unwrap();
        link.settle();
        link.at_right.len() - before
    };
    assert_eq!(send(&mut link), 1);

    let preshared = PresharedKey::from_bytes([9; 32]);
    let (at_left, _) = Link::only_peer(&link.left);
    let (at_right, _) = Link::only_peer(&link.right);
    link.right
        .set_preshared_key(at_right, Some(preshared.clone()), link.now);
    link.settle();
    link.left
        .set_preshared_key(at_left, Some(preshared), link.now);
    link.settle();
    assert_eq!(send(&mut link), 1);

    link.left.set_keepalive(at_left, Some(5), link.now);
    link.settle();
    assert!(link.left.status(at_left).unwrap().established);
    assert_eq!(send(&mut link), 1);

    link.left.set_private_key(key(3), link.now);
    assert_eq!(link.left.public_key(), key(3).public_key());
    assert_eq!(
        send(&mut link),
        0,
        "the right end does not know the new key"
    );
    link.left.set_private_key(key(2), link.now);
    assert_eq!(link.left.peers().count(), 0, "a peer with the own key goes");
}

#[test]
fn inner_addresses_move_between_peers() {
    let mut link = Link::new();
    let now = link.now;
    let (first, _) = Link::only_peer(&link.left);
    let config = PeerConfig {
        public_key: key(5).public_key(),
        preshared_key: None,
        endpoint: None,
        allowed_ips: Vec::new(),
        keepalive: None,
    };
    let second = link.left.add_peer(config, now).unwrap();
    link.left.allow_ip(second, "10.0.0.2/32".parse().unwrap());
    let sent = packet(LEFT, RIGHT, 1);
    assert_eq!(
        link.left.handle_packet(&sent, now),
        Err(DropReason::NoEndpoint)
    );
    link.left.disallow_ip(first, "10.0.0.2/32".parse().unwrap());
    assert_eq!(
        link.left.handle_packet(&sent, now),
        Err(DropReason::NoEndpoint)
    );
    link.left.clear_allowed_ips(second);
    assert_eq!(
        link.left.handle_packet(&sent, now),
        Err(DropReason::NoRoute)
    );
    link.left.allow_ip(first, "0.0.0.0/0".parse().unwrap());
    assert_eq!(link.left.handle_packet(&sent, now), Ok(first));
}
