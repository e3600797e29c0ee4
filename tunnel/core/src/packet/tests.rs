#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 2], port))
}

fn other_v4(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], port))
}

fn v6(last: u16, port: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], port))
}

/// A bare SYN, as a client sends it.
fn syn(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    use smoltcp::wire::*;
    let tcp = TcpRepr {
        src_port: source.port(),
        dst_port: destination.port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1000),
        sack_permitted: false,
        sack_ranges: [None; 3],
        payload: &[],
    };
    let (from, to): (IpAddress, IpAddress) = (source.ip().into(), destination.ip().into());
    let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64);
    let mut packet = vec![0; ip.buffer_len()];
    ip.emit(&mut packet[..], &ChecksumCapabilities::default());
    let mut segment = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
    tcp.emit(&mut segment, &from, &to, &ChecksumCapabilities::default());
    packet
}

#[test]
fn udp_round_trips_in_both_families() {
    for (source, destination) in [(v4(1000), other_v4(53)), (v6(1, 1000), v6(2, 53))] {
        let mut packet = Vec::new();
        assert!(udp(&mut packet, source, destination, b"question"));
        let headers = Headers::parse(&packet).unwrap();
        assert_eq!(
            (headers.source, headers.destination),
            (source.ip(), destination.ip())
        );
        assert_eq!(addresses(&packet).unwrap(), (source.ip(), destination.ip()));
        let Content::Udp {
            source_port,
            destination_port,
            payload_start,
            payload_end,
        } = headers.content
        else {
            panic!("{headers:?}");
        };
        assert_eq!((source_port, destination_port), (1000, 53));
        assert_eq!(&packet[payload_start..payload_end], b"question");
    }
}

#[test]
fn udp_refuses_what_does_not_fit() {
    let mut packet = Vec::new();
    assert!(!udp(&mut packet, v4(1), v6(1, 1), b""));
    assert!(udp(
        &mut packet,
        v4(1),
        other_v4(1),
        &[0; crate::INNER_MTU - 28]
    ));
    assert_eq!(packet.len(), crate::INNER_MTU);
    assert!(!udp(
        &mut packet,
        v4(1),
        other_v4(1),
        &[0; crate::INNER_MTU - 27]
    ));
}

#[test]
fn echo_is_answered_in_both_families() {
    for (source, destination) in [(v4(0), other_v4(0)), (v6(1, 0), v6(2, 0))] {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        assert!(echo_request(
            &mut request,
            source.ip(),
            destination.ip(),
            77,
            3,
            b"payload"
        ));
        assert_eq!(
            Headers::parse(&request).unwrap().content,
            Content::EchoRequest
        );
        assert!(echo_reply(&mut reply, &request));
        let headers = Headers::parse(&reply).unwrap();
        assert_eq!(
            (headers.source, headers.destination),
            (destination.ip(), source.ip())
        );
        assert_eq!(
            headers.content,
            Content::EchoReply {
                identifier: 77,
                sequence: 3
            }
        );
        assert!(reply.ends_with(b"payload"));
        assert!(!echo_reply(&mut request, &reply));
    }
}

#[test]
fn unreachable_names_the_flow_in_both_families() {
    for (source, destination) in [(v4(4000), other_v4(80)), (v6(1, 4000), v6(2, 80))] {
        for reason in [
            Unreachable::Network,
            Unreachable::Host,
            Unreachable::Port,
            Unreachable::Prohibited,
        ] {
            let mut packet = Vec::new();
            assert!(unreachable(
                &mut packet,
                &syn(source, destination),
                destination.ip(),
                reason
            ));
            let headers = Headers::parse(&packet).unwrap();
            assert_eq!(
                headers.content,
                Content::Unreachable {
                    reason,
                    protocol: 6,
                    source,
                    destination
                }
            );
            assert_eq!(headers.destination, source.ip());
        }
    }
}

#[test]
fn resets_answer_segments_but_not_resets() {
    for (source, destination) in [(v4(4000), other_v4(80)), (v6(1, 4000), v6(2, 80))] {
        let (mut reset, mut again) = (Vec::new(), Vec::new());
        assert!(tcp_reset(&mut reset, &syn(source, destination)));
        let headers = Headers::parse(&reset).unwrap();
        assert_eq!(
            headers.content,
            Content::Tcp {
                source_port: 80,
                destination_port: 4000,
                opens: false,
                resets: true
            }
        );
        let tcp = TcpPacket::new_checked(&reset[headers.transport_start..]).unwrap();
        assert_eq!(tcp.ack_number().0, 1001);
        assert!(tcp.verify_checksum(&destination.ip().into(), &source.ip().into()));
        assert!(!tcp_reset(&mut again, &reset));
    }
}

#[test]
fn a_repeated_fin_is_acknowledged_from_what_it_says() {
    let mut fin = syn(v4(4000), other_v4(80));
    let mut answer = Vec::new();
    assert!(!tcp_last_ack(&mut answer, &fin), "no FIN");
    let mut tcp = TcpPacket::new_unchecked(&mut fin[20..]);
    tcp.clear_flags();
    tcp.set_fin(true);
    tcp.set_ack(true);
    tcp.set_ack_number(smoltcp::wire::TcpSeqNumber(777));
    assert!(tcp_last_ack(&mut answer, &fin));
    let tcp = TcpPacket::new_checked(&answer[20..]).unwrap();
    assert!(tcp.ack() && !tcp.fin() && !tcp.rst());
    assert_eq!((tcp.seq_number().0, tcp.ack_number().0), (777, 1001));
    assert_eq!((tcp.src_port(), tcp.dst_port()), (80, 4000));
    assert!(tcp.verify_checksum(&other_v4(0).ip().into(), &v4(0).ip().into()));
    let mut again = Vec::new();
    assert!(
        !tcp_last_ack(&mut again, &answer),
        "acknowledgements are not answered"
    );
}

#[test]
fn fragments_and_extension_headers_are_named() {
    let mut packet = Vec::new();
    udp(&mut packet, v4(1), other_v4(2), b"x");
    for (flags, offset) in [(0x20, 0), (0x00, 1), (0x20, 5)] {
        let mut fragment = packet.clone();
        (fragment[6], fragment[7]) = (flags, offset);
        Ipv4Packet::new_unchecked(&mut fragment[..]).fill_checksum();
        assert_eq!(Headers::parse(&fragment), Err(DropReason::Fragment));
    }
    udp(&mut packet, v6(1, 1), v6(2, 2), b"x");
    for (next, reason) in [
        (44, DropReason::Fragment),
        (0, DropReason::ExtensionHeader),
        (43, DropReason::ExtensionHeader),
        (60, DropReason::ExtensionHeader),
    ] {
        packet[6] = next;
        assert_eq!(Headers::parse(&packet), Err(reason));
    }
    packet[6] = 132;
    assert_eq!(
        Headers::parse(&packet).unwrap().content,
        Content::Other(132)
    );
}

#[test]
fn broken_packets_are_malformed() {
    let mut packet = Vec::new();
    udp(&mut packet, v4(1), other_v4(2), b"payload");
    for cut in 0..packet.len() {
        assert_eq!(
            Headers::parse(&packet[..cut]),
            Err(DropReason::Malformed),
            "cut at {cut}"
        );
    }
    packet[12] ^= 1;
    assert_eq!(
        Headers::parse(&packet),
        Err(DropReason::Malformed),
        "checksum"
    );
    packet[0] = 0x55;
    assert_eq!(
        Headers::parse(&packet),
        Err(DropReason::Malformed),
        "version"
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in any::<bool>()) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = if version { 0x45 } else { 0x60 };
        }
        let _ = Headers::parse(&bytes);
        let mut out = Vec::new();
        tcp_reset(&mut out, &bytes);
        echo_reply(&mut out, &bytes);
        unreachable(&mut out, &bytes, v4(0).ip(), Unreachable::Host);
        unreachable(&mut out, &bytes, v6(1, 0).ip(), Unreachable::Host);
    }
}
