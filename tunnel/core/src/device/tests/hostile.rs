//! Peers and strangers that do what they should not.

use super::*;

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
fn stun_messages_are_handed_on_as_they_are_and_count_as_nothing() {
    let mut pair = Pair::open();
    let message = ipsx_stun::Message::Indication.write(ipsx_stun::Transaction::from(7));
    pair.carry_up(&message);
    assert_eq!(pair.at_provider.stun, [message]);
    assert_eq!(pair.at_provider.refused, []);
    assert_eq!(pair.provider.dropped().total(), 0);
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
        stranger.initiate(gateway, pair.now).unwrap();
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

/// An initiation of a configured peer, with a cookie if the provider's answer to an earlier one is given.
fn call(client: &mut Device, gateway: PeerId, cookie: Option<&[u8]>, now: Instant) -> Vec<u8> {
    if let Some(cookie) = cookie {
        let mut buffer = [0; 256];
        let nothing = client.handle_datagram(outer(1), cookie, now, &mut buffer);
        assert_eq!(nothing, Ok(None));
    }
    client.initiate_again(gateway, now).unwrap();
    datagrams(client).remove(0).1
}

#[test]
fn a_peer_gets_through_a_flood_with_its_cookie_and_a_flood_does_not() {
    let mut pair = Pair::new();
    let mut noise = pair.client_flood(20_000);
    let answered = noise.answered;
    // As many as may pass by themselves, and then cookies up to their limit.
    assert_eq!(answered, 10_000);
    let refused = |reason| pair.provider.dropped().get(reason);
    assert_eq!(refused(DropReason::UnknownPeer), 200);
    assert_eq!(refused(DropReason::HandshakeRate), 20_000 - 200 - 10_000);

    // The next second: the first 200 are the flood's again.
    pair.now += Duration::from_secs(1);
    noise.again(&mut pair, 300);
    let now = pair.now;
    let first = call(&mut pair.client, pair.gateway, None, now);
    pair.carry_up(&first);
    let cookie = datagrams(&mut pair.provider).remove(0).1;
    assert_eq!(cookie.len(), 64);
    let second = call(&mut pair.client, pair.gateway, Some(&cookie), now);
    pair.carry_up(&second);
    pair.settle();
    assert!(pair.client.status(pair.gateway).unwrap().established);

    // A cookie is worth a few handshakes, not as many as its owner likes.
    let before = pair.provider.dropped().get(DropReason::HandshakeRate);
    for _ in 0..100 {
        let more = call(&mut pair.client, pair.gateway, None, now);
        pair.carry_up(&more);
        datagrams(&mut pair.provider);
    }
    let after = pair.provider.dropped().get(DropReason::HandshakeRate);
    assert!((90..=96).contains(&(after - before)), "{}", after - before);
}

/// Initiations with the right first MAC from someone without a configured key, from many addresses.
struct Flood {
    message: Vec<u8>,
    answered: usize,
    sent: u32,
}

impl Pair {
    fn client_flood(&mut self, count: u32) -> Flood {
        let mut stranger = Device::new(config(9, Side::Provider), [9; 32], self.now);
        let config = PeerConfig {
            public_key: self.provider.public_key(),
            preshared_key: None,
            endpoint: Some(outer(1)),
            allowed_ips: vec![],
            keepalive: None,
        };
        let gateway = stranger.add_peer(config, self.now).unwrap();
        stranger.initiate(gateway, self.now).unwrap();
        let mut flood = Flood {
            message: datagrams(&mut stranger).remove(0).1,
            answered: 0,
            sent: 0,
        };
        flood.again(self, count);
        flood
    }
}

impl Flood {
    fn again(&mut self, pair: &mut Pair, count: u32) {
        for _ in 0..count {
            self.sent += 1;
            let from = SocketAddr::from((Ipv4Addr::from(0xc633_0000 + self.sent), 1));
            let _ = pair
                .provider
                .handle_datagram(from, &self.message, pair.now, &mut [0; 256]);
            self.answered += datagrams(&mut pair.provider).len();
        }
    }
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
    assert_eq!(padded_len(0, INNER_MTU), 0);
    assert_eq!(padded_len(1, INNER_MTU), 16);
    assert_eq!(padded_len(16, INNER_MTU), 16);
    assert_eq!(padded_len(1401, INNER_MTU), 1408);
    assert_eq!(padded_len(1409, INNER_MTU), 1420);
    assert_eq!(padded_len(1420, INNER_MTU), 1420);
}

#[test]
fn both_ends_initiating_at_once_still_meet() {
    let mut pair = Pair::new();
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    pair.client.initiate(pair.gateway, pair.now).unwrap();
    pair.settle();
    // Each starts another handshake; the two cross on the way.
    let now = pair.now;
    let crossing = |device: &mut Device, id| {
        device.initiate(id, now).unwrap();
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

#[test]
fn too_small_a_buffer_is_refused_whatever_arrives() {
    let mut pair = Pair::open();
    pair.client.initiate_again(pair.gateway, pair.now).unwrap();
    let (_, initiation) = datagrams(&mut pair.client).remove(0);
    let now = pair.now;
    let mut take = |datagram: &[u8], room: usize| {
        pair.provider
            .handle_datagram(outer(2), datagram, now, &mut [0; 256][..room])
            .map(|inbound| inbound.is_none())
    };
    for room in 0..148 {
        assert_eq!(take(&initiation, room), Err(DropReason::Oversize));
        assert_eq!(take(&initiation[..92], room), Err(DropReason::Oversize));
    }
    assert_eq!(take(&initiation, 148), Ok(true));
}

#[test]
fn a_handshake_is_counted_once() {
    // Of 200 messages in a second, none has to prove its address.
    const CALLERS: u8 = 200;
    let now = Instant::now();
    let mut provider = Device::new(config(0, Side::Provider), [1; 32], now);
    let mut answers = 0;
    for n in 1..=CALLERS {
        let client = config(n, Side::Bare);
        let mut client = Device::new(client, [n; 32], now);
        let peer = |public_key, endpoint| PeerConfig {
            public_key,
            preshared_key: None,
            endpoint,
            allowed_ips: vec![],
            keepalive: None,
        };
        provider
            .add_peer(peer(client.public_key(), None), now)
            .unwrap();
        let to = peer(provider.public_key(), Some(outer(0)));
        let gateway = client.add_peer(to, now).unwrap();
        client.initiate(gateway, now).unwrap();
        let (_, initiation) = datagrams(&mut client).remove(0);
        provider
            .handle_datagram(outer(n), &initiation, now, &mut [0; 256])
            .unwrap();
        let (_, answer) = datagrams(&mut provider).remove(0);
        answers += usize::from(answer[0] == 2);
    }
    assert_eq!(answers, usize::from(CALLERS), "each is answered, no cookie");
}

#[test]
fn a_known_peer_is_asked_to_prove_its_address_even_after_all_strangers() {
    let mut pair = Pair::open();
    // All cookies of this second, and more.
    let flood = pair.client_flood(30_000);
    assert!(flood.answered < 11_000, "{} answers", flood.answered);
    let answer = |pair: &mut Pair, from: SocketAddr, initiation: &[u8]| {
        let _ = pair
            .provider
            .handle_datagram(from, initiation, pair.now, &mut [0; 256]);
        datagrams(&mut pair.provider)
            .pop()
            .map(|(_, answer)| answer)
    };
    let initiation = call(&mut pair.client, pair.gateway, None, pair.now);
    assert_eq!(answer(&mut pair, outer(200), &initiation), None);
    let cookie = answer(&mut pair, outer(2), &initiation).unwrap();
    assert_eq!(cookie[0], 3, "a cookie");
    let proven = call(&mut pair.client, pair.gateway, Some(&cookie), pair.now);
    let response = answer(&mut pair, outer(2), &proven).unwrap();
    assert_eq!(response[0], 2, "a response");
}
