//! A peer that speaks plain WireGuard and writes its own inner packets, as any stock client's kernel may.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use ipsx_tunnel_core::{
    Device, DeviceConfig, DropReason, Gate, Inbound, PeerConfig, PeerId, Side, Tier,
    packet::{self, Content, Headers, Unreachable},
};
use ipsx_tunnel_os::{ExitLimits, Provider};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use crate::setup::{CONTROL_PORT, EGRESS, GATEWAY, INNER, key, policy, provider, within};

struct RawPeer {
    provider: Provider,
    peer: PeerId,
    device: Device,
    gateway: PeerId,
    socket: UdpSocket,
}

impl RawPeer {
    async fn start(tier: Tier, allow: &[String]) -> Self {
        let (provider, events) = provider(policy(tier, allow), ExitLimits::default());
        // These tests do not look at events.
        drop(events);
        let private_key = key();
        let peer = provider
            .add_peer(PeerConfig {
                public_key: private_key.public_key(),
                preshared_key: None,
                endpoint: None,
                allowed_ips: vec![
                    "10.77.0.2/32".parse().unwrap(),
                    "fd77::2/128".parse().unwrap(),
                ],
                keepalive: None,
            })
            .await
            .unwrap();
        provider.set_gate(peer, Gate::Open).unwrap();
        let now = Instant::now();
        let mut device = Device::new(
            DeviceConfig {
                private_key,
                side: Side::Client { inner_v4: INNER },
                gateway_v4: GATEWAY,
                control_port: CONTROL_PORT,
            },
            [3; 32],
            now,
        );
        let gateway = device
            .add_peer(
                PeerConfig {
                    public_key: provider.public_key(),
                    preshared_key: None,
                    endpoint: Some(provider.local_addr()),
                    allowed_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
                    keepalive: None,
                },
                now,
            )
            .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut raw = Self {
            provider,
            peer,
            device,
            gateway,
            socket,
        };
        raw.device.initiate(raw.gateway, now).unwrap();
        raw.flush().await;
        while !raw.device.status(raw.gateway).unwrap().established {
            raw.receive().await;
        }
        raw
    }

    async fn flush(&mut self) {
        while let Some(batch) = self.device.poll_transmit() {
            for datagram in batch.contents().chunks(batch.segment_size) {
                self.socket
                    .send_to(datagram, batch.destination)
                    .await
                    .unwrap();
            }
            self.device.recycle(batch);
        }
    }

    async fn send(&mut self, packet: &[u8]) {
        self.device.handle_packet(packet, Instant::now()).unwrap();
        self.flush().await;
    }

    async fn receive(&mut self) -> Option<Vec<u8>> {
        let (mut datagram, mut buffer) = ([0; 2048], [0; 2048]);
        let (len, from) = within(5, self.socket.recv_from(&mut datagram))
            .await
            .unwrap();
        let inbound = self
            .device
            .handle_datagram(from, &datagram[..len], Instant::now(), &mut buffer)
            .unwrap();
        let packet = match inbound {
            Some(Inbound::Packet { packet, .. }) => Some(packet.to_vec()),
            _ => None,
        };
        self.flush().await;
        packet
    }

    /// Sends a packet and returns what comes back.
    async fn exchange(&mut self, packet: &[u8]) -> Vec<u8> {
        self.send(packet).await;
        loop {
            if let Some(packet) = self.receive().await {
                return packet;
            }
        }
    }

    async fn silence(&mut self) -> bool {
        timeout(Duration::from_millis(200), self.receive())
            .await
            .is_err()
    }

    /// Waits until the provider has counted so many drops.
    async fn settled(&self, reason: DropReason, count: u64) {
        let all = async {
            while self.provider.dropped().await.unwrap().get(reason) < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        within(10, all).await;
    }

    /// Waits until the provider has counted a drop.
    async fn dropped(&self, reason: DropReason) -> u64 {
        for _ in 0..100 {
            let count = self.provider.dropped().await.unwrap().get(reason);
            if count > 0 {
                return count;
            }
            sleep(Duration::from_millis(10)).await;
        }
        0
    }
}

fn udp(
    source: impl Into<SocketAddr>,
    destination: impl Into<SocketAddr>,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    assert!(packet::udp(
        &mut packet,
        source.into(),
        destination.into(),
        payload
    ));
    packet
}

fn payload(packet: &[u8]) -> &[u8] {
    match Headers::parse(packet).unwrap().content {
        Content::Udp {
            payload_start,
            payload_end,
            ..
        } => &packet[payload_start..payload_end],
        other => panic!("{other:?}"),
    }
}

/// Writes the checksum of a changed IPv4 header.
fn sign_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum: u32 = packet[..20]
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A server that answers each datagram with the sender's address and the datagram.
async fn echo_server(bind: &str) -> SocketAddr {
    let socket = UdpSocket::bind(bind).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = from.ip().to_string().into_bytes();
            answer.extend_from_slice(&buffer[..len]);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_leave_from_the_egress_address_and_come_back() {
    let server = echo_server("127.0.0.1:0").await;
    let mut raw = RawPeer::start(Tier::Web, &[format!("127.0.0.1/32:udp/{}", server.port())]).await;
    for n in 0..20u8 {
        let answer = raw
            .exchange(&udp((INNER, 4000 + u16::from(n % 3)), server, &[n]))
            .await;
        assert_eq!(
            payload(&answer),
            [EGRESS.to_string().as_bytes(), &[n]].concat()
        );
        let headers = Headers::parse(&answer).unwrap();
        assert_eq!(
            (headers.source, headers.destination),
            (server.ip(), IpAddr::V4(INNER))
        );
    }
    let usage = raw.provider.usage(raw.peer).await.unwrap().unwrap();
    assert_eq!((usage.bytes_up, usage.bytes_down), (20 * 29, 20 * 38));
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_to_a_closed_port_and_to_refused_places_is_unreachable() {
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut raw = RawPeer::start(Tier::Web, &[format!("127.0.0.1/32:udp/{}", closed.port())]).await;
    let source = SocketAddr::from((INNER, 4000));
    for (destination, reason) in [
        (closed, Unreachable::Port),
        ("127.0.0.1:1".parse().unwrap(), Unreachable::Prohibited),
        ("8.8.8.8:53".parse().unwrap(), Unreachable::Prohibited),
        ((GATEWAY, 54).into(), Unreachable::Port),
    ] {
        let answer = raw.exchange(&udp(source, destination, b"x")).await;
        let expected = Content::Unreachable {
            reason,
            protocol: 17,
            source,
            destination,
        };
        assert_eq!(Headers::parse(&answer).unwrap().content, expected);
    }
    assert_eq!(raw.dropped(DropReason::Loopback).await, 1);
    assert_eq!(raw.dropped(DropReason::OutsideTier).await, 1);
    // A refused flow costs nothing on the way up.
    assert_eq!(
        raw.provider
            .usage(raw.peer)
            .await
            .unwrap()
            .unwrap()
            .bytes_up,
        29
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_flows_pass_too() {
    let server = echo_server("[::1]:0").await;
    let mut raw = RawPeer::start(Tier::Web, &[format!("::1/128:udp/{}", server.port())]).await;
    let source: SocketAddr = "[fd77::2]:4000".parse().unwrap();
    let answer = raw.exchange(&udp(source, server, b"six")).await;
    assert_eq!(payload(&answer), b"::1six");
    let refused: SocketAddr = "[fd00:ec2::254]:80".parse().unwrap();
    let answer = raw.exchange(&udp(source, refused, b"x")).await;
    assert!(matches!(
        Headers::parse(&answer).unwrap().content,
        Content::Unreachable {
            reason: Unreachable::Prohibited,
            ..
        }
    ));
    assert_eq!(raw.dropped(DropReason::Metadata).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_answers_echoes() {
    let mut raw = RawPeer::start(Tier::Open, &[]).await;
    let mut request = Vec::new();
    for (source, gateway) in [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")] {
        packet::echo_request(
            &mut request,
            source.parse().unwrap(),
            gateway.parse().unwrap(),
            5,
            6,
            b"abc",
        );
        let answer = raw.exchange(&request).await;
        assert_eq!(
            Headers::parse(&answer).unwrap().content,
            Content::EchoReply {
                identifier: 5,
                sequence: 6
            }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echoes_to_others_are_refused_below_the_open_tier() {
    let mut raw = RawPeer::start(Tier::WebUdp, &[]).await;
    let mut request = Vec::new();
    let outside = Ipv4Addr::new(8, 8, 8, 8).into();
    packet::echo_request(&mut request, INNER.into(), outside, 5, 7, b"abc");
    let answer = raw.exchange(&request).await;
    assert!(matches!(
        Headers::parse(&answer).unwrap().content,
        Content::Unreachable {
            reason: Unreachable::Prohibited,
            ..
        } | Content::OtherIcmp
    ));
    assert_eq!(raw.dropped(DropReason::EchoOutside).await, 1);
}

/// Not every system lets everybody send echoes; where this one does not, they are dropped by reason.
#[tokio::test(flavor = "multi_thread")]
async fn echoes_to_others_go_out_and_come_back_where_the_system_has_sockets_for_them() {
    let allowed = ["127.0.0.1/32:any/*", "::1/128:any/*"].map(str::to_owned);
    let mut raw = RawPeer::start(Tier::Open, &allowed).await;
    let permitted = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).is_ok();
    let mut request = Vec::new();
    let mut refused = 0;
    for (source, host) in [("10.77.0.2", "127.0.0.1"), ("fd77::2", "::1")] {
        let (source, host): (IpAddr, IpAddr) = (source.parse().unwrap(), host.parse().unwrap());
        // Two series of one peer, which differ in their identifiers alone.
        for (identifier, sequence) in [(5, 7), (6, 7), (5, 8)] {
            let data = [sequence as u8; 300];
            packet::echo_request(&mut request, source, host, identifier, sequence, &data);
            if !permitted {
                raw.send(&request).await;
                refused += 1;
                continue;
            }
            let answer = raw.exchange(&request).await;
            let headers = Headers::parse(&answer).unwrap();
            let expected = Content::EchoReply {
                identifier,
                sequence,
            };
            assert_eq!((headers.source, headers.content), (host, expected));
            assert_eq!(
                answer[headers.transport_end - 300..headers.transport_end],
                data
            );
        }
    }
    if !permitted {
        raw.settled(DropReason::EchoOutside, refused).await;
        assert!(raw.silence().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_and_broken_packets_are_dropped_by_reason() {
    let mut raw = RawPeer::start(Tier::Open, &[]).await;
    let mut fragment = udp((INNER, 1), (Ipv4Addr::new(8, 8, 8, 8), 443), b"x");
    fragment[6] = 0x20;
    sign_header(&mut fragment);
    raw.send(&fragment).await;
    assert_eq!(raw.dropped(DropReason::Fragment).await, 1);
    let mut broken = udp((INNER, 1), (Ipv4Addr::new(8, 8, 8, 8), 443), b"x");
    broken[10] ^= 1;
    raw.send(&broken).await;
    assert_eq!(raw.dropped(DropReason::Malformed).await, 1);
    let mut sctp = udp((INNER, 1), (Ipv4Addr::new(8, 8, 8, 8), 443), b"x");
    sctp[9] = 132;
    sign_header(&mut sctp);
    raw.send(&sctp).await;
    assert_eq!(raw.dropped(DropReason::UnsupportedProtocol).await, 1);
    raw.send(&udp(
        (Ipv4Addr::new(10, 77, 0, 99), 1),
        (Ipv4Addr::new(8, 8, 8, 8), 443),
        b"x",
    ))
    .await;
    assert_eq!(raw.dropped(DropReason::SpoofedSource).await, 1);
    assert!(raw.silence().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_not_for_addresses_get_an_empty_answer() {
    let mut raw = RawPeer::start(Tier::Open, &["127.0.0.1/32:tcp/80".to_owned()]).await;
    for (kind, code, answers) in [
        (RecordType::A, ResponseCode::NoError, 1),
        (RecordType::TXT, ResponseCode::NoError, 0),
        (RecordType::HTTPS, ResponseCode::NoError, 0),
    ] {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii("localhost.").unwrap(), kind));
        let answer = raw
            .exchange(&udp(
                (INNER, 999),
                (GATEWAY, 53),
                &question.to_vec().unwrap(),
            ))
            .await;
        let message = Message::from_vec(payload(&answer)).unwrap();
        assert_eq!(message.metadata.id, question.metadata.id);
        assert_eq!(message.metadata.response_code, code);
        assert_eq!(message.queries, question.queries);
        assert_eq!(message.answers.len(), answers, "{kind}");
    }
    let mut odd = Message::query();
    odd.metadata.op_code = OpCode::Status;
    odd.add_query(Query::query(
        Name::from_ascii("localhost.").unwrap(),
        RecordType::A,
    ));
    let answer = raw
        .exchange(&udp((INNER, 999), (GATEWAY, 53), &odd.to_vec().unwrap()))
        .await;
    assert_eq!(
        Message::from_vec(payload(&answer))
            .unwrap()
            .metadata
            .response_code,
        ResponseCode::NotImp
    );
    raw.send(&udp((INNER, 999), (GATEWAY, 53), b"no question"))
        .await;
    assert_eq!(raw.dropped(DropReason::BadDns).await, 1);
}
