//! Congestion marks and traffic classes on the way through the tunnel.

use super::*;
use crate::{
    ecn::{Arrival, Ecn},
    offload::{OffloadHeader, Segments},
};

const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

/// A packet of the highest priority class with this mark.
fn marked(ecn: Ecn) -> Vec<u8> {
    let mut packet = request(&[0; 32]);
    let mut ip = smoltcp::wire::Ipv4Packet::new_unchecked(&mut packet);
    ip.set_dscp(46);
    ip.set_ecn(ecn.bits());
    ip.fill_checksum();
    packet
}

#[test]
fn datagrams_carry_the_mark_of_their_packet_and_batches_have_one() {
    let mut pair = Pair::open();
    // By both ways into the device; the first waits for nothing, since the tunnel is open.
    for ecn in ALL {
        pair.up(&marked(ecn)).unwrap();
        let mut packet = marked(ecn);
        let segments = Segments::new(OffloadHeader::default(), &mut packet).unwrap();
        pair.client.handle_segments(&segments, pair.now).unwrap();
    }
    let mut seen = Vec::new();
    while let Some(batch) = pair.client.poll_transmit() {
        seen.push((batch.ecn, batch.segments()));
    }
    assert_eq!(seen, ALL.map(|ecn| (ecn, 2)));
}

#[test]
fn handshakes_and_keepalives_carry_no_mark_and_held_packets_keep_theirs() {
    let mut pair = Pair::new();
    pair.up(&marked(Ecn::Ect0)).unwrap();
    let marks = |device: &mut Device| {
        let mut marks = Vec::new();
        let mut all = Vec::new();
        while let Some(batch) = device.poll_transmit() {
            marks.push(batch.ecn);
            all.push(batch.contents().to_vec());
        }
        (marks, all)
    };
    let (sent, initiation) = marks(&mut pair.client);
    assert_eq!(sent, [Ecn::NotEct]);
    pair.carry_up(&initiation[0]);
    let (answered, response) = marks(&mut pair.provider);
    assert_eq!(answered, [Ecn::NotEct]);
    pair.carry_down(&response[0]);
    let (sent, _) = marks(&mut pair.client);
    assert_eq!(sent.last(), Some(&Ecn::Ect0), "{sent:?}");
}

#[test]
fn what_routers_say_reaches_the_packet_or_drops_it() {
    let mut pair = Pair::open();
    for inner in ALL {
        for outer in ALL {
            pair.up(&marked(inner)).unwrap();
            let (_, datagram) = datagrams(&mut pair.client).remove(0);
            let arrival = Arrival {
                from: pair.client_at,
                ecn: outer,
            };
            let mut buffer = [0; 2048];
            let got = pair
                .provider
                .handle_datagram(arrival, &datagram, pair.now, &mut buffer);
            let expected = match (inner, outer) {
                (Ecn::NotEct, Ecn::Ce) => Err(DropReason::CongestionMark),
                (Ecn::Ect0, Ecn::Ect1) => Ok(Ecn::Ect1),
                (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Ok(Ecn::Ce),
                _ => Ok(inner),
            };
            let got = got.map(|inbound| match inbound {
                Some(Inbound::Packet { packet, .. }) => packet.to_vec(),
                other => panic!("{other:?} for {inner:?} in {outer:?}"),
            });
            assert_eq!(got, expected.map(marked), "{inner:?} in {outer:?}");
        }
    }
    assert_eq!(pair.provider.dropped().get(DropReason::CongestionMark), 1);
    // What is dropped is not paid for.
    let packets = ALL.len() * ALL.len();
    let (theirs, ours) = pair.usages();
    assert_eq!(ours.bytes_up, (packets * marked(Ecn::Ce).len()) as u64);
    assert_eq!(theirs.bytes_up, 0, "nothing was delivered by this test");
}
