//! Two devices over a simulated link.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{INNER_MTU, MAX_CONTROL_PAYLOAD, noise::padded_len, packet};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const CONTROL_PORT: u16 = 4411;

fn key(n: u8) -> PrivateKey {
    let mut rng = StdRng::from_seed([n; 32]);
    PrivateKey::generate(&mut rng)
}

fn outer(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 51820))
}

fn config(n: u8, side: Side) -> DeviceConfig {
    DeviceConfig {
        private_key: key(n),
        side,
        gateway_v4: GATEWAY,
        control_port: CONTROL_PORT,
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What came out of the tunnel at one end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Delivered {
    packets: Vec<Vec<u8>>,
    control: Vec<Vec<u8>>,
    refused: Vec<DropReason>,
}

/// A provider with one peer, that peer's device, and a link between them.
struct Pair {
    provider: Device,
    peer: PeerId,
    client: Device,
    gateway: PeerId,
    /// The client's outer address.
    client_at: SocketAddr,
    now: Instant,
    at_provider: Delivered,
    at_client: Delivered,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut provider = Device::new(config(1, Side::Provider), [1; 32], now);
        let mut client = Device::new(config(2, Side::Client { inner_v4: INNER }), [2; 32], now);
        let peer = provider
            .add_peer(
                PeerConfig {
                    public_key: client.public_key(),
                    preshared_key: None,
                    endpoint: None,
                    allowed_ips: nets(&["10.77.0.2/32", "fd77::2/128"]),
                    keepalive: None,
                },
                now,
            )
            .unwrap();
        let gateway = client
            .add_peer(
                PeerConfig {
                    public_key: provider.public_key(),
                    preshared_key: None,
                    endpoint: Some(outer(1)),
                    allowed_ips: nets(&["0.0.0.0/0", "::/0"]),
                    keepalive: None,
                },
                now,
            )
            .unwrap();
        Self {
            provider,
            peer,
            client,
            gateway,
            client_at: outer(2),
            now,
            at_provider: Delivered::default(),
            at_client: Delivered::default(),
        }
    }

    fn open() -> Self {
        let mut pair = Self::new();
        pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
        pair.client.initiate(pair.gateway).unwrap();
        pair.settle();
        pair
    }

    /// Carries datagrams until nobody sends any more.
    fn settle(&mut self) {
        loop {
            let (up, down) = (datagrams(&mut self.client), datagrams(&mut self.provider));
            if up.is_empty() && down.is_empty() {
                return;
            }
            for (_, datagram) in up {
                self.carry_up(&datagram);
            }
            for (_, datagram) in down {
                self.carry_down(&datagram);
            }
        }
    }

    fn carry_up(&mut self, datagram: &[u8]) {
        take(
            &mut self.provider,
            self.client_at,
            datagram,
            self.now,
            &mut self.at_provider,
        );
    }

    fn carry_down(&mut self, datagram: &[u8]) {
        take(
            &mut self.client,
            outer(1),
            datagram,
            self.now,
            &mut self.at_client,
        );
    }

    fn up(&mut self, packet: &[u8]) -> Result<PeerId, DropReason> {
        self.client.handle_packet(packet, self.now)
    }

    fn down(&mut self, packet: &[u8]) -> Result<PeerId, DropReason> {
        self.provider.handle_packet(packet, self.now)
    }

    fn usages(&self) -> (Usage, Usage) {
        (
            self.provider.usage(self.peer).unwrap(),
            self.client.usage(self.gateway).unwrap(),
        )
    }
}

fn take(device: &mut Device, from: SocketAddr, datagram: &[u8], now: Instant, to: &mut Delivered) {
    let mut buffer = [0; 2048];
    match device.handle_datagram(from, datagram, now, &mut buffer) {
        Ok(Some(Inbound::Packet { peer, packet })) => {
            to.packets.push(packet.to_vec());
            let len = packet.len();
            device.count_received(peer, len);
        }
        Ok(Some(Inbound::Control { payload, .. })) => to.control.push(payload.to_vec()),
        Ok(None) => {}
        Err(reason) => to.refused.push(reason),
    }
}

fn datagrams(device: &mut Device) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(batch) = device.poll_transmit() {
        for datagram in batch.contents.chunks(batch.segment_size) {
            all.push((batch.destination, datagram.to_vec()));
        }
        device.recycle(batch);
    }
    all
}

fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    assert!(packet::udp(
        &mut packet,
        source.into(),
        destination.into(),
        payload
    ));
    packet
}

fn request(payload: &[u8]) -> Vec<u8> {
    udp((INNER, 4000), (Ipv4Addr::new(203, 0, 113, 9), 443), payload)
}

fn response(payload: &[u8]) -> Vec<u8> {
    udp((Ipv4Addr::new(203, 0, 113, 9), 443), (INNER, 4000), payload)
}

#[test]
fn the_first_packet_opens_the_tunnel_and_is_not_lost() {
    let mut pair = Pair::new();
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    let packet = request(b"first");
    pair.up(&packet).unwrap();
    assert_eq!(
        pair.usages().1,
        Usage::default(),
        "nothing is counted before it is encrypted"
    );
    pair.settle();
    assert_eq!(pair.at_provider.packets, [packet]);
    assert_eq!(
        pair.provider.poll_event(),
        Some(DeviceEvent::Handshaked {
            peer: pair.peer,
            endpoint: outer(2)
        })
    );
    assert_eq!(
        pair.client.poll_event(),
        Some(DeviceEvent::Handshaked {
            peer: pair.gateway,
            endpoint: outer(1)
        })
    );
    let packet = response(b"answer");
    pair.down(&packet).unwrap();
    pair.settle();
    assert_eq!(pair.at_client.packets, [packet]);
    let (theirs, ours) = pair.usages();
    assert_eq!(theirs, ours);
    assert_eq!(
        ours,
        Usage {
            bytes_up: 33,
            bytes_down: 34
        }
    );
    let status = pair.client.status(pair.gateway).unwrap();
    assert!(status.established && status.handshaked_at.is_some() && status.last_received.is_some());
}

#[test]
fn only_so_many_packets_wait_for_a_handshake() {
    let mut pair = Pair::new();
    let results: Vec<_> = (0..100u8).map(|n| pair.up(&request(&[n]))).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 64);
    assert_eq!(results[99], Err(DropReason::HandshakeBacklog));
    assert_eq!(
        datagrams(&mut pair.client).len(),
        1,
        "one handshake initiation"
    );
}

#[test]
fn a_closed_gate_passes_control_alone() {
    let mut pair = Pair::open();
    pair.provider.set_gate(pair.peer, Gate::Closed, pair.now);
    pair.up(&request(b"data")).unwrap();
    pair.client
        .send_control(pair.gateway, b"voucher", pair.now)
        .unwrap();
    pair.settle();
    assert_eq!(pair.at_provider.packets.len(), 0);
    assert_eq!(pair.at_provider.control, [b"voucher"]);
    assert_eq!(pair.at_provider.refused, [DropReason::GateClosed]);
    assert_eq!(pair.down(&response(b"data")), Err(DropReason::GateClosed));
    pair.provider
        .send_control(pair.peer, b"receipt", pair.now)
        .unwrap();
    pair.settle();
    assert_eq!(pair.at_client.control, [b"receipt"]);
    assert_eq!(pair.provider.usage(pair.peer), Some(Usage::default()));
}

#[test]
fn control_datagrams_are_told_from_data_by_address_and_port() {
    let mut pair = Pair::open();
    for packet in [
        udp(
            (INNER, CONTROL_PORT),
            (GATEWAY, CONTROL_PORT + 1),
            b"other port",
        ),
        udp(
            (INNER, CONTROL_PORT),
            (Ipv4Addr::new(10, 77, 0, 9), CONTROL_PORT),
            b"other address",
        ),
    ] {
        pair.up(&packet).unwrap();
        pair.settle();
        assert_eq!(pair.at_provider.packets.pop(), Some(packet));
    }
    // A program on the peer may speak from any port, and is answered there.
    pair.up(&udp((INNER, 5555), (GATEWAY, CONTROL_PORT), b"payer"))
        .unwrap();
    pair.settle();
    assert_eq!(pair.at_provider.control, [b"payer"]);
    pair.provider
        .send_control(pair.peer, b"back", pair.now)
        .unwrap();
    let batch = datagrams(&mut pair.provider);
    assert_eq!(batch.len(), 1);
    pair.carry_down(&batch[0].1);
    assert_eq!(pair.at_client.control, [b"back"]);
    assert_eq!(pair.usages().0.bytes_down, 0);
}

#[test]
fn control_datagrams_are_limited() {
    let mut pair = Pair::open();
    let too_large = vec![0; MAX_CONTROL_PAYLOAD + 1];
    assert_eq!(
        pair.client.send_control(pair.gateway, &too_large, pair.now),
        Err(DropReason::ControlSize)
    );
    pair.up(&udp((INNER, 1), (GATEWAY, CONTROL_PORT), &too_large))
        .unwrap_err();
    let sent = (0..300)
        .filter(|_| {
            pair.client
                .send_control(pair.gateway, b"x", pair.now)
                .is_ok()
        })
        .count();
    assert_eq!(sent, 100);
    pair.now += Duration::from_secs(1);
    let sent = (0..300)
        .filter(|_| {
            pair.client
                .send_control(pair.gateway, b"x", pair.now)
                .is_ok()
        })
        .count();
    assert_eq!(sent, 50);
    assert_eq!(pair.client.dropped().get(DropReason::ControlRate), 450);
}

#[test]
fn peers_can_only_use_their_own_addresses() {
    let mut pair = Pair::open();
    for source in [Ipv4Addr::new(10, 77, 0, 3), Ipv4Addr::new(127, 0, 0, 1)] {
        pair.up(&udp(
            (source, 1),
            (GATEWAY, CONTROL_PORT),
            b"forged voucher",
        ))
        .unwrap();
        pair.up(&udp(
            (source, 1),
            (Ipv4Addr::new(203, 0, 113, 9), 80),
            b"forged",
        ))
        .unwrap();
    }
    pair.settle();
    assert_eq!(
        pair.at_provider,
        Delivered {
            refused: vec![DropReason::SpoofedSource; 4],
            ..Default::default()
        }
    );
    let stray = udp(
        (Ipv4Addr::new(203, 0, 113, 9), 80),
        (Ipv4Addr::new(10, 77, 0, 3), 1),
        b"stray",
    );
    assert_eq!(pair.down(&stray), Err(DropReason::NoRoute));
}

#[test]
fn addresses_and_keys_belong_to_one_peer() {
    let mut pair = Pair::open();
    let with = |public_key, allowed: &[&str]| PeerConfig {
        public_key,
        preshared_key: None,
        endpoint: None,
        allowed_ips: nets(allowed),
        keepalive: None,
    };
    let (own, client, third) = (
        pair.provider.public_key(),
        pair.client.public_key(),
        key(3).public_key(),
    );
    assert_eq!(
        pair.provider.add_peer(with(own, &[]), pair.now),
        Err(AddPeerError::OwnKey(own))
    );
    assert_eq!(
        pair.provider.add_peer(with(client, &[]), pair.now),
        Err(AddPeerError::DuplicateKey(client))
    );
    let taken = "10.77.0.2/32".parse().unwrap();
    assert_eq!(
        pair.provider
            .add_peer(with(third, &["10.77.0.5/32", "10.77.0.2/32"]), pair.now),
        Err(AddPeerError::AddressTaken(taken))
    );
    let other = pair
        .provider
        .add_peer(with(third, &["10.77.0.0/24"]), pair.now)
        .unwrap();
    pair.down(&response(b"longest prefix wins")).unwrap();
    assert!(pair.provider.remove_peer(pair.peer).is_some());
    assert_eq!(pair.provider.remove_peer(pair.peer), None);
    assert_eq!(
        pair.down(&response(b"the shorter prefix is left")),
        Err(DropReason::GateClosed)
    );
    assert_eq!(pair.provider.peer_by_key(&third), Some(other));
    assert_ne!(other, pair.peer);
}

#[test]
fn a_removed_peer_is_unknown() {
    let mut pair = Pair::open();
    pair.provider.remove_peer(pair.peer);
    pair.up(&request(b"late")).unwrap();
    pair.settle();
    assert_eq!(pair.at_provider.refused, [DropReason::UnknownPeer]);
}

#[test]
fn authentic_datagrams_move_the_endpoint_and_others_do_not() {
    let mut pair = Pair::open();
    while pair.provider.poll_event().is_some() {}
    pair.up(&request(b"from home")).unwrap();
    let mut forged = datagrams(&mut pair.client).remove(0).1;
    let authentic = forged.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    pair.client_at = outer(66);
    pair.carry_up(&forged);
    assert_eq!(pair.at_provider.refused, [DropReason::BadTag]);
    assert_eq!(
        pair.provider.status(pair.peer).unwrap().endpoint,
        Some(outer(2))
    );
    pair.client_at = outer(2);
    pair.carry_up(&authentic);
    // Heard by someone else and sent again: no move, no second delivery.
    pair.client_at = outer(66);
    pair.carry_up(&authentic);
    assert_eq!(pair.at_provider.refused[1..], [DropReason::Replay]);
    assert_eq!(
        pair.provider.status(pair.peer).unwrap().endpoint,
        Some(outer(2))
    );
    pair.client_at = outer(3);
    pair.up(&request(b"from the train")).unwrap();
    pair.settle();
    assert_eq!(
        pair.provider.poll_event(),
        Some(DeviceEvent::Roamed {
            peer: pair.peer,
            endpoint: outer(3)
        })
    );
    pair.down(&response(b"to the train")).unwrap();
    assert_eq!(datagrams(&mut pair.provider)[0].0, outer(3));
}

#[test]
fn junk_is_named_and_harmless() {
    let mut pair = Pair::open();
    pair.carry_up(b"GET / HTTP/1.1\r\n\r\n");
    pair.carry_up(&[]);
    let mut data = vec![0; 64];
    data[0] = 4;
    pair.carry_up(&data);
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    pair.carry_up(&initiation);
    pair.carry_up(&vec![4; 3000]);
    assert_eq!(
        pair.at_provider.refused,
        [
            DropReason::NotWireGuard,
            DropReason::NotWireGuard,
            DropReason::UnknownPeer,
            DropReason::BadHandshake,
            DropReason::Oversize
        ]
    );
    assert_eq!(pair.provider.dropped().total(), 5);
}

#[test]
fn a_flood_of_handshakes_is_asked_to_prove_its_address() {
    let mut pair = Pair::new();
    // Initiations that pass the first check, from someone without a configured key.
    let stranger_key = key(9);
    let mut refused = 0;
    let mut challenged = 0;
    for n in 0..260u32 {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&n.to_le_bytes());
        let config = DeviceConfig {
            private_key: stranger_key.clone(),
            ..config(9, Side::Provider)
        };
        let mut stranger = Device::new(config, seed, pair.now);
        let gateway = stranger
            .add_peer(
                PeerConfig {
                    public_key: pair.provider.public_key(),
                    preshared_key: None,
                    endpoint: Some(outer(1)),
                    allowed_ips: vec![],
                    keepalive: None,
                },
                pair.now,
            )
            .unwrap();
        stranger.initiate(gateway).unwrap();
        let initiation = datagrams(&mut stranger).remove(0).1;
        pair.carry_up(&initiation);
        challenged += datagrams(&mut pair.provider).len();
        refused = pair.at_provider.refused.len();
    }
    assert!(challenged >= 50, "{challenged} cookie replies");
    assert!(
        refused >= 200
            && pair
                .at_provider
                .refused
                .iter()
                .all(|&reason| reason == DropReason::UnknownPeer)
    );
}

#[test]
fn oversized_packets_are_refused() {
    let mut pair = Pair::open();
    assert_eq!(
        pair.up(&vec![0x45; INNER_MTU + 1]),
        Err(DropReason::Oversize)
    );
    assert_eq!(pair.up(&[0x45; 10]), Err(DropReason::Malformed));
    let largest = request(&[7; INNER_MTU - 28]);
    pair.up(&largest).unwrap();
    pair.settle();
    assert_eq!(pair.at_provider.packets, [largest]);
}

#[test]
fn padding_hides_lengths_up_to_the_mtu() {
    assert_eq!(padded_len(0), 0);
    assert_eq!(padded_len(1), 16);
    assert_eq!(padded_len(16), 16);
    assert_eq!(padded_len(1401), 1408);
    assert_eq!(padded_len(1409), 1420);
    assert_eq!(padded_len(1420), 1420);
}

#[test]
fn both_ends_initiating_at_once_still_meet() {
    let mut pair = Pair::new();
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    pair.client.initiate(pair.gateway).unwrap();
    pair.settle();
    // Each starts another handshake; the two cross on the way.
    let crossing = |device: &mut Device, id| {
        device.initiate(id).unwrap();
        datagrams(device)
    };
    let (up, down) = (
        crossing(&mut pair.client, pair.gateway),
        crossing(&mut pair.provider, pair.peer),
    );
    up.iter().for_each(|(_, datagram)| pair.carry_up(datagram));
    down.iter()
        .for_each(|(_, datagram)| pair.carry_down(datagram));
    pair.settle();
    pair.up(&request(b"still here")).unwrap();
    pair.down(&response(b"here too")).unwrap();
    pair.settle();
    assert_eq!(
        (pair.at_provider.packets.len(), pair.at_client.packets.len()),
        (1, 1)
    );
}

#[test]
fn thousands_of_peers_are_told_apart() {
    let now = Instant::now();
    let mut provider = Device::new(config(1, Side::Provider), [1; 32], now);
    let mut ids = Vec::new();
    for n in 0..2000u32 {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        let address = Ipv4Addr::from(0x0a4d_0000 + n);
        let config = PeerConfig {
            public_key: PublicKey::from_bytes(bytes),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec![IpNet::from(std::net::IpAddr::V4(address))],
            keepalive: None,
        };
        ids.push(provider.add_peer(config, now).unwrap());
    }
    for (n, &id) in ids.iter().enumerate() {
        let address = Ipv4Addr::from(0x0a4d_0000 + n as u32);
        provider.set_gate(id, Gate::Open, now);
        let packet = udp((GATEWAY, 1), (address, 1), b"x");
        assert_eq!(
            provider.handle_packet(&packet, now),
            Err(DropReason::NoEndpoint)
        );
    }
    provider.handle_timeout(now + Duration::from_secs(1));
    assert_eq!(provider.dropped().get(DropReason::NoEndpoint), 2000);
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Up(usize),
    Down(usize),
    ControlUp(usize),
    ControlDown(usize),
    Gate(u8),
    Carry,
    Roam(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..1392).prop_map(Step::Up),
        4 => (0usize..1392).prop_map(Step::Down),
        1 => (0usize..1300).prop_map(Step::ControlUp),
        1 => (0usize..1300).prop_map(Step::ControlDown),
        1 => (0u8..3).prop_map(Step::Gate),
        4 => Just(Step::Carry),
        1 => (2u8..9).prop_map(Step::Roam),
        1 => (0u16..2000).prop_map(Step::Wait),
    ]
}

/// A link that loses, repeats and reorders as told.
fn mistreat(datagrams: Vec<(SocketAddr, Vec<u8>)>, fate: &mut VecDeque<u8>) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (_, datagram) in datagrams {
        match fate.pop_front().unwrap_or(9) {
            0 | 1 => {}
            2 => out.extend([datagram.clone(), datagram]),
            3 => out.insert(0, datagram),
            _ => out.push(datagram),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the link does: nothing is delivered twice or changed, control passes beside the gate, usage never
    /// holds control bytes, and neither end counts more received than the other has sent.
    #[test]
    fn no_link_makes_the_ends_disagree(
        steps in proptest::collection::vec(step(), 1..80),
        fate in proptest::collection::vec(0u8..12, 0..200),
    ) {
        let mut pair = Pair::open();
        let mut fate = VecDeque::from(fate);
        let (mut sent_up, mut sent_down) = (Vec::new(), Vec::new());
        for (n, step) in steps.into_iter().enumerate() {
            let tag = (n as u32).to_be_bytes();
            let fill = |len: usize| { let mut bytes = vec![0; len.max(4)]; bytes[..4].copy_from_slice(&tag); bytes };
            match step {
                Step::Up(len) => {
                    let packet = request(&fill(len));
                    if pair.up(&packet).is_ok() { sent_up.push(packet); }
                }
                Step::Down(len) => {
                    let packet = response(&fill(len));
                    if pair.down(&packet).is_ok() { sent_down.push(packet); }
                }
                Step::ControlUp(len) => { let _ = pair.client.send_control(pair.gateway, &fill(len), pair.now); }
                Step::ControlDown(len) => { let _ = pair.provider.send_control(pair.peer, &fill(len), pair.now); }
                Step::Gate(which) => {
                    let gate = [Gate::Closed, Gate::Open, Gate::Throttled { bytes_per_second: 10_000 }][usize::from(which)];
                    pair.provider.set_gate(pair.peer, gate, pair.now);
                }
                Step::Carry => {
                    for datagram in mistreat(datagrams(&mut pair.client), &mut fate) { pair.carry_up(&datagram); }
                    for datagram in mistreat(datagrams(&mut pair.provider), &mut fate) { pair.carry_down(&datagram); }
                }
                Step::Roam(to) => pair.client_at = outer(to),
                Step::Wait(millis) => pair.now += Duration::from_millis(millis.into()),
            }
        }
        pair.settle();
        for (sent, delivered) in [(&sent_up, &pair.at_provider.packets), (&sent_down, &pair.at_client.packets)] {
            let mut rest = sent.clone();
            for packet in delivered {
                let at = rest.iter().position(|other| other == packet);
                prop_assert!(at.is_some(), "a packet was changed, forged or delivered twice");
                rest.remove(at.unwrap());
            }
        }
        let total = |packets: &[Vec<u8>]| packets.iter().map(|packet| packet.len() as u64).sum::<u64>();
        let (theirs, ours) = pair.usages();
        prop_assert_eq!(ours.bytes_up, total(&sent_up));
        prop_assert_eq!(theirs.bytes_down, total(&sent_down));
        prop_assert_eq!(theirs.bytes_up, total(&pair.at_provider.packets));
        prop_assert_eq!(ours.bytes_down, total(&pair.at_client.packets));
        prop_assert!(theirs.bytes_up <= ours.bytes_up && ours.bytes_down <= theirs.bytes_down);
    }

    /// On a link that loses nothing, with an open gate, both ends count the same to the byte.
    #[test]
    fn on_a_whole_path_both_ends_count_the_same(
        packets in proptest::collection::vec((any::<bool>(), 0usize..1392), 0..100),
    ) {
        let mut pair = Pair::open();
        for (up, len) in packets {
            if up { pair.up(&request(&vec![0; len])).unwrap(); } else { pair.down(&response(&vec![0; len])).unwrap(); }
        }
        pair.settle();
        let (theirs, ours) = pair.usages();
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..6) {
        let mut pair = Pair::open();
        let mut bytes = bytes;
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        pair.carry_up(&bytes);
        let mut short = [0; 16];
        let _ = pair.provider.handle_datagram(outer(2), &bytes, pair.now, &mut short);
        let _ = pair.up(&bytes);
    }
}
