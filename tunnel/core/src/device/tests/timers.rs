//! Time: what a peer that is away costs, and what the Noise library makes of quiet spells.

use super::*;

/// Carries everything, second by second, and calls the devices as they want to be called.
fn pass(pair: &mut Pair, seconds: u64) {
    for _ in 0..seconds {
        pair.now += Duration::from_secs(1);
        let now = pair.now;
        for device in [&mut pair.client, &mut pair.provider] {
            if device.poll_timeout().is_some_and(|at| at <= now) {
                device.handle_timeout(now);
            }
        }
        pair.settle();
    }
}

/// Handshake initiations among what a device wants to send.
fn initiations(device: &mut Device) -> usize {
    let all = datagrams(device);
    all.iter().filter(|(_, datagram)| datagram[0] == 1).count()
}

fn delivered(pair: &mut Pair) -> usize {
    let before = pair.at_provider.packets.len();
    pair.up(&request(b"is anybody there")).unwrap();
    pair.settle();
    pair.at_provider.packets.len() - before
}

#[test]
fn peers_that_are_away_are_not_looked_at() {
    let mut pair = Pair::new();
    assert_eq!(pair.provider.poll_timeout(), None);
    assert!(!pair.provider.peers[&pair.peer].session.is_awake());
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    assert_eq!(delivered(&mut pair), 1);
    assert!(pair.provider.poll_timeout().is_some());
    let mut looks = 0;
    for _ in 0..600 {
        pair.now += Duration::from_secs(1);
        if let Some(at) = pair.provider.poll_timeout().filter(|&at| at <= pair.now) {
            looks += 1;
            pair.provider.handle_timeout(at.max(pair.now));
        }
        pair.client.handle_timeout(pair.now);
        pair.settle();
    }
    assert!(looks < 20, "{looks} looks at a quiet peer in ten minutes");
    assert_eq!(pair.provider.poll_timeout(), None);
    assert!(!pair.provider.peers[&pair.peer].session.is_awake());
    assert_eq!(delivered(&mut pair), 1, "and it may come back");
}

#[test]
fn a_session_lasts_even_if_the_peer_was_not_polled_for_minutes() {
    let mut pair = Pair::open();
    pair.now += Duration::from_secs(200);
    pair.client.initiate(pair.gateway, pair.now).unwrap();
    pair.settle();
    let now = pair.now;
    pair.client.handle_timeout(now);
    pair.provider.handle_timeout(now);
    assert!(pair.client.status(pair.gateway).unwrap().established);
    assert!(pair.provider.status(pair.peer).unwrap().established);
    assert_eq!(delivered(&mut pair), 1);
}

#[test]
fn a_quiet_spell_is_no_reason_for_a_handshake() {
    let mut pair = Pair::open();
    pass(&mut pair, 60);
    pair.up(&request(b"after a minute")).unwrap();
    let mut sent = datagrams(&mut pair.client);
    pair.now += Duration::from_secs(2);
    pair.client.handle_timeout(pair.now);
    sent.extend(datagrams(&mut pair.client));
    assert_eq!(sent.len(), 1, "the packet, and no handshake");
    // Without any answer there is one, 15 seconds after the packet.
    let mut waited = 2;
    while initiations(&mut pair.client) == 0 {
        pair.now += Duration::from_secs(1);
        pair.client.handle_timeout(pair.now);
        waited += 1;
        assert!(waited < 30);
    }
    assert!((15..=16).contains(&waited), "{waited} seconds");
}

#[test]
fn whoever_only_receives_confirms_within_ten_seconds() {
    let mut pair = Pair::open();
    pass(&mut pair, 60);
    pair.up(&request(b"anybody there?")).unwrap();
    pair.settle();
    let before = pair.provider.peers().next().unwrap().1.transfer.sent;
    pass(&mut pair, 9);
    let silent = pair.provider.peers().next().unwrap().1.transfer.sent;
    assert_eq!(silent, before, "not at once");
    pass(&mut pair, 2);
    let sent = pair.provider.peers().next().unwrap().1.transfer.sent;
    assert_eq!(sent - before, 32, "one keepalive");
}

#[test]
fn a_peer_that_was_never_connected_is_idle_and_not_broken() {
    let mut pair = Pair::new();
    pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
    // It calls, nobody answers, and it gives up.
    pair.up(&request(b"hello")).unwrap();
    for _ in 0..700 {
        pair.now += Duration::from_secs(1);
        pair.client.handle_timeout(pair.now);
        pair.provider.handle_timeout(pair.now);
        datagrams(&mut pair.client);
    }
    assert_eq!(pair.client.poll_timeout(), None);
    let arrived = delivered(&mut pair);
    assert!(arrived >= 1, "it calls again, and what waited arrives");
}

#[test]
fn a_handshake_heard_before_does_not_wake_a_peer_that_is_away() {
    let mut pair = Pair::new();
    pair.client.initiate(pair.gateway, pair.now).unwrap();
    let heard = datagrams(&mut pair.client).remove(0).1;
    pair.carry_up(&heard);
    pair.settle();
    for _ in 0..600 {
        pair.now += Duration::from_secs(1);
        pair.provider.handle_timeout(pair.now);
    }
    assert!(!pair.provider.peers[&pair.peer].session.is_awake());
    pair.client_at = outer(66);
    pair.carry_up(&heard);
    assert_eq!(pair.at_provider.refused, [DropReason::BadHandshake]);
    let endpoint = pair.provider.status(pair.peer).unwrap().endpoint;
    assert_eq!(endpoint, Some(outer(2)));
    pass(&mut pair, 2);
    assert!(!pair.provider.peers[&pair.peer].session.is_awake());
    assert_eq!(pair.provider.poll_timeout(), None);
}

#[test]
fn sessions_are_renewed_without_losing_a_packet() {
    let mut pair = Pair::open();
    while pair.client.poll_event().is_some() {}
    let mut handshakes = 0;
    for _ in 0..900 {
        pass(&mut pair, 1);
        assert_eq!(delivered(&mut pair), 1);
        while let Some(event) = pair.client.poll_event() {
            handshakes += u32::from(matches!(event, DeviceEvent::Handshaked { .. }));
        }
    }
    assert!((6..=8).contains(&handshakes), "{handshakes} in 15 minutes");
}

#[test]
fn a_peer_that_is_kept_alive_is_called_until_it_is_there() {
    let mut pair = Pair::new();
    pair.client.set_keepalive(pair.gateway, Some(25), pair.now);
    for _ in 0..1000 {
        pair.now += Duration::from_secs(1);
        pair.client.handle_timeout(pair.now);
        datagrams(&mut pair.client);
    }
    // The other end comes back.
    pass(&mut pair, 60);
    assert!(pair.provider.status(pair.peer).unwrap().established);
}
