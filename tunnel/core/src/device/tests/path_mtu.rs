//! What the outer path takes.

use super::*;
use crate::{
    offload::{OffloadHeader, Segments},
    packet::{Content, Headers},
};

fn whole(len: usize) -> Vec<u8> {
    let mut packet = request(&vec![0; len - 28]);
    let mut ip = smoltcp::wire::Ipv4Packet::new_unchecked(&mut packet);
    ip.set_dont_frag(true);
    ip.fill_checksum();
    packet
}

fn may_be_cut(len: usize) -> Vec<u8> {
    let mut packet = whole(len);
    let mut ip = smoltcp::wire::Ipv4Packet::new_unchecked(&mut packet);
    ip.set_dont_frag(false);
    ip.fill_checksum();
    packet
}

fn v6(len: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let source = "[fd77::2]:4000".parse().unwrap();
    let destination = "[2001:db8::9]:443".parse().unwrap();
    assert!(packet::udp(
        &mut packet,
        source,
        destination,
        &vec![0; len - 48]
    ));
    packet
}

/// What a sender hears of this packet.
fn heard(pair: &mut Pair, packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let segments = Segments::new(OffloadHeader::default(), &mut packet).unwrap();
    pair.client.too_big(&segments, pair.now)
}

#[test]
fn what_must_stay_whole_and_does_not_fit_is_answered() {
    let mut pair = Pair::open();
    assert_eq!(heard(&mut pair, &whole(1400)), None);
    pair.client.set_path_mtu(outer(1), 1400, pair.now);
    // 1,400 less 20, 8 and 32, down to a multiple of 16.
    for fits in [whole(1328), may_be_cut(1400), v6(1328)] {
        assert_eq!(heard(&mut pair, &fits), None);
    }
    for packet in [whole(1329), v6(1329)] {
        let answer = heard(&mut pair, &packet).unwrap();
        let headers = Headers::parse(&answer).unwrap();
        let about = Headers::parse(&packet).unwrap();
        assert_eq!(
            (headers.source, headers.destination),
            (about.destination, about.source)
        );
        assert_eq!(headers.content, Content::OtherIcmp);
    }
    assert_eq!(pair.client.dropped().get(DropReason::PathMtu), 2);
    // Who does not listen is not refused: a stack of our own, for one.
    pair.up(&whole(1420)).unwrap();
    // Another end's way is another one, and the way may change.
    pair.client.set_path_mtu(outer(9), 600, pair.now);
    assert_eq!(heard(&mut pair, &whole(1328)), None);
    assert!(heard(&mut pair, &whole(1329)).is_some());
    pair.now += Duration::from_secs(601);
    assert_eq!(heard(&mut pair, &whole(1420)), None);
}

#[test]
fn nobody_is_asked_for_less_than_every_host_takes() {
    let mut pair = Pair::open();
    pair.client.set_path_mtu(outer(1), 300, pair.now);
    assert_eq!(heard(&mut pair, &whole(576)), None);
    assert_eq!(heard(&mut pair, &v6(1280)), None);
    assert!(heard(&mut pair, &whole(577)).is_some());
    assert!(heard(&mut pair, &v6(1281)).is_some());
}

#[test]
fn the_answers_are_right_to_the_bit() {
    use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet};
    let mut answer = Vec::new();
    assert!(packet::too_big(&mut answer, &whole(1400), 1328));
    let ip = Ipv4Packet::new_checked(&answer[..]).unwrap();
    assert!(ip.verify_checksum());
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!((ip.payload()[0], ip.payload()[1]), (3, 4));
    assert_eq!(
        ip.payload()[4..8],
        [0, 0, 1328_u16.to_be_bytes()[0], 1328_u16.to_be_bytes()[1]]
    );
    assert_eq!(ip.payload()[8..], whole(1400)[..64]);
    assert!(packet::too_big(&mut answer, &v6(1400), 1328));
    let ip = Ipv6Packet::new_checked(&answer[..]).unwrap();
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    assert_eq!((ip.payload()[0], ip.payload()[1]), (2, 0));
    assert_eq!(ip.payload()[4..8], 1328_u32.to_be_bytes());
}

/// Which of the datagrams that are waiting must stay whole.
fn wholes(pair: &mut Pair) -> Vec<bool> {
    std::iter::from_fn(|| pair.client.poll_transmit())
        .map(|batch| batch.whole)
        .collect()
}

#[test]
fn now_and_then_a_long_datagram_must_stay_whole() {
    let mut pair = Pair::open();
    wholes(&mut pair);
    let probed = |pair: &mut Pair, len: usize| {
        pair.up(&whole(len)).unwrap();
        wholes(pair)
    };
    assert_eq!(probed(&mut pair, 1200), [false], "every way takes it");
    assert_eq!(probed(&mut pair, 1300), [true]);
    assert_eq!(probed(&mut pair, 1300), [false]);
    assert_eq!(probed(&mut pair, 1420), [true], "a longer one");
    assert_eq!(probed(&mut pair, 1420), [false]);
    pair.now += Duration::from_secs(1);
    assert_eq!(probed(&mut pair, 1420), [true], "once more");
    for _ in 0..30 {
        pair.now += Duration::from_secs(1);
        assert_eq!(probed(&mut pair, 1420), [false]);
    }
    // Another way.
    pair.client.set_endpoint(pair.gateway, outer(9));
    assert_eq!(probed(&mut pair, 1420), [true]);
}
