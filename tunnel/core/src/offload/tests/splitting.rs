//! Super-packets of the kernel's, cut.

use super::*;

/// The super-packet and header that a kernel would give for a packet to be cut.
fn handed_over(spec: &Spec, size: usize) -> (OffloadHeader, Vec<u8>) {
    let mut packet = spec.packet();
    let start = if spec.v4 { 20 } else { 40 };
    let offset = if spec.tcp { 16 } else { 6 };
    packet[start + offset..start + offset + 2].copy_from_slice(&spec.pseudo_sum().to_be_bytes());
    let gso = match (spec.tcp, spec.v4) {
        (true, true) => Gso::TcpV4,
        (true, false) => Gso::TcpV6,
        (false, _) => Gso::Udp,
    };
    let header = OffloadHeader {
        needs_checksum: true,
        gso,
        header_len: 0,
        segment_size: size as u16,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
    };
    (header, packet)
}

fn written(segments: &Segments<'_>) -> Vec<Vec<u8>> {
    (0..segments.count())
        .map(|i| {
            let mut buffer = vec![0xaa; 65_535];
            let len = segments.write(i, &mut buffer);
            assert_eq!(len, segments.len_of(i));
            assert!(len <= segments.len_of(0));
            assert!(buffer[len..].iter().all(|&byte| byte == 0xaa));
            buffer.truncate(len);
            buffer
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cuts_as_a_sender_would_have(spec in specs(1..20_000), size in 1usize..3_000) {
        let size = size.max(spec.payload.len() / 300);
        let (header, mut packet) = handed_over(&spec, size);
        let bytes = header.to_bytes();
        let header = OffloadHeader::from_bytes(&bytes).unwrap();
        let segments = Segments::new(header, &mut packet).unwrap();
        prop_assert!(written(&segments) == spec.cut(size));
    }

    #[test]
    fn cuts_what_a_stack_without_checksums_wrote(spec in specs(1..20_000), size in 1u16..3_000) {
        let spec = Spec { tcp: true, ..spec };
        let mut packet = spec.packet();
        let at = if spec.v4 { 36 } else { 56 };
        packet[at..at + 2].fill(0xee);
        let expected = if spec.payload.len() > usize::from(size) {
            spec.cut(usize::from(size))
        } else {
            vec![spec.packet()]
        };
        prop_assert!(written(&Segments::of_tcp(&mut packet, size).unwrap()) == expected);
        // Whatever is cut short is refused or cut, and never read past its end.
        for len in 0..packet.len().min(120) {
            let mut short = packet[..len].to_vec();
            if let Ok(segments) = Segments::of_tcp(&mut short, size) {
                written(&segments);
            }
        }
    }

    #[test]
    fn finishes_the_checksum_of_a_whole_packet(spec in specs(0..3_000)) {
        let (header, mut packet) = handed_over(&spec, 1);
        let header = OffloadHeader { gso: Gso::None, ..header };
        let segments = Segments::new(header, &mut packet).unwrap();
        let mut expected = spec.packet();
        let at = usize::from(header.checksum_start + header.checksum_offset);
        if expected[at..at + 2] == [0, 0] {
            // Both forms of zero are right for TCP.
            expected[at..at + 2].copy_from_slice(&[0xff, 0xff]);
        }
        prop_assert_eq!(written(&segments), vec![expected]);
    }

    #[test]
    fn leaves_what_needs_nothing_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut packet = bytes.clone();
        let segments = Segments::new(OffloadHeader::default(), &mut packet).unwrap();
        prop_assert_eq!(written(&segments), vec![bytes]);
    }

    /// No header and no packet makes it panic, or write more than it was given.
    #[test]
    fn survives_anything(
        header in any::<[u8; OFFLOAD_HEADER_LEN]>(),
        kind in 0u8..6,
        starts in proptest::option::of(prop_oneof![Just((20u16, 16u16)), Just((20, 6)), Just((40, 16)), Just((40, 6))]),
        first in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), any::<u8>()],
        mut packet in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = header;
        bytes[1] = kind;
        if let Some((start, offset)) = starts {
            bytes[0] = 1;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        if let Ok(header) = OffloadHeader::from_bytes(&bytes)
            && let Ok(segments) = Segments::new(header, &mut packet)
        {
            let all = written(&segments);
            let headers = segments.len_of(0).saturating_sub(usize::from(header.segment_size));
            let payload: usize = all.iter().map(|s| s.len() - headers.min(s.len())).sum();
            prop_assert!(payload <= segments.packet().len());
        }
    }
}

#[test]
fn says_what_is_wrong() {
    let spec = Spec {
        v4: true,
        tcp: true,
        flow: 1,
        traffic_class: 0,
        hop_limit: 64,
        id: 1,
        dont_fragment: true,
        sequence: 1,
        acknowledged: 1,
        flags: 0x10,
        window: 1,
        options: Vec::new(),
        payload: noise(3000, 0),
    };
    let (header, packet) = handed_over(&spec, 1000);
    let refused = |header: OffloadHeader, packet: &[u8]| {
        Segments::new(header, &mut packet.to_vec()).unwrap_err()
    };
    let other = |change: fn(&mut OffloadHeader)| {
        let mut changed = header;
        change(&mut changed);
        changed
    };
    assert_eq!(
        refused(other(|h| h.gso = Gso::TcpV6), &packet),
        OffloadError::Mismatch
    );
    assert_eq!(
        refused(other(|h| h.gso = Gso::Udp), &packet),
        OffloadError::Mismatch
    );
    assert_eq!(
        refused(other(|h| h.segment_size = 0), &packet),
        OffloadError::Mismatch
    );
    assert_eq!(
        refused(other(|h| h.needs_checksum = false), &packet),
        OffloadError::Mismatch
    );
    assert_eq!(
        refused(other(|h| h.checksum_start = 24), &packet),
        OffloadError::Mismatch
    );
    assert_eq!(refused(header, &packet[..30]), OffloadError::Short(30));
    let mut kind = header.to_bytes();
    kind[1] = 3;
    assert_eq!(OffloadHeader::from_bytes(&kind), Err(OffloadError::Kind(3)));
    // Congestion notification is a flag beside the kind.
    kind[1] = 0x81;
    assert_eq!(OffloadHeader::from_bytes(&kind).unwrap().gso, Gso::TcpV4);
}
