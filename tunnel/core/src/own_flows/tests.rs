#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use super::*;
use crate::packet;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const OURS: &str = "10.98.0.2:4000";
const WEB: &str = "192.0.2.1:443";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    assert!(packet::udp(&mut made, at(source), at(destination), payload));
    made
}

/// A TCP packet with these flags and so much payload; checksums are nobody's business here.
fn tcp(source: &str, destination: &str, flags: u8, payload: usize) -> Vec<u8> {
    let mut made = udp(source, destination, &vec![0; 12 + payload]);
    made[9] = 6;
    made[20 + 12] = 5 << 4;
    made[20 + TCP_FLAGS] = flags;
    made
}

fn one(flows: &mut OwnFlows, now: Instant) -> OwnFlow {
    let traffic = flows.take(now);
    assert_eq!(traffic.flows.len(), 1, "{traffic:?}");
    traffic.flows[0]
}

#[test]
fn a_connection_is_opened_agreed_to_and_counted() {
    let (mut flows, now) = (OwnFlows::new(GATEWAY), Instant::now());
    flows.note_sent(&tcp(OURS, WEB, SYN, 0), now);
    let called = one(&mut flows, now);
    assert_eq!((called.openings, called.answered), (1, 0));
    assert_eq!((called.bytes_up, called.bytes_down), (40, 0));
    // An agreement that comes twice is one; data is no agreement.
    flows.note_received(&tcp(WEB, OURS, SYN | ACK, 0), now);
    flows.note_received(&tcp(WEB, OURS, SYN | ACK, 0), now);
    flows.note_sent(&tcp(OURS, WEB, ACK, 100), now);
    flows.note_received(&tcp(WEB, OURS, ACK, 1_000), now);
    let used = one(&mut flows, now);
    assert_eq!((used.openings, used.answered), (0, 1));
    assert_eq!((used.bytes_up, used.bytes_down), (140, 1_120));
    assert_eq!(used.payload_down, 1_000);
    assert_eq!(used.destination, at(WEB));
    assert_eq!(flows.take(now), OwnTraffic::default());
    // The port again, for another connection.
    flows.note_sent(&tcp(OURS, WEB, SYN, 0), now);
    flows.note_received(&tcp(WEB, OURS, SYN | ACK, 0), now);
    let again = one(&mut flows, now);
    assert_eq!((again.openings, again.answered), (1, 1));
}

#[test]
fn what_was_silent_may_be_opened_anew() {
    let (mut flows, start) = (OwnFlows::new(GATEWAY), Instant::now());
    for (after, openings) in [(0, 1), (4, 0), (8, 0), (13, 1)] {
        let now = start + Duration::from_secs(after);
        flows.note_sent(&udp(OURS, WEB, b"question"), now);
        flows.note_received(&udp(WEB, OURS, b"answer"), now);
        let flow = one(&mut flows, now);
        assert_eq!(flow.openings, openings, "after {after} s");
        assert_eq!(flow.answered, u32::from(after == 0));
        assert_eq!(flow.last_sent, now);
    }
}

#[test]
fn echoes_are_flows_of_their_identifier() {
    let (mut flows, now) = (OwnFlows::new(GATEWAY), Instant::now());
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    let host = at(WEB).ip();
    assert!(packet::echo_request(
        &mut request,
        at(OURS).ip(),
        host,
        7,
        1,
        b"data"
    ));
    assert!(packet::echo_reply(&mut reply, &request));
    flows.note_sent(&request, now);
    flows.note_received(&reply, now);
    let echo = one(&mut flows, now);
    assert_eq!(echo.protocol, FlowProtocol::Echo);
    assert_eq!(echo.destination, SocketAddr::new(host, 0));
    assert_eq!((echo.openings, echo.answered), (1, 1));
}

#[test]
fn the_gateway_is_no_destination_and_what_names_no_flow_is_counted_apart() {
    let (mut flows, now) = (OwnFlows::new(GATEWAY), Instant::now());
    flows.note_sent(&udp(OURS, "10.98.0.1:53", b"name?"), now);
    flows.note_received(&udp("10.98.0.1:53", OURS, b"name!"), now);
    assert_eq!(flows.take(now), OwnTraffic::default());
    // Nobody asked for this one.
    flows.note_received(&udp(WEB, OURS, b"junk"), now);
    let mut fragment = udp(OURS, WEB, b"part");
    fragment[6] = 0x20;
    flows.note_sent(&fragment, now);
    let traffic = flows.take(now);
    assert_eq!((traffic.other_up, traffic.other_down), (32, 32));
    assert!(traffic.flows.is_empty() && !traffic.incomplete);
}

#[test]
fn too_many_flows_are_said_and_idle_ones_make_room() {
    let (mut flows, start) = (OwnFlows::new(GATEWAY), Instant::now());
    let source = |number: usize| format!("10.98.0.2:{}", 1 + number % 60_000);
    let web = |number: usize| format!("192.0.2.{}:443", 1 + number / 60_000);
    for number in 0..MOST {
        flows.note_sent(&udp(&source(number), &web(number), b"x"), start);
    }
    assert!(!flows.other.incomplete);
    flows.note_sent(&udp(OURS, "198.51.100.1:443", b"x"), start);
    let traffic = flows.take(start);
    assert!(traffic.incomplete && traffic.flows.len() == MOST);
    let later = start + IDLE;
    flows.note_sent(&udp(&source(0), &web(0), b"x"), later);
    assert_eq!(flows.take(later).flows.len(), 1);
    flows.note_sent(&udp(OURS, "198.51.100.1:443", b"x"), later);
    let traffic = flows.take(later);
    assert!(
        !traffic.incomplete && traffic.flows.len() == 1,
        "{traffic:?}"
    );
    assert_eq!(flows.flows.len(), 2);
}
