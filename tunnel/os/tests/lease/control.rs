//! Gates, control datagrams, handles.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{DropReason, Gate, MAX_CONTROL_PAYLOAD, PeerConfig, Rates, Tier, Usage};
use ipsx_tunnel_os::{ClientEvent, ClientTunnel, ConnectError, ProviderEvent, TunnelError};
use tokio::{
    io::AsyncReadExt,
    time::{sleep, timeout},
};

use crate::setup::{
    Lease, client_config, key, lease, listener, mirror, pattern, policy, provider, tcp, within,
};

async fn next_control(lease: &mut Lease) -> Vec<u8> {
    loop {
        match within(5, lease.provider_events.recv()).await.unwrap() {
            ProviderEvent::Control { peer, payload } if peer == lease.peer => return payload,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_gate_passes_control_datagrams_and_nothing_else() {
    let server = mirror().await;
    let mut lease = lease(Tier::Web, &[tcp(server)]).await;
    lease.provider.set_gate(lease.peer, Gate::Closed).unwrap();
    // Answered after the gate has moved.
    lease.provider.status(lease.peer).await.unwrap();
    let connecting = timeout(Duration::from_millis(500), lease.client.tcp_connect(server)).await;
    assert!(connecting.is_err(), "the gate let a connection through");
    assert!(matches!(
        lease.client.ping(Duration::from_millis(200)).await,
        Err(TunnelError::EchoTimeout(_))
    ));
    lease.client.send_control(b"voucher".to_vec()).unwrap();
    assert_eq!(next_control(&mut lease).await, b"voucher");
    lease
        .provider
        .send_control(lease.peer, b"receipt".to_vec())
        .unwrap();
    let payload = loop {
        if let ClientEvent::Control { payload } =
            within(5, lease.client_events.recv()).await.unwrap()
        {
            break payload;
        }
    };
    assert_eq!(payload, b"receipt");
    assert_eq!(
        lease.provider.usage(lease.peer).await.unwrap(),
        Some(Usage::default())
    );
    assert!(
        lease
            .provider
            .dropped()
            .await
            .unwrap()
            .get(DropReason::GateClosed)
            >= 2
    );
    lease.provider.set_gate(lease.peer, Gate::Open).unwrap();
    let mut stream = within(5, lease.client.tcp_connect(server)).await.unwrap();
    let mut seen = String::new();
    within(5, stream.read_to_string(&mut seen)).await.unwrap();
    assert!(!seen.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn control_datagrams_are_limited_in_size_and_rate() {
    let mut lease = lease(Tier::Web, &[]).await;
    let largest = pattern(5, MAX_CONTROL_PAYLOAD);
    lease.client.send_control(largest.clone()).unwrap();
    assert_eq!(next_control(&mut lease).await, largest);
    assert!(matches!(
        lease.client.send_control(vec![0; MAX_CONTROL_PAYLOAD + 1]),
        Err(TunnelError::ControlSize { .. })
    ));
    for _ in 0..500 {
        lease.client.send_control(vec![1]).unwrap();
    }
    assert!(
        lease
            .client
            .dropped()
            .await
            .unwrap()
            .get(DropReason::ControlRate)
            >= 300
    );
    assert_eq!(lease.agreed_usage().await, Usage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_holds_the_rate() {
    let (server, address) = listener().await;
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = server.accept().await.unwrap();
        let _ = stream.write_all(&pattern(4, 4 << 20)).await;
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    lease
        .provider
        .set_gate(lease.peer, Gate::throttled(200_000))
        .unwrap();
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let mut sink = Vec::new();
    let _ = timeout(Duration::from_secs(3), stream.read_to_end(&mut sink)).await;
    let down = lease
        .provider
        .usage(lease.peer)
        .await
        .unwrap()
        .unwrap()
        .bytes_down;
    assert!(
        down > 50_000 && down <= 50_000 + 200_000 * 32 / 10,
        "{down} bytes in three seconds"
    );
}

/// The capacity limits a download without any loss: what does not fit waits at the exit, and its source with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_waits_for_the_capacity() {
    const RATE: u64 = 1_000_000;
    let (server, address) = listener().await;
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = server.accept().await.unwrap();
        let chunk = pattern(4, 64 << 10);
        while stream.write_all(&chunk).await.is_ok() {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let capacity = Rates {
        up: u64::MAX,
        down: RATE,
    };
    let started = Instant::now();
    lease.provider.set_capacity(capacity).unwrap();
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let mut sink = Vec::new();
    let _ = timeout(Duration::from_secs(4), stream.read_to_end(&mut sink)).await;
    // In this order: while the question waits for its answer, bytes go on.
    let usage = lease.provider.usage(lease.peer).await.unwrap().unwrap();
    let most = RATE * started.elapsed().as_millis() as u64 / 1_000 + RATE / 10 + 3_000;
    assert!(
        usage.bytes_down <= most && usage.bytes_down > most / 2,
        "{} of {most} bytes",
        usage.bytes_down
    );
    assert!(sink.len() as u64 > most / 2);
    let dropped = lease.provider.dropped().await.unwrap();
    let refused = dropped.get(DropReason::Capacity);
    assert!(refused < 20, "{refused} packets lost to the limit");
    // Whatever the source has written and the client has not read lies in buffers of a bounded size.
    let ahead = written.load(Ordering::Relaxed) - sink.len() as u64;
    assert!(ahead < 16 << 20, "{ahead} bytes are under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn echoes_and_status_show_that_the_tunnel_works() {
    let lease = lease(Tier::Web, &[]).await;
    let round_trip = lease.client.ping(Duration::from_secs(2)).await.unwrap();
    assert!(round_trip < Duration::from_secs(2));
    let status = lease.client.status().await.unwrap();
    assert!(status.established && status.handshake_age.unwrap() < Duration::from_secs(10));
    assert_eq!(status.endpoint, Some(lease.provider.local_addr()));
    assert!(status.last_received.is_some());
    let usage = lease.agreed_usage().await;
    assert_eq!((usage.bytes_up, usage.bytes_down), (44, 44));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_gets_no_handshake() {
    let (provider, _events) = provider(policy(Tier::Web, &[]), Default::default());
    let mut config = client_config(&provider, key());
    config.handshake_timeout = Duration::from_millis(300);
    assert!(matches!(
        ClientTunnel::connect(config).await,
        Err(TunnelError::HandshakeTimeout { .. })
    ));
    assert_eq!(
        provider
            .dropped()
            .await
            .unwrap()
            .get(DropReason::UnknownPeer),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_early_gets_in_a_second_later() {
    let (provider, _events) = provider(policy(Tier::Web, &[]), Default::default());
    let private_key = key();
    let public_key = private_key.public_key();
    let connecting = tokio::spawn(ClientTunnel::connect(client_config(&provider, private_key)));
    sleep(Duration::from_millis(300)).await;
    let peer = PeerConfig {
        public_key,
        preshared_key: None,
        endpoint: None,
        allowed_ips: vec!["10.77.0.2/32".parse().unwrap()],
        keepalive: None,
    };
    provider.add_peer(peer).await.unwrap();
    let (client, _events) = within(3, connecting).await.unwrap().unwrap();
    assert!(
        client.round_trip() < Duration::from_millis(500),
        "the wait is no round trip"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_peer_ends_its_flows_and_its_sessions() {
    let (server, address) = listener().await;
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let _stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let (mut outside, _) = within(5, server.accept()).await.unwrap();
    let usage = lease
        .provider
        .remove_peer(lease.peer)
        .await
        .unwrap()
        .unwrap();
    assert!(usage.bytes_up > 0);
    // The outside connection is reset, not ended in order.
    assert!(within(5, outside.read_u8()).await.is_err());
    assert_eq!(lease.provider.usage(lease.peer).await.unwrap(), None);
    assert!(matches!(
        lease.client.ping(Duration::from_millis(200)).await,
        Err(TunnelError::EchoTimeout(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_frees_the_ports_and_breaks_streams() {
    let (_server, address) = listener().await;
    let lease = lease(Tier::Web, &[tcp(address)]).await;
    let mut stream = within(5, lease.client.tcp_connect(address)).await.unwrap();
    let (outer, inner) = (lease.provider.local_addr(), lease.client.local_addr());
    within(5, lease.provider.shutdown()).await;
    within(5, lease.client.shutdown()).await;
    std::net::UdpSocket::bind(outer).unwrap();
    std::net::UdpSocket::bind(inner).unwrap();
    assert!(within(5, stream.read_u8()).await.is_err());
    assert!(matches!(
        lease.client.tcp_connect(address).await,
        Err(ConnectError::Stopped)
    ));
    assert!(matches!(
        lease.provider.usage(lease.peer).await,
        Err(TunnelError::Stopped)
    ));
}
