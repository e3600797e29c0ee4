//! Two endpoints on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;
use tokio::time::timeout;

use super::*;

/// Well above the windows, so that the writer waits for the reader again and again.
const MUCH: usize = 4 << 20;
const WINDOW: u32 = 64 * 1024;

/// A server, and a client that trusts it.
fn pair() -> (Endpoint, SocketAddr, Endpoint) {
    let made = rcgen::generate_simple_self_signed(["here".to_string()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certificate = made.cert.der().clone();
    let provider = Arc::new(ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(1u8.into())
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into());
    let transport = Arc::new(transport);
    let mut server =
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    server.transport_config(transport.clone());
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    client.transport_config(transport);

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let server = Endpoint::new(EndpointConfig::default(), Some(server), socket).unwrap();
    let mut dialer = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    dialer.set_default_client_config(client);
    (server, address, dialer)
}

async fn connected() -> (Endpoint, Connection, Endpoint, Connection) {
    let (server, address, client) = pair();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let connecting = async { client.connect(address, "here").unwrap().await.unwrap() };
    let (accepted, made) = tokio::join!(accepting, connecting);
    (server, accepted, client, made)
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..MUCH)
        .map(|n| ((n * 7 + n / 251) ^ seed) as u8)
        .collect()
}

#[tokio::test]
async fn streams_carry_more_than_the_windows_both_ways_at_once() {
    let (_server, accepted, _client, made) = connected().await;
    let (mut key, mut other) = ([0; 32], [0; 32]);
    accepted
        .export_keying_material(&mut key, b"label", b"")
        .unwrap();
    made.export_keying_material(&mut other, b"label", b"")
        .unwrap();
    assert_eq!(key, other);

    let here = async {
        let (mut send, mut recv) = made.open_bi().await.unwrap();
        let mut read = vec![0; MUCH];
        let sent = async {
            send.write_all(&pattern(1)).await.unwrap();
            send.finish().unwrap();
            assert!(send.finish().is_err(), "it is finished");
            assert_eq!(send.stopped().await, Ok(None), "it was acknowledged");
        };
        let (received, ()) = tokio::join!(recv.read_exact(&mut read), sent);
        received.unwrap();
        assert!(read == pattern(2));
        assert_eq!(
            recv.read_exact(&mut [0; 9]).await,
            Err(ReadExactError::FinishedEarly(3))
        );
        assert_eq!(recv.read_chunk(9).await, Ok(None));
    };
    let there = async {
        let (mut send, mut recv) = accepted.accept_bi().await.unwrap();
        let mut read = Vec::new();
        let sent = async {
            send.write_all(&pattern(2)).await.unwrap();
            send.write_all(b"end").await.unwrap();
        };
        let received = async {
            while let Some(bytes) = recv.read_chunk(1000).await.unwrap() {
                assert!((1..=1000).contains(&bytes.len()));
                read.extend_from_slice(&bytes);
            }
        };
        tokio::join!(sent, received);
        assert!(read == pattern(1));
    };
    timeout(Duration::from_secs(60), async { tokio::join!(here, there) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stream_that_is_dropped_unread_stops_its_writer_and_makes_room_for_the_next() {
    let (_server, accepted, _client, made) = connected().await;
    let (mut send, recv) = made.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    drop(accepted.accept_bi().await.unwrap());
    assert_eq!(send.stopped().await, Ok(Some(0u32.into())));
    let error = send.write_all(&[0; 9]).await.unwrap_err();
    assert_eq!(error, WriteError::Stopped(0u32.into()));
    drop((send, recv));
    // One at a time is allowed.
    let next = timeout(Duration::from_secs(10), made.open_bi()).await;
    next.unwrap().unwrap();
}

#[tokio::test]
async fn closing_is_told_with_its_reason_and_wakes_whoever_waits() {
    let (server, accepted, client, made) = connected().await;
    let (mut send, _recv) = made.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    let (mut answer, mut recv) = accepted.accept_bi().await.unwrap();
    recv.read_exact(&mut [0; 5]).await.unwrap();
    let waiting = tokio::spawn(async move { recv.read_chunk(9).await });
    let blocked = tokio::spawn(async move { answer.write_all(&[0; MUCH]).await });
    let closed = tokio::spawn({
        let accepted = accepted.clone();
        async move { accepted.closed().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((accepted.close_reason(), made.close_reason()), (None, None));

    server.close(7u32.into(), b"enough");
    assert!(server.accept().await.is_none());
    assert_eq!(closed.await.unwrap(), ConnectionError::LocallyClosed);
    let blocked = blocked.await.unwrap().unwrap_err();
    assert_eq!(blocked, ConnectionError::LocallyClosed.into());
    let ConnectionError::ApplicationClosed(reason) = made.closed().await else {
        panic!("the peer's application closed it");
    };
    assert_eq!(
        (reason.error_code, &reason.reason[..]),
        (7u32.into(), &b"enough"[..])
    );
    let waiting = waiting.await.unwrap().unwrap_err();
    assert_eq!(waiting, ConnectionError::LocallyClosed.into());
    assert!(made.open_bi().await.is_err());
    timeout(Duration::from_secs(10), server.wait_idle())
        .await
        .unwrap();
    timeout(Duration::from_secs(10), client.wait_idle())
        .await
        .unwrap();
}

#[tokio::test]
async fn clients_can_be_refused_or_asked_to_prove_their_address() {
    let (server, address, client) = pair();
    let turned_away = client.connect(address, "here").unwrap();
    server.accept().await.unwrap().refuse();
    let error = turned_away.await.unwrap_err();
    assert!(
        matches!(error, ConnectionError::ConnectionClosed(_)),
        "{error}"
    );

    let asked = client.connect(address, "here").unwrap();
    let first = server.accept().await.unwrap();
    assert!(!first.remote_address_validated());
    first.retry().unwrap();
    let second = server.accept().await.unwrap();
    assert!(second.remote_address_validated());
    let (accepted, made) = tokio::join!(second.into_future(), asked);
    let (accepted, made) = (accepted.unwrap(), made.unwrap());
    assert_eq!(made.remote_address(), address);

    // The last handle closes it, and the connection goes from both endpoints.
    drop(made);
    accepted.closed().await;
    drop(accepted);
    timeout(Duration::from_secs(10), server.wait_idle())
        .await
        .unwrap();
    let name = client
        .connect("[::1]:9".parse().unwrap(), "here")
        .unwrap_err();
    assert_eq!(
        name,
        ConnectError::InvalidRemoteAddress("[::1]:9".parse().unwrap())
    );
}
