//! What the exit opens, and how it refuses.

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
    time::Duration,
};

use ipsx_tunnel_core::{DropReason, Tier};
use ipsx_tunnel_os::{ConnectError, ExitLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::setup::{closed_port, lease, lease_with, listener, mirror, policy, tcp, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_refuses() {
    let closed = closed_port().await;
    let lease = lease(Tier::Web, &[tcp(closed)]).await;
    assert_eq!(
        within(5, lease.client.tcp_connect(closed))
            .await
            .unwrap_err(),
        ConnectError::Refused
    );
    // The refused segment was delivered, so it counts on both ends.
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_destinations_are_unreachable_and_counted_by_reason() {
    let server = mirror().await;
    let lease = lease(Tier::Open, &[tcp(server)]).await;
    let denied: &[(&str, DropReason)] = &[
        ("127.0.0.1:1", DropReason::Loopback),
        ("127.0.1.7:80", DropReason::Loopback),
        ("10.1.2.3:80", DropReason::Private),
        ("192.168.1.1:80", DropReason::Private),
        ("169.254.169.254:80", DropReason::Metadata),
        ("169.254.1.1:80", DropReason::LinkLocal),
        ("100.64.0.1:80", DropReason::CarrierNat),
        ("224.0.0.1:80", DropReason::Multicast),
        ("255.255.255.255:80", DropReason::Broadcast),
        ("198.18.0.1:80", DropReason::Benchmarking),
        ("192.0.2.1:80", DropReason::Documentation),
        ("240.0.0.1:80", DropReason::Reserved),
        ("8.8.8.8:25", DropReason::MailPort),
        ("[::1]:80", DropReason::Loopback),
        ("[fd00:ec2::254]:80", DropReason::Metadata),
        ("[fd12::1]:80", DropReason::UniqueLocal),
        ("[fe80::1]:80", DropReason::LinkLocal),
        ("[ff02::1]:80", DropReason::Multicast),
        ("[::ffff:127.0.0.1]:80", DropReason::Loopback),
        ("[64:ff9b::a9fe:a9fe]:80", DropReason::Metadata),
        ("[2002:7f00:1::]:80", DropReason::Loopback),
    ];
    for &(destination, reason) in denied {
        let address: SocketAddr = destination.parse().unwrap();
        let before = lease.provider.dropped().await.unwrap().get(reason);
        let result = within(5, lease.client.tcp_connect(address)).await;
        assert_eq!(
            result.unwrap_err(),
            ConnectError::Prohibited,
            "{destination}"
        );
        assert_eq!(
            lease.provider.dropped().await.unwrap().get(reason),
            before + 1,
            "{destination}"
        );
    }
    // What the rule opens still works.
    let mut stream = within(5, lease.client.tcp_connect(server)).await.unwrap();
    assert!(within(5, stream.read_u8()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_the_egress_address_cannot_reach_is_unreachable() {
    // A loopback address has no way out of the machine, so nothing leaves it.
    let lease = lease(Tier::Web, &["198.51.100.1/32:tcp/80".to_owned()]).await;
    let destination = "198.51.100.1:80".parse().unwrap();
    let error = within(5, lease.client.tcp_connect(destination))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::HostUnreachable | ConnectError::NetworkUnreachable
        ),
        "{error:?}"
    );
    assert_eq!(
        lease
            .provider
            .dropped()
            .await
            .unwrap()
            .get(DropReason::SocketFailed),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_answers_late_is_waited_for() {
    // With a full backlog the kernel drops new requests; the one who asks repeats them after a second.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    listener.listen(0).unwrap();
    let listener: std::net::TcpListener = listener.into();
    let address = listener.local_addr().unwrap();
    let filler = std::net::TcpStream::connect(address).unwrap();
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let client = lease.client.clone();
    let connecting = tokio::spawn(async move { client.tcp_connect(address).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!connecting.is_finished(), "nobody has accepted yet");
    drop(filler);
    drop(listener.accept().unwrap());
    let mut stream = within(10, connecting).await.unwrap().unwrap();
    listener.accept().unwrap().0.write_all(b"late").unwrap();
    let mut answer = String::new();
    within(5, stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "late");
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_on_a_connection_closes_it() {
    let (server, address) = listener().await;
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    // However far it gets before it is given up.
    drop(tokio::time::timeout(Duration::ZERO, lease.client.tcp_connect(address)).await);
    if let Ok(Ok((mut stream, _))) =
        tokio::time::timeout(Duration::from_secs(1), server.accept()).await
    {
        // In order or with a reset, depending on how far it had come.
        let kind = within(5, stream.read_u8()).await.unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "{kind:?}"
        );
    }
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_passes_through() {
    let (server, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let error = within(5, stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    within(10, lease.agreed_usage()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_refused() {
    let (server, address) = listener().await;
    let limits = ExitLimits {
        tcp_per_peer: 2,
        ..ExitLimits::default()
    };
    let lease = lease_with(policy(Tier::Web, &[tcp(address)]), limits).await;
    let first = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let _second = within(5, lease.client.tcp_connect(address)).await.unwrap();
    assert_eq!(
        within(5, lease.client.tcp_connect(address))
            .await
            .unwrap_err(),
        ConnectError::Refused
    );
    assert_eq!(
        lease
            .provider
            .dropped()
            .await
            .unwrap()
            .get(DropReason::FlowLimit),
        1
    );
    // Ending one in order makes room.
    let (outside, _) = server.accept().await.unwrap();
    drop(first);
    drop(outside);
    within(5, async {
        while lease.client.tcp_connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
