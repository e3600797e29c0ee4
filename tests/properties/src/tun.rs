//! Packets read from a TUN interface or made by a stack, with and without an offload header: what is taken arrives at
//! the other end as it was, and everything else is refused.

use ipsx_tunnel_core::Side;
use ipsx_tunnel_core::offload::{OFFLOAD_HEADER_LEN, OffloadHeader, Segments};

use crate::bytes::Bytes;
use crate::pair::{INNER, Pair, datagrams, with_pair};

pub(crate) fn check(input: &[u8]) {
    let client = Side::Client { inner_v4: INNER };
    with_pair(Some(client), input, |pair| check_with(pair, Bytes(input)));
}

fn check_with(pair: &mut Pair, mut bytes: Bytes<'_>) {
    for _ in 0..8 {
        if bytes.is_empty() {
            return;
        }
        let with_offload = bytes.u8() % 2 == 1;
        let raw: [u8; OFFLOAD_HEADER_LEN] = if with_offload {
            bytes.array()
        } else {
            [0; OFFLOAD_HEADER_LEN]
        };
        let mut packet = bytes.block().to_vec();
        let mut sent = Vec::new();
        if with_offload {
            let Ok(header) = OffloadHeader::from_bytes(&raw) else {
                continue;
            };
            let Ok(segments) = Segments::new(header, &mut packet) else {
                continue;
            };
            if segments.count() > 256 || pair.peer.handle_segments(&segments, pair.now).is_err() {
                assert!(datagrams(&mut pair.peer).is_empty());
                continue;
            }
            for index in 0..segments.count() {
                let mut segment = vec![0; segments.len_of(index)];
                segments.write(index, &mut segment);
                sent.push(segment);
            }
        } else {
            if pair.peer.handle_packet(&packet, pair.now).is_err() {
                assert!(datagrams(&mut pair.peer).is_empty());
                continue;
            }
            sent.push(packet);
        }
        let outer = datagrams(&mut pair.peer);
        assert_eq!(outer.len(), sent.len(), "one datagram for each packet");
        for (datagram, sent) in outer.iter().zip(sent) {
            if let Some(arrived) = pair.up(2, datagram) {
                assert!(
                    sent.starts_with(&arrived),
                    "sent {sent:02x?}, arrived {arrived:02x?}"
                );
            }
        }
    }
}
