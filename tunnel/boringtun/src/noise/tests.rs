// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

use crate::noise::timers::{REKEY_AFTER_TIME, REKEY_TIMEOUT};
use std::time::Duration;

use super::*;
use rand_core::{OsRng, RngCore};

fn create_two_tuns() -> (Tunn, Tunn) {
    let my_secret_key = x25519_dalek::StaticSecret::random_from_rng(OsRng);
    let my_public_key = x25519_dalek::PublicKey::from(&my_secret_key);
    let my_idx = OsRng.next_u32();

    let their_secret_key = x25519_dalek::StaticSecret::random_from_rng(OsRng);
    let their_public_key = x25519_dalek::PublicKey::from(&their_secret_key);
    let their_idx = OsRng.next_u32();

    let now = Instant::now();
    let my_tun = Tunn::new(
        my_secret_key,
        their_public_key,
        None,
        None,
        my_idx,
        None,
        now,
    );

    let their_tun = Tunn::new(
        their_secret_key,
        my_public_key,
        None,
        None,
        their_idx,
        None,
        now,
    );

    (my_tun, their_tun)
}

fn create_handshake_init(tun: &mut Tunn) -> Vec<u8> {
    let mut dst = vec![0u8; 2048];
    let handshake_init = tun.format_handshake_initiation(&mut dst, false);
    assert!(matches!(handshake_init, TunnResult::WriteToNetwork(_)));
    let handshake_init = if let TunnResult::WriteToNetwork(sent) = handshake_init {
        sent
    } else {
        unreachable!();
    };

    handshake_init.into()
}

fn create_handshake_response(tun: &mut Tunn, handshake_init: &[u8]) -> Vec<u8> {
    let mut dst = vec![0u8; 2048];
    let handshake_resp = tun.decapsulate(None, handshake_init, &mut dst);
    assert!(matches!(handshake_resp, TunnResult::WriteToNetwork(_)));

    let handshake_resp = if let TunnResult::WriteToNetwork(sent) = handshake_resp {
        sent
    } else {
        unreachable!();
    };

    handshake_resp.into()
}

fn parse_handshake_resp(tun: &mut Tunn, handshake_resp: &[u8]) -> Vec<u8> {
    let mut dst = vec![0u8; 2048];
    let keepalive = tun.decapsulate(None, handshake_resp, &mut dst);
    assert!(matches!(keepalive, TunnResult::WriteToNetwork(_)));

    let keepalive = if let TunnResult::WriteToNetwork(sent) = keepalive {
        sent
    } else {
        unreachable!();
    };

    keepalive.into()
}

fn parse_keepalive(tun: &mut Tunn, keepalive: &[u8]) {
    let mut dst = vec![0u8; 2048];
    let keepalive = tun.decapsulate(None, keepalive, &mut dst);
    assert!(matches!(keepalive, TunnResult::Done));
}

fn create_two_tuns_and_handshake() -> (Tunn, Tunn) {
    let (mut my_tun, mut their_tun) = create_two_tuns();
    let init = create_handshake_init(&mut my_tun);
    let resp = create_handshake_response(&mut their_tun, &init);
    let keepalive = parse_handshake_resp(&mut my_tun, &resp);
    parse_keepalive(&mut their_tun, &keepalive);

    (my_tun, their_tun)
}

fn create_ipv4_udp_packet() -> Vec<u8> {
    let mut packet = vec![0; 32];
    packet[0] = 0x45;
    packet[3] = 32;
    packet[9] = 17;
    packet
}

fn advance(tun: &mut Tunn, by: Duration) {
    tun.set_time(tun.timers.now() + by);
}

fn update_timer_results_in_handshake(tun: &mut Tunn) {
    let mut dst = vec![0u8; 2048];
    let result = tun.update_timers(&mut dst);
    assert!(matches!(result, TunnResult::WriteToNetwork(_)));
    let packet_data = if let TunnResult::WriteToNetwork(data) = result {
        data
    } else {
        unreachable!();
    };
    let packet = Tunn::parse_incoming_packet(packet_data).unwrap();
    assert!(matches!(packet, Packet::HandshakeInit(_)));
}

#[test]
fn create_two_tunnels_linked_to_eachother() {
    let (_my_tun, _their_tun) = create_two_tuns();
}

#[test]
fn handshake_init() {
    let (mut my_tun, _their_tun) = create_two_tuns();
    let init = create_handshake_init(&mut my_tun);
    let packet = Tunn::parse_incoming_packet(&init).unwrap();
    assert!(matches!(packet, Packet::HandshakeInit(_)));
}

#[test]
fn handshake_init_and_response() {
    let (mut my_tun, mut their_tun) = create_two_tuns();
    let init = create_handshake_init(&mut my_tun);
    let resp = create_handshake_response(&mut their_tun, &init);
    let packet = Tunn::parse_incoming_packet(&resp).unwrap();
    assert!(matches!(packet, Packet::HandshakeResponse(_)));
}

#[test]
fn full_handshake() {
    let (mut my_tun, mut their_tun) = create_two_tuns();
    let init = create_handshake_init(&mut my_tun);
    let resp = create_handshake_response(&mut their_tun, &init);
    let keepalive = parse_handshake_resp(&mut my_tun, &resp);
    let packet = Tunn::parse_incoming_packet(&keepalive).unwrap();
    assert!(matches!(packet, Packet::PacketData(_)));
}

#[test]
fn full_handshake_plus_timers() {
    let (mut my_tun, mut their_tun) = create_two_tuns_and_handshake();
    // Time has not yet advanced so their is nothing to do
    assert!(matches!(my_tun.update_timers(&mut []), TunnResult::Done));
    assert!(matches!(their_tun.update_timers(&mut []), TunnResult::Done));
}

#[test]
fn new_handshake_after_two_mins() {
    let (mut my_tun, mut their_tun) = create_two_tuns_and_handshake();
    let mut my_dst = [0u8; 1024];

    // Advance time 1 second and "send" 1 packet so that we send a handshake
    // after the timeout
    advance(&mut my_tun, Duration::from_secs(1));
    advance(&mut their_tun, Duration::from_secs(1));
    assert!(matches!(their_tun.update_timers(&mut []), TunnResult::Done));
    assert!(matches!(
        my_tun.update_timers(&mut my_dst),
        TunnResult::Done
    ));
    let sent_packet_buf = create_ipv4_udp_packet();
    let data = my_tun.encapsulate(&sent_packet_buf, &mut my_dst);
    assert!(matches!(data, TunnResult::WriteToNetwork(_)));

    //Advance to timeout
    advance(&mut my_tun, REKEY_AFTER_TIME);
    advance(&mut their_tun, REKEY_AFTER_TIME);
    assert!(matches!(their_tun.update_timers(&mut []), TunnResult::Done));
    update_timer_results_in_handshake(&mut my_tun);
}

#[test]
fn handshake_no_resp_rekey_timeout() {
    let (mut my_tun, _their_tun) = create_two_tuns();

    let init = create_handshake_init(&mut my_tun);
    let packet = Tunn::parse_incoming_packet(&init).unwrap();
    assert!(matches!(packet, Packet::HandshakeInit(_)));

    advance(&mut my_tun, REKEY_TIMEOUT);
    update_timer_results_in_handshake(&mut my_tun)
}

#[test]
fn one_ip_packet() {
    let (mut my_tun, mut their_tun) = create_two_tuns_and_handshake();
    let mut my_dst = [0u8; 1024];
    let mut their_dst = [0u8; 1024];

    let sent_packet_buf = create_ipv4_udp_packet();

    let data = my_tun.encapsulate(&sent_packet_buf, &mut my_dst);
    assert!(matches!(data, TunnResult::WriteToNetwork(_)));
    let data = if let TunnResult::WriteToNetwork(sent) = data {
        sent
    } else {
        unreachable!();
    };

    let data = their_tun.decapsulate(None, data, &mut their_dst);
    assert!(matches!(data, TunnResult::WriteToTunnelV4(..)));
    let recv_packet_buf = if let TunnResult::WriteToTunnelV4(recv, _addr) = data {
        recv
    } else {
        unreachable!();
    };
    assert_eq!(sent_packet_buf, recv_packet_buf);
}

#[test]
fn next_timer_is_when_something_happens() {
    let (mut my_tun, mut their_tun) = create_two_tuns_and_handshake();
    let start = my_tun.timers.now();
    let mut dst = [0u8; 1024];
    // Nothing was sent since: only the session's end comes.
    assert_eq!(my_tun.next_timer(), Some(start + Duration::from_secs(180)));
    advance(&mut my_tun, Duration::from_secs(20));
    advance(&mut their_tun, Duration::from_secs(20));
    let len = my_tun.encapsulate_in_place(&mut dst, 32).unwrap();
    assert_eq!(len, 64);
    // No answer within 15 s begins a handshake, and the packet's age does not count from the handshake.
    assert_eq!(my_tun.next_timer(), Some(start + Duration::from_secs(35)));
    let mut packet = create_ipv4_udp_packet();
    packet.resize(64, 0);
    packet.copy_within(0..32, 16);
    let len = my_tun.encapsulate_in_place(&mut packet, 32).unwrap();
    let opened = their_tun.decapsulate(None, &packet[..len], &mut dst);
    assert!(matches!(opened, TunnResult::WriteToTunnelV4(..)));
    // The other end confirms within 10 s.
    assert_eq!(
        their_tun.next_timer(),
        Some(start + Duration::from_secs(30))
    );
    for tun in [&mut my_tun, &mut their_tun] {
        let next = tun.next_timer().unwrap();
        tun.set_time(next - Duration::from_nanos(1));
        assert!(matches!(tun.update_timers(&mut dst), TunnResult::Done));
        tun.set_time(next);
        let result = tun.update_timers(&mut dst);
        assert!(matches!(result, TunnResult::WriteToNetwork(_)));
    }
}

#[test]
fn an_old_session_is_not_used_even_if_nobody_moves_the_timers() {
    let (mut my_tun, mut their_tun) = create_two_tuns_and_handshake();
    let mut dst = [0u8; 1024];
    let len = my_tun.encapsulate_in_place(&mut dst, 32).unwrap();
    let datagram = dst[..len].to_vec();
    advance(&mut my_tun, Duration::from_secs(180));
    advance(&mut their_tun, Duration::from_secs(180));
    assert!(!my_tun.has_session());
    assert!(my_tun.encapsulate_in_place(&mut dst, 32).is_err());
    assert!(matches!(
        their_tun.decapsulate(None, &datagram, &mut dst),
        TunnResult::Err(WireGuardError::NoCurrentSession)
    ));
}

#[test]
fn a_connection_put_aside_refuses_old_handshakes_afterwards() {
    let (mut my_tun, their_tun) = create_two_tuns();
    let (mine, theirs) = (
        my_tun.handshake.keys_for_tests(),
        their_tun.handshake.keys_for_tests(),
    );
    let init = create_handshake_init(&mut my_tun);
    let now = Instant::now();
    let mut again = Tunn::new(theirs.0.clone(), mine.1, None, None, 9, None, now);
    create_handshake_response(&mut again, &init);
    let remembered = again.put_aside();
    let mut again = Tunn::new(theirs.0.clone(), mine.1, None, None, 9, None, now);
    again.resume(remembered);
    let mut dst = [0; 2048];
    let replayed = again.decapsulate(None, &init, &mut dst);
    assert!(matches!(
        replayed,
        TunnResult::Err(WireGuardError::WrongTai64nTimestamp)
    ));
    // Its own stay newer than those before, even without any time between them.
    let mut last = None;
    for _ in 0..3 {
        let init = {
            let mut dst = [0; 148];
            assert!(matches!(
                my_tun.format_handshake_initiation(&mut dst, true),
                TunnResult::WriteToNetwork(_)
            ));
            dst
        };
        let mut other = Tunn::new(theirs.0.clone(), mine.1, None, None, 9, None, now);
        if let Some(remembered) = last.take() {
            other.resume(remembered);
        }
        create_handshake_response(&mut other, &init);
        last = Some(other.put_aside());
        let mut next = Tunn::new(mine.0.clone(), theirs.1, None, None, 8, None, now);
        next.resume(my_tun.put_aside());
        my_tun = next;
    }
}

#[test]
fn keepalives_bring_an_expired_connection_back() {
    let (mut my_tun, _) = create_two_tuns();
    my_tun.timers = timers::Timers::new(Some(25), false, my_tun.timers.now());
    let mut dst = [0u8; 1024];
    let mut calls = 0;
    let start = my_tun.timers.now();
    while my_tun.timers.now() < start + Duration::from_secs(3600) {
        advance(&mut my_tun, Duration::from_secs(1));
        if let TunnResult::WriteToNetwork(_) = my_tun.update_timers(&mut dst) {
            calls += 1;
        }
    }
    assert!(my_tun.next_timer().is_some());
    // 90 s of attempts, 5 s apart, then a pause until the next keepalive.
    assert!((300..720).contains(&calls), "{calls} calls in an hour");
}
