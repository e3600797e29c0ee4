#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::*;
use crate::packet::{self, Unreachable};

const INNER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    let mut made = Vec::new();
    assert!(packet::udp(
        &mut made,
        at(source),
        at(destination),
        b"hello there"
    ));
    made
}

fn flows() -> (KnownFlows, Instant) {
    let now = Instant::now();
    let v6 = "fd98::2".parse().unwrap();
    (KnownFlows::new(INNER, Some(v6), now), now)
}

#[test]
fn answers_pass_and_nothing_else() {
    let (mut flows, now) = flows();
    for (ours, remote, other) in [
        ("10.98.0.2:4000", "192.0.2.1:53", "192.0.2.2:53"),
        ("[fd98::2]:4000", "[2001:db8::1]:53", "[2001:db8::2]:53"),
    ] {
        let answer = udp(remote, ours);
        assert_eq!(
            flows.check_received(&answer),
            Err(DropReason::NoFlow),
            "not asked for"
        );
        flows.note_sent(&udp(ours, remote), now).unwrap();
        assert_eq!(flows.check_received(&answer), Ok(()));
        let elsewhere = udp(other, ours);
        assert_eq!(flows.check_received(&elsewhere), Err(DropReason::NoFlow));
    }
    let other_port = udp("192.0.2.1:53", "10.98.0.2:4001");
    assert_eq!(flows.check_received(&other_port), Err(DropReason::NoFlow));
    let other_service = udp("192.0.2.1:54", "10.98.0.2:4000");
    assert_eq!(
        flows.check_received(&other_service),
        Err(DropReason::NoFlow)
    );
    let other_host = udp("192.0.2.1:53", "10.98.0.3:4000");
    assert_eq!(flows.check_received(&other_host), Err(DropReason::NoRoute));
    let mut as_tcp = udp("192.0.2.1:53", "10.98.0.2:4000");
    as_tcp[9] = TCP;
    assert_eq!(flows.check_received(&as_tcp), Err(DropReason::NoFlow));
}

#[test]
fn nothing_leaves_from_another_address_of_the_host() {
    let (mut flows, now) = flows();
    for (source, destination) in [
        ("192.168.1.5:4000", "192.0.2.1:53"),
        ("[fe80::1]:4000", "[ff02::16]:1"),
    ] {
        let sent = flows.note_sent(&udp(source, destination), now);
        assert_eq!(sent, Err(DropReason::SpoofedSource), "{source}");
    }
    let mut without_v6 = KnownFlows::new(INNER, None, now);
    let sent = without_v6.note_sent(&udp("[fd98::2]:4000", "[2001:db8::1]:53"), now);
    assert_eq!(sent, Err(DropReason::SpoofedSource));
}

#[test]
fn echoes_and_errors_find_their_flow() {
    let (mut flows, now) = flows();
    let remote: IpAddr = "192.0.2.1".parse().unwrap();
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    assert!(packet::echo_request(
        &mut request,
        INNER.into(),
        remote,
        7,
        1,
        b"x"
    ));
    assert!(packet::echo_reply(&mut reply, &request));
    assert_eq!(flows.check_received(&reply), Err(DropReason::NoFlow));
    flows.note_sent(&request, now).unwrap();
    assert_eq!(flows.check_received(&reply), Ok(()));
    let mut other = Vec::new();
    assert!(packet::echo_request(
        &mut other,
        INNER.into(),
        remote,
        8,
        1,
        b"x"
    ));
    assert!(packet::echo_reply(&mut reply, &other));
    assert_eq!(flows.check_received(&reply), Err(DropReason::NoFlow));

    // A router on the way says that a datagram went nowhere.
    let sent = udp("10.98.0.2:4000", "192.0.2.1:53");
    let mut error = Vec::new();
    let router = "198.51.100.1".parse().unwrap();
    assert!(packet::unreachable(
        &mut error,
        &sent,
        router,
        Unreachable::Host
    ));
    assert_eq!(flows.check_received(&error), Err(DropReason::NoFlow));
    flows.note_sent(&sent, now).unwrap();
    assert_eq!(flows.check_received(&error), Ok(()));
}

#[test]
fn later_fragments_pass_from_where_something_was_asked() {
    let (mut flows, now) = flows();
    let mut fragment = udp("192.0.2.1:53", "10.98.0.2:4000");
    fragment[7] = 100;
    assert_eq!(flows.check_received(&fragment), Err(DropReason::NoFlow));
    flows
        .note_sent(&udp("10.98.0.2:4000", "192.0.2.1:53"), now)
        .unwrap();
    assert_eq!(flows.check_received(&fragment), Ok(()));
}

#[test]
fn a_flow_lives_on_while_it_sends_and_is_forgotten_after_it_stopped() {
    let (mut flows, now) = flows();
    let (busy, idle) = ("10.98.0.2:1", "10.98.0.2:2");
    let remote = "192.0.2.1:53";
    flows.note_sent(&udp(idle, remote), now).unwrap();
    let mut later = now;
    for _ in 0..4 {
        later += GENERATION / 2 + Duration::from_secs(1);
        flows.note_sent(&udp(busy, remote), later).unwrap();
    }
    assert_eq!(flows.check_received(&udp(remote, busy)), Ok(()));
    assert_eq!(
        flows.check_received(&udp(remote, idle)),
        Err(DropReason::NoFlow)
    );
}

#[test]
fn a_scan_makes_it_forget_but_not_grow() {
    let (mut flows, now) = flows();
    let mut sent = udp("10.98.0.2:1", "192.0.2.1:53");
    for number in 0..3 * MOST as u32 {
        sent[16..20].copy_from_slice(&number.to_be_bytes());
        flows.note_sent(&sent, now).unwrap();
    }
    assert!(flows.young.len() + flows.old.len() <= 2 * MOST);
    let mut answer = udp("192.0.2.1:53", "10.98.0.2:1");
    answer[12..16].copy_from_slice(&(3 * MOST as u32 - 1).to_be_bytes());
    assert_eq!(flows.check_received(&answer), Ok(()));
}

#[test]
fn broken_packets_are_refused() {
    let (mut flows, now) = flows();
    let whole = udp("10.98.0.2:4000", "192.0.2.1:53");
    for len in 0..20 {
        let sent = flows.note_sent(&whole[..len], now);
        assert_eq!(sent, Err(DropReason::Malformed), "{len} bytes");
        let received = flows.check_received(&whole[..len]);
        assert_eq!(received, Err(DropReason::Malformed), "{len} bytes");
    }
}
