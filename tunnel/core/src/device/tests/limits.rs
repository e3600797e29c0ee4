//! Paid bytes and the capacity that peers share.

use proptest::prelude::*;

use super::*;
use crate::gate::Limits;

fn paid(byte_limit: u64) -> Gate {
    Gate::Limited(Limits {
        rates: Rates::UNLIMITED,
        byte_limit,
    })
}

#[test]
fn what_waits_for_a_handshake_keeps_to_the_byte_limit() {
    let mut pair = Pair::new();
    pair.provider.set_endpoint(pair.peer, outer(2));
    let packet = response(&[7; 72]);
    pair.provider.set_gate(pair.peer, paid(250), pair.now);
    for _ in 0..5 {
        // Nothing is counted yet, so that each of them alone may pass.
        pair.down(&packet).unwrap();
    }
    pair.settle();
    assert_eq!(pair.at_client.packets.len(), 2);
    assert_eq!(pair.usages().0.bytes(), 200);
    assert_eq!(pair.provider.dropped().get(DropReason::ByteCredit), 3);
}

/// A second client of the pair's provider.
fn second_peer(pair: &mut Pair) -> PeerId {
    let config = PeerConfig {
        public_key: key(3).public_key(),
        preshared_key: None,
        endpoint: Some(outer(3)),
        allowed_ips: nets(&["10.77.0.3/32"]),
        keepalive: None,
    };
    let id = pair.provider.add_peer(config, pair.now).unwrap();
    pair.provider.set_gate(id, Gate::Open, pair.now);
    let mut third = Device::new(config_of_third(), [3; 32], pair.now);
    let gateway = PeerConfig {
        public_key: pair.provider.public_key(),
        preshared_key: None,
        endpoint: Some(outer(1)),
        allowed_ips: nets(&["0.0.0.0/0"]),
        keepalive: None,
    };
    let gateway = third.add_peer(gateway, pair.now).unwrap();
    third.initiate(gateway, pair.now).unwrap();
    let mut ignored = Delivered::default();
    for (_, datagram) in datagrams(&mut third) {
        take(
            &mut pair.provider,
            outer(3),
            &datagram,
            pair.now,
            &mut ignored,
        );
    }
    for (_, datagram) in datagrams(&mut pair.provider) {
        take(&mut third, outer(1), &datagram, pair.now, &mut ignored);
    }
    for (_, datagram) in datagrams(&mut third) {
        take(
            &mut pair.provider,
            outer(3),
            &datagram,
            pair.now,
            &mut ignored,
        );
    }
    assert!(pair.provider.status(id).unwrap().established);
    id
}

fn config_of_third() -> DeviceConfig {
    let inner_v4 = Ipv4Addr::new(10, 77, 0, 3);
    config(3, Side::Client { inner_v4 })
}

#[test]
fn peers_share_the_capacity_by_weight_and_use_what_others_leave() {
    let mut pair = Pair::open();
    let capacity = Rates {
        up: u64::MAX,
        down: 1_000_000,
    };
    pair.provider.set_capacity(capacity, pair.now);
    let second = second_peer(&mut pair);
    let weights = |weight| Rates {
        up: 1,
        down: weight,
    };
    assert!(pair.provider.set_weights(pair.peer, weights(3)));
    assert!(pair.provider.set_weights(second, weights(1)));
    let to_first = response(&[0; 1_200]);
    let to_second = udp(
        (Ipv4Addr::new(203, 0, 113, 9), 443),
        (Ipv4Addr::new(10, 77, 0, 3), 4000),
        &[0; 1_200],
    );
    let moved = |pair: &mut Pair, second_wants: bool| {
        let before = [pair.peer, second].map(|id| pair.provider.usage(id).unwrap().bytes_down);
        for _ in 0..2_000 {
            pair.now += Duration::from_millis(1);
            while second_wants && pair.provider.handle_packet(&to_second, pair.now).is_ok() {}
            while pair.down(&to_first).is_ok() {}
            datagrams(&mut pair.provider);
        }
        let after = [pair.peer, second].map(|id| pair.provider.usage(id).unwrap().bytes_down);
        (after[0] - before[0], after[1] - before[1])
    };
    let (alone, _) = moved(&mut pair, false);
    assert!((1_980_000..2_110_000).contains(&alone), "{alone}");
    let (first, other) = moved(&mut pair, true);
    assert!((1_450_000..1_550_000).contains(&first), "{first}");
    assert!((460_000..540_000).contains(&other), "{other}");
    assert!(pair.provider.dropped().get(DropReason::Capacity) > 0);
    pair.provider.remove_peer(second);
    let before = pair.provider.usage(pair.peer).unwrap().bytes_down;
    for _ in 0..1_000 {
        pair.now += Duration::from_millis(1);
        while pair.down(&to_first).is_ok() {}
        datagrams(&mut pair.provider);
    }
    let alone = pair.provider.usage(pair.peer).unwrap().bytes_down - before;
    assert!((980_000..1_020_000).contains(&alone), "{alone}");
}

#[test]
fn room_tells_what_would_pass() {
    let mut pair = Pair::open();
    assert_eq!(pair.provider.room(pair.peer, pair.now), u64::MAX);
    pair.provider.set_gate(pair.peer, paid(1_000), pair.now);
    assert_eq!(pair.provider.room(pair.peer, pair.now), 1_000);
    pair.down(&response(&[0; 72])).unwrap();
    assert_eq!(pair.provider.room(pair.peer, pair.now), 900);
    // Nobody should wait for a closed gate to let something pass.
    pair.provider.set_gate(pair.peer, Gate::Closed, pair.now);
    assert_eq!(pair.provider.room(pair.peer, pair.now), u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Traffic in both directions never passes what was paid, whatever is paid when; and nothing is refused that
    /// was paid for.
    #[test]
    fn paid_bytes_are_kept_to_the_byte(
        steps in proptest::collection::vec((0u8..5, 0usize..1392), 1..200),
    ) {
        let mut pair = Pair::open();
        let mut limit = 3_000u64;
        pair.provider.set_gate(pair.peer, paid(limit), pair.now);
        for (what, len) in steps {
            let used = pair.usages().0.bytes();
            let fits = |packet: &[u8]| used + packet.len() as u64 <= limit;
            match what {
                0 => {
                    limit += len as u64;
                    pair.provider.set_gate(pair.peer, paid(limit), pair.now);
                }
                1 | 2 => {
                    let packet = request(&vec![0; len]);
                    let delivered = pair.at_provider.packets.len();
                    pair.up(&packet).unwrap();
                    pair.settle();
                    prop_assert_eq!(pair.at_provider.packets.len() > delivered, fits(&packet));
                }
                _ => {
                    let packet = response(&vec![0; len]);
                    let expected = if fits(&packet) { Ok(pair.peer) } else { Err(DropReason::ByteCredit) };
                    prop_assert_eq!(pair.down(&packet), expected);
                    pair.settle();
                }
            }
            prop_assert!(pair.usages().0.bytes() <= limit);
        }
    }
}
