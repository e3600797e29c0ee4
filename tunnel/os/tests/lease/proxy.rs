//! The local proxy, spoken to byte by byte as programs do.

use std::net::SocketAddr;

use ipsx_tunnel_core::Tier;
use ipsx_tunnel_os::{Proxy, ProxyConfig, ProxyError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::setup::{EGRESS, Lease, closed_port, lease, tcp, web, within};

async fn start(lease: &Lease) -> Proxy {
    Proxy::start(
        ProxyConfig::new("127.0.0.1:0".parse().unwrap()),
        lease.client.clone(),
    )
    .await
    .unwrap()
}

/// Sends a greeting and a request; returns the reply's code and the stream.
async fn socks(proxy: &Proxy, request: &[u8]) -> (u8, TcpStream) {
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    stream.write_all(&[5, 2, 2, 0]).await.unwrap();
    let mut greeting = [0; 2];
    within(5, stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(greeting, [5, 0]);
    stream.write_all(request).await.unwrap();
    let mut reply = [0; 10];
    within(10, stream.read_exact(&mut reply)).await.unwrap();
    assert_eq!((reply[0], reply[3]), (5, 1));
    (reply[1], stream)
}

fn by_address(address: SocketAddr) -> Vec<u8> {
    let mut request = vec![5, 1, 0];
    match address {
        SocketAddr::V4(v4) => {
            request.push(1);
            request.extend(v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            request.push(4);
            request.extend(v6.ip().octets());
        }
    }
    request.extend(address.port().to_be_bytes());
    request
}

fn by_name(name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0, 3, name.len() as u8];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    request
}

async fn get(mut stream: TcpStream, line: &str) -> String {
    stream
        .write_all(format!("{line}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    within(5, stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_connects_by_address_and_by_name() {
    let server = web().await;
    let lease = lease(Tier::Web, &[tcp(server)]).await;
    let proxy = start(&lease).await;
    for request in [
        by_address(server),
        by_name("localhost", server.port()),
        by_name("127.0.0.1", server.port()),
    ] {
        let (code, stream) = socks(&proxy, &request).await;
        assert_eq!(code, 0);
        let answer = get(stream, "GET /path HTTP/1.0").await;
        assert!(
            answer.contains(&EGRESS.to_string()) && answer.contains("GET /path"),
            "{answer}"
        );
    }
    within(10, lease.agreed_usage()).await;
}

/// Opens an association; returns the connection that keeps it and where to send datagrams.
async fn associate(proxy: &Proxy) -> (TcpStream, SocketAddr) {
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut greeting = [0; 2];
    within(5, stream.read_exact(&mut greeting)).await.unwrap();
    stream
        .write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut reply = [0; 10];
    within(5, stream.read_exact(&mut reply)).await.unwrap();
    assert_eq!(reply[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
    let port = u16::from_be_bytes([reply[8], reply[9]]);
    (stream, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A server that answers each datagram with the sender's address and what it sent.
async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = format!("{} ", from.ip()).into_bytes();
            answer.extend(&buffer[..len]);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

fn datagram(to: &[u8], payload: &[u8]) -> Vec<u8> {
    // Without version and command, a request begins as a datagram does.
    [&[0, 0, 0], &to[3..], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_carries_datagrams_there_and_back() {
    let (first, second) = (udp_echo().await, udp_echo().await);
    let allowed = [first, second].map(|to| format!("127.0.0.1/32:udp/{}", to.port()));
    let lease = lease(Tier::WebUdp, &allowed).await;
    let proxy = start(&lease).await;
    let (control, relay) = associate(&proxy).await;
    let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 2048];
    for (request, from, text) in [
        (by_address(first), first, "one"),
        (by_address(second), second, "two"),
        (by_name("localhost", first.port()), first, "three"),
    ] {
        // A fragment is refused, and so is a stranger: neither is answered.
        let mut fragment = datagram(&request, b"fragment");
        fragment[2] = 1;
        program.send_to(&fragment, relay).await.unwrap();
        program
            .send_to(&datagram(&request, text.as_bytes()), relay)
            .await
            .unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (len, sender) = within(10, program.recv_from(&mut buffer)).await.unwrap();
        stranger
            .send_to(&datagram(&request, b"stranger"), relay)
            .await
            .unwrap();
        assert_eq!(sender, relay);
        let answer = format!("{EGRESS} {text}");
        let expected = datagram(&by_address(from), answer.as_bytes());
        assert_eq!(buffer[..len], expected);
    }
    within(10, lease.agreed_usage()).await;
    // The association ends with the connection that asked for it.
    drop(control);
    let free = async {
        while UdpSocket::bind(relay).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(10, free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_to_refused_places_and_too_long_ones_are_lost_and_counted() {
    let server = udp_echo().await;
    let allowed = [format!("127.0.0.1/32:udp/{}", server.port())];
    let lease = lease(Tier::Web, &allowed).await;
    let mut socket = lease.client.udp_bind().unwrap();
    socket
        .send_to(b"x".to_vec(), "10.0.0.1:4000".parse().unwrap())
        .unwrap();
    socket.send_to(vec![1; 2000], server).unwrap();
    socket.send_to(b"ends".to_vec(), server).unwrap();
    let (from, answer) = within(10, socket.recv_from()).await.unwrap();
    assert_eq!(from, server);
    assert_eq!(answer, format!("{EGRESS} ends").into_bytes());
    let refused = lease.provider.dropped().await.unwrap();
    assert_eq!(refused.get(ipsx_tunnel_core::DropReason::Private), 1);
    let lost = lease.client.dropped().await.unwrap();
    assert_eq!(lost.get(ipsx_tunnel_core::DropReason::Oversize), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_says_why_it_fails() {
    let closed = closed_port().await;
    let lease = lease(Tier::Web, &[tcp(closed)]).await;
    let proxy = start(&lease).await;
    assert_eq!(socks(&proxy, &by_address(closed)).await.0, 5, "refused");
    assert_eq!(
        socks(&proxy, &by_address("10.0.0.1:80".parse().unwrap()))
            .await
            .0,
        2,
        "not allowed"
    );
    assert_eq!(
        socks(&proxy, &by_address("[fd00::1]:80".parse().unwrap()))
            .await
            .0,
        2,
        "not allowed, IPv6"
    );
    assert_eq!(
        socks(&proxy, &[5, 2, 0, 1, 127, 0, 0, 1, 0, 80]).await.0,
        7,
        "BIND"
    );
    assert_eq!(socks(&proxy, &[5, 1, 0, 9]).await.0, 8, "address type");
    assert_eq!(socks(&proxy, &by_name("a..b", 80)).await.0, 4, "bad name");
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_without_a_method_we_know_is_turned_away() {
    let lease = lease(Tier::Web, &[]).await;
    let proxy = start(&lease).await;
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    stream.write_all(&[5, 1, 2]).await.unwrap();
    let mut answer = Vec::new();
    within(5, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, [5, 0xff]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_are_forwarded_in_origin_form() {
    let server = web().await;
    let lease = lease(Tier::Web, &[tcp(server)]).await;
    let proxy = start(&lease).await;
    let stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    let head = format!(
        "GET http://localhost:{0}/a?b=c HTTP/1.1\r\nHost: wrong\r\nProxy-Connection: keep-alive\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2",
        server.port()
    );
    let answer = get(stream, &head).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&EGRESS.to_string()), "{answer}");
    assert!(answer.contains("GET /a?b=c HTTP/1.1"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(
        lower.contains(&format!("host: localhost:{}", server.port())),
        "{answer}"
    );
    assert!(
        !lower.contains("proxy-connection")
            && !lower.contains("x-hop")
            && lower.contains("x-end: 2"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn http_bodies_pass_and_the_connection_is_kept() {
    let server = web().await;
    let lease = lease(Tier::Web, &[tcp(server)]).await;
    let proxy = start(&lease).await;
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    for length in [10usize, 100_000] {
        let head = format!(
            "POST http://{server}/up HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; length]).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with(&format!("body {length}\n")) {
            let mut buffer = [0; 4096];
            let count = within(5, stream.read(&mut buffer)).await.unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connect_opens_a_tunnel() {
    let server = web().await;
    let lease = lease(Tier::Web, &[tcp(server)]).await;
    let proxy = start(&lease).await;
    let mut stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
    stream
        .write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(5, stream.read_u8()).await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let answer = get(stream, "GET /inside HTTP/1.0").await;
    assert!(answer.contains("GET /inside"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_why_it_fails() {
    let closed = closed_port().await;
    let lease = lease(Tier::Web, &[tcp(closed)]).await;
    let proxy = start(&lease).await;
    for (line, status) in [
        (
            format!("GET http://{closed}/ HTTP/1.1\r\nHost: x\r\nConnection: close"),
            "502",
        ),
        (
            "GET http://10.0.0.1/ HTTP/1.1\r\nHost: x\r\nConnection: close".to_owned(),
            "403",
        ),
        (
            "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\nConnection: close".to_owned(),
            "403",
        ),
        (
            "GET /relative HTTP/1.1\r\nHost: x\r\nConnection: close".to_owned(),
            "400",
        ),
        (
            "GET https://localhost/ HTTP/1.1\r\nHost: x\r\nConnection: close".to_owned(),
            "400",
        ),
    ] {
        let stream = TcpStream::connect(proxy.local_addr()).await.unwrap();
        let answer = get(stream, &line).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{line}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_stays_on_this_machine_and_frees_its_port() {
    let lease = lease(Tier::Web, &[]).await;
    let open = ProxyConfig::new("0.0.0.0:0".parse().unwrap());
    assert!(matches!(
        Proxy::start(open, lease.client.clone()).await,
        Err(ProxyError::NotLoopback(_))
    ));
    let remote = ProxyConfig {
        allow_remote: true,
        ..open
    };
    Proxy::start(remote, lease.client.clone())
        .await
        .unwrap()
        .shutdown()
        .await;
    let proxy = start(&lease).await;
    let address = proxy.local_addr();
    let busy = Proxy::start(ProxyConfig::new(address), lease.client.clone()).await;
    assert!(matches!(busy, Err(ProxyError::Listen { .. })));
    proxy.shutdown().await;
    Proxy::start(ProxyConfig::new(address), lease.client.clone())
        .await
        .unwrap();
}
