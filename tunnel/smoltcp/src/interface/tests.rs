use super::*;
use crate::tcp::{SocketBuffer, State};
use crate::wire::{Checksum, Ipv4Address, Ipv6Address, TcpSeqNumber};

fn interface(address: IpAddress) -> Interface {
    let socket = Socket::new(
        SocketBuffer::new(vec![0; 4096]),
        SocketBuffer::new(vec![0; 4096]),
    );
    let config = Config {
        address,
        mtu: 1500,
        offload: None,
        checksum: ChecksumCapabilities::default(),
        random_seed: 1,
    };
    Interface::new(config, socket)
}

fn syn(destination_port: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: 4242,
        dst_port: destination_port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(-10001),
        ack_number: None,
        window_len: 256,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None, None, None],
        payload: &[],
    }
}

fn packet(source: IpAddress, destination: IpAddress, tcp: &TcpRepr<'_>) -> Vec<u8> {
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, tcp.buffer_len(), 64);
    let mut packet = vec![0; ip.buffer_len()];
    let sent = emit(
        &mut packet,
        &ChecksumCapabilities::default(),
        None,
        &ip,
        tcp,
    );
    assert_eq!(sent.map(|sent| sent.len), Some(ip.buffer_len()));
    packet
}

/// Addresses, ports, control bit and acknowledgement number of a packet with right checksums.
fn read(packet: &[u8]) -> (IpAddress, IpAddress, TcpControl, Option<TcpSeqNumber>) {
    let checksum = ChecksumCapabilities::default();
    let ip = IpRepr::parse(packet, &checksum).unwrap();
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let segment = TcpPacket::new_checked(&packet[ip.header_len()..]).unwrap();
    let tcp = TcpRepr::parse(&segment, &from, &to, &checksum).unwrap();
    (from, to, tcp.control, tcp.ack_number)
}

const ENDS: [(IpAddress, IpAddress); 2] = [
    (
        IpAddress::Ipv4(Ipv4Address::new(192, 168, 1, 2)),
        IpAddress::Ipv4(Ipv4Address::new(192, 168, 1, 1)),
    ),
    (
        IpAddress::Ipv6(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
        IpAddress::Ipv6(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    ),
];

#[test]
fn what_no_socket_accepts_is_reset() {
    for (remote, local) in ENDS {
        let mut interface = interface(local);
        let mut buffer = [0; 1500];
        let incoming = packet(remote, local, &syn(4243));
        let sent = interface.ingress(Instant::ZERO, &incoming, &mut buffer);
        assert_eq!(
            read(&buffer[..sent.unwrap().len]),
            (local, remote, TcpControl::Rst, Some(TcpSeqNumber(-10000)))
        );
    }
}

#[test]
fn a_reset_is_not_answered() {
    let (remote, local) = ENDS[0];
    let rst = TcpRepr {
        control: TcpControl::Rst,
        ..syn(4243)
    };
    let incoming = packet(remote, local, &rst);
    let sent = interface(local).ingress(Instant::ZERO, &incoming, &mut [0; 1500]);
    assert_eq!(sent, None);
}

#[test]
fn a_connection_is_opened_and_a_short_buffer_loses_the_answer_only() {
    for (remote, local) in ENDS {
        let mut interface = interface(local);
        interface.socket_mut().listen(1234).unwrap();
        let incoming = packet(remote, local, &syn(1234));
        assert_eq!(
            interface.ingress(Instant::ZERO, &incoming, &mut [0; 1500]),
            None
        );
        assert_eq!(interface.socket().state(), State::SynReceived);
        assert_eq!(interface.poll_at(Instant::ZERO), Some(Instant::ZERO));
        // The answer does not fit, is lost, and comes again after the timeout.
        assert_eq!(interface.egress(Instant::ZERO, &mut [0; 30]), None);
        let again = interface.poll_at(Instant::ZERO).unwrap();
        assert!(again > Instant::ZERO);
        let mut buffer = [0; 1500];
        let sent = interface.egress(again, &mut buffer).unwrap();
        assert_eq!(sent.segment_size, None);
        assert_eq!(
            read(&buffer[..sent.len]),
            (local, remote, TcpControl::Syn, Some(TcpSeqNumber(-10000)))
        );
    }
}

#[test]
fn what_is_not_for_the_connection_is_dropped() {
    let (remote, local) = ENDS[0];
    let broadcast = IpAddress::Ipv4(Ipv4Address::BROADCAST);
    let unspecified = IpAddress::Ipv4(Ipv4Address::UNSPECIFIED);
    let good = packet(remote, local, &syn(1234));
    let mut fragment = good.clone();
    fragment[6] |= 0x20;
    Ipv4Packet::new_unchecked(&mut fragment).fill_checksum();
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let mut other = good.clone();
    other[9] = IpProtocol::Udp.into();
    Ipv4Packet::new_unchecked(&mut other).fill_checksum();
    let dropped = [
        packet(unspecified, local, &syn(1234)),
        packet(broadcast, local, &syn(1234)),
        packet(remote, unspecified, &syn(1234)),
        packet(remote, remote, &syn(1234)),
        fragment,
        wrong,
        other,
        good[..39].to_vec(),
        Vec::new(),
    ];
    for (at, bytes) in dropped.iter().enumerate() {
        let mut interface = interface(local);
        interface.socket_mut().listen(1234).unwrap();
        let sent = interface.ingress(Instant::ZERO, bytes, &mut [0; 1500]);
        assert_eq!(sent, None, "packet {at}");
        assert_eq!(interface.socket().state(), State::Listen, "packet {at}");
    }
}

#[test]
fn checksums_that_the_caller_looks_after_are_not_verified() {
    let (remote, local) = ENDS[0];
    let mut bytes = packet(remote, local, &syn(1234));
    *bytes.last_mut().unwrap() ^= 1;
    let mut interface = interface(local);
    interface.checksum.tcp = Checksum::None;
    interface.socket_mut().listen(1234).unwrap();
    interface.ingress(Instant::ZERO, &bytes, &mut [0; 1500]);
    assert_eq!(interface.socket().state(), State::SynReceived);
}
