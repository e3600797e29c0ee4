//! Handshakes, gates and control datagrams.

use super::*;

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
fn a_lost_first_message_can_be_repeated_at_once() {
    let mut pair = Pair::new();
    pair.client.initiate(pair.gateway, pair.now).unwrap();
    assert_eq!(datagrams(&mut pair.client).len(), 1, "lost on the way");
    pair.client.initiate(pair.gateway, pair.now).unwrap();
    assert_eq!(datagrams(&mut pair.client).len(), 0, "one is under way");
    pair.client.initiate_again(pair.gateway, pair.now).unwrap();
    pair.settle();
    assert!(pair.client.status(pair.gateway).unwrap().established);
}

#[test]
fn the_newest_packets_wait_for_a_handshake() {
    let mut pair = Pair::new();
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    for n in 0..100u8 {
        pair.up(&request(&[n])).unwrap();
    }
    assert_eq!(pair.client.dropped().get(DropReason::HandshakeBacklog), 36);
    pair.settle();
    let expected: Vec<_> = (36..100u8).map(|n| request(&[n])).collect();
    assert_eq!(pair.at_provider.packets, expected);
    let (theirs, ours) = pair.usages();
    assert_eq!(theirs, ours);
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
