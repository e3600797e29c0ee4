//! Packets joined: cut again, they must be what they were.

use super::*;

/// A written packet with the header before it.
type Written = (OffloadHeader, Vec<u8>);

fn merge(packets: &[Vec<u8>], udp: bool) -> Vec<Written> {
    let mut merger = Merger::new(udp);
    // A batch before this one leaves nothing behind.
    merger.push(&[0x45; 40], 0..40);
    merger.clear();
    let mut arena = vec![0; 7];
    for packet in packets {
        let start = arena.len();
        arena.extend(packet);
        merger.push(&arena, start..arena.len());
        arena.extend([0; 3]);
    }
    merger.finish(&mut arena);
    assert_eq!(merger.is_empty(), packets.is_empty());
    merger
        .merged()
        .map(|merged| {
            let header = merged.header;
            let mut bytes = Vec::new();
            for range in merged {
                bytes.extend(&arena[range]);
            }
            (header, bytes)
        })
        .collect()
}

/// Cuts with the code that `splitting` proves right.
fn cut_again((header, bytes): &Written) -> Vec<Vec<u8>> {
    let mut bytes = bytes.clone();
    let segments = Segments::new(*header, &mut bytes).unwrap();
    (0..segments.count())
        .map(|i| {
            let mut buffer = vec![0; segments.len_of(i)];
            segments.write(i, &mut buffer);
            buffer
        })
        .collect()
}

fn base(v4: bool, tcp: bool) -> Spec {
    Spec {
        v4,
        tcp,
        flow: 1,
        traffic_class: 0,
        hop_limit: 64,
        id: 100,
        dont_fragment: true,
        sequence: 0xffff_f000,
        acknowledged: 7,
        flags: 0x10,
        window: 500,
        options: vec![1; 12],
        payload: noise(1_000, 1),
    }
}

/// The next packet of a flow after `spec`.
fn next(spec: &Spec) -> Spec {
    Spec {
        id: spec.id.wrapping_add(1),
        sequence: spec.sequence.wrapping_add(spec.payload.len() as u32),
        ..spec.clone()
    }
}

#[test]
fn in_order_segments_become_one_packet() {
    for (v4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut specs = vec![base(v4, tcp)];
        for _ in 0..39 {
            specs.push(next(specs.last().unwrap()));
        }
        specs.last_mut().unwrap().payload.truncate(333);
        let packets: Vec<_> = specs.iter().map(Spec::packet).collect();
        let written = merge(&packets, true);
        assert_eq!(written.len(), 1, "v4 {v4}, tcp {tcp}");
        assert_eq!(cut_again(&written[0]), packets);
    }
}

#[test]
fn udp_is_left_alone_where_the_interface_can_not_cut_it() {
    let packets = vec![base(true, false).packet(); 4];
    assert_eq!(merge(&packets, false).len(), 4);
    assert_eq!(merge(&packets, true).len(), 1);
}

/// Each of these, done to the second of three packets, keeps it out of the first's super-packet.
#[test]
fn what_differs_is_not_joined() {
    type Change = (&'static str, fn(&mut Spec));
    let changes: [Change; 12] = [
        ("another flow", |s| s.flow = 2),
        ("a gap", |s| s.sequence = s.sequence.wrapping_add(1)),
        ("a repeat", |s| s.sequence = 0xffff_f000),
        ("another acknowledgement", |s| s.acknowledged += 1),
        ("another window", |s| s.window += 1),
        ("other options", |s| s.options[3] = 0),
        ("more options", |s| s.options.extend([1; 4])),
        ("congestion experienced", |s| s.traffic_class = 3),
        ("another hop limit", |s| s.hop_limit = 63),
        ("more payload", |s| s.payload.push(0)),
        ("CWR", |s| s.flags |= 0x80),
        ("ECE", |s| s.flags |= 0x40),
    ];
    for v4 in [true, false] {
        for (what, change) in changes {
            let first = base(v4, true);
            let mut second = next(&first);
            change(&mut second);
            let packets = [first.packet(), second.packet()];
            let written = merge(&packets, true);
            assert_eq!(written.len(), 2, "{what}, v4 {v4}");
            assert!(
                written
                    .iter()
                    .zip(&packets)
                    .all(|((header, bytes), packet)| header.gso == Gso::None && bytes == packet),
                "{what}, v4 {v4}"
            );
        }
    }
}

#[test]
fn push_and_fin_end_a_super_packet_and_are_kept() {
    for (flags, joined) in [
        (0x18u8, 1),
        (0x11, 1),
        (0x19, 1),
        (0x30, 2),
        (0x14, 2),
        (0x12, 2),
    ] {
        let first = base(true, true);
        let mut second = next(&first);
        second.flags = flags;
        let third = next(&second);
        let packets = vec![first.packet(), second.packet(), third.packet()];
        let written = merge(&packets, true);
        assert_eq!(written.len(), joined + 1, "flags {flags:#x}");
        let again: Vec<_> = written.iter().flat_map(cut_again).collect();
        assert_eq!(again, packets, "flags {flags:#x}");
    }
}

#[test]
fn ids_count_up_unless_fragmenting_is_forbidden() {
    for (dont_fragment, step, joined) in [
        (true, 0, 1),
        (true, 9, 1),
        (false, 1, 1),
        (false, 0, 2),
        (false, 2, 2),
    ] {
        let mut first = base(true, true);
        first.dont_fragment = dont_fragment;
        first.id = 0xffff;
        let mut second = next(&first);
        second.id = first.id.wrapping_add(step);
        let written = merge(&[first.packet(), second.packet()], true);
        assert_eq!(written.len(), joined, "{dont_fragment} {step}");
    }
}

#[test]
fn a_wrong_checksum_keeps_a_packet_out_and_untouched() {
    for (v4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let specs = [
            base(v4, tcp),
            next(&base(v4, tcp)),
            next(&next(&base(v4, tcp))),
        ];
        for broken in 0..3 {
            let mut packets: Vec<_> = specs.iter().map(Spec::packet).collect();
            let last = packets[broken].len() - 1;
            packets[broken][last] ^= 1;
            let written = merge(&packets, true);
            let alone = written
                .iter()
                .find(|(_, bytes)| *bytes == packets[broken])
                .unwrap();
            assert_eq!(alone.0, OffloadHeader::default());
            let again: Vec<_> = written.iter().flat_map(cut_again).collect();
            assert_eq!(again, packets);
        }
        // IPv4's own checksum counts as well.
        if v4 {
            let mut packets: Vec<_> = specs.iter().map(Spec::packet).collect();
            packets[1][10] ^= 1;
            assert_eq!(merge(&packets, true).len(), 3);
        }
    }
}

#[test]
fn an_acknowledgement_is_not_overtaken_by_its_flow() {
    let first = base(false, true);
    let mut bare = next(&first);
    bare.payload.clear();
    let packets = [first.packet(), bare.packet(), next(&first).packet()];
    let written = merge(&packets, true);
    assert_eq!(
        written.iter().map(|w| &w.1).collect::<Vec<_>>(),
        packets.iter().collect::<Vec<_>>()
    );
}

/// One step of a history: which flow goes on, and how.
fn histories() -> impl Strategy<Value = Vec<(u8, u8, u16)>> {
    proptest::collection::vec((0u8..6, 0u8..24, any::<u16>()), 0..150)
}

fn play(steps: &[(u8, u8, u16)], shape: (bool, bool, bool)) -> Vec<Vec<u8>> {
    let (v4, tcp, dont_fragment) = shape;
    let mut flows: Vec<Spec> = (0..6)
        .map(|flow| Spec {
            flow,
            dont_fragment,
            v4: if flow < 3 { v4 } else { !v4 },
            tcp: if flow % 2 == 0 { tcp } else { !tcp },
            ..base(v4, tcp)
        })
        .collect();
    let mut packets = Vec::new();
    for &(flow, kind, number) in steps {
        let spec = &mut flows[usize::from(flow)];
        let mut sent = spec.clone();
        match kind {
            0 => sent.flags |= 0x08,
            1 => sent.flags |= 0x01,
            2 => sent.flags = number as u8,
            3 => sent.payload = noise(usize::from(number % 1_300), 3),
            4 => sent.payload.clear(),
            5 => sent.sequence = sent.sequence.wrapping_sub(number.into()),
            6 => sent.acknowledged = number.into(),
            7 => sent.traffic_class = number as u8,
            8 if !dont_fragment => sent.id = number,
            _ => {}
        }
        let mut packet = sent.packet();
        match kind {
            9 => packet[usize::from(number) % 20] ^= 1,
            10 => {
                let at = usize::from(number) % packet.len();
                packet[at] ^= 0x40;
            }
            11 => packet.truncate(usize::from(number) % (packet.len() + 1)),
            12 => packet.extend([0; 5]),
            _ => {}
        }
        packets.push(packet);
        *spec = next(&sent);
        spec.flags = 0x10;
        spec.payload = noise(1_000, 1);
        spec.traffic_class = 0;
    }
    packets
}

/// The bytes that name a packet's flow, as far as they can be told.
fn name(packet: &[u8]) -> Vec<u8> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 24 => packet[9..10]
            .iter()
            .chain(&packet[12..24])
            .copied()
            .collect(),
        Some(6) if packet.len() >= 44 => {
            packet[6..7].iter().chain(&packet[8..44]).copied().collect()
        }
        _ => Vec::new(),
    }
}

fn by_flow(packets: Vec<Vec<u8>>) -> std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<_, Vec<_>>::new();
    for mut packet in packets {
        // The id of a packet that must not be fragmented has no meaning, and need not come back.
        if packet.len() >= 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
            let id = u32::from(read_u16(&packet, 4)) + u32::from(read_u16(&packet, 10));
            write_u16(&mut packet, 4, 0);
            write_u16(&mut packet, 10, checksum::fold(u64::from(id)));
        }
        flows.entry(name(&packet)).or_default().push(packet);
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes, every flow's packets leave in order and, cut again, byte for byte as they came.
    #[test]
    fn cut_again_every_flow_is_what_it_was(
        steps in histories(),
        shape in (any::<bool>(), any::<bool>(), any::<bool>()),
        udp in any::<bool>(),
    ) {
        let packets = play(&steps, shape);
        let written = merge(&packets, udp);
        for (header, bytes) in &written {
            prop_assert!(bytes.len() <= 65_535);
            prop_assert!(udp || header.gso != Gso::Udp);
        }
        let again: Vec<_> = written.iter().flat_map(cut_again).collect();
        prop_assert!(by_flow(again) == by_flow(packets));
    }

    #[test]
    fn a_steady_flow_is_joined_as_far_as_it_may(
        v4 in any::<bool>(), tcp in any::<bool>(), size in 1usize..1_400, count in 1usize..200,
    ) {
        let mut specs = vec![Spec { payload: noise(size, 5), ..base(v4, tcp) }];
        while specs.len() < count {
            specs.push(next(specs.last().unwrap()));
        }
        let packets: Vec<_> = specs.iter().map(Spec::packet).collect();
        let headers = packets[0].len() - size;
        let most = ((65_535 - headers) / size).min(64);
        let written = merge(&packets, true);
        prop_assert_eq!(written.len(), count.div_ceil(most));
        prop_assert!(written.iter().flat_map(cut_again).collect::<Vec<_>>() == packets);
    }
}
