//! The parts of the soak test as processes, so that each can be looked at from outside.
//!
//! ```text
//! soak echo ADDRESS:PORT                         sends back what it is sent
//! soak provider KIND FOLDER                      a provider whose leases are opened and closed by lines over TCP
//! soak clients SLOTS SECONDS                     leases that come and go, so many at once
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a part of a test acts, and fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipsx_tests::soak::{CONTROL, ECHO, EGRESS, ENDPOINT, UPLINK};
use ipsx_tunnel_core::{ExitPolicy, Gate, PeerConfig, PrivateKey, PublicKey, Tier};
use ipsx_tunnel_os::{
    ClientConfig, ClientTunnel, Egress, EgressRange, ExitLimits, KernelExitConfig, Provider,
    ProviderConfig,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CONTROL_PORT: u16 = 4411;
/// What each lease sends and gets back, bytes.
const PAYLOAD: usize = 16 << 10;
/// A handshake or a connection on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn provider_key() -> PrivateKey {
    PrivateKey::from_bytes([7; 32])
}

/// The address of a slot inside the tunnel.
fn inner(slot: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, slot)
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["echo", address] => echo(address).await,
        ["provider", kind, folder] => provide(kind, folder).await,
        ["clients", slots, seconds] => {
            let time = Duration::from_secs(seconds.parse().unwrap());
            come_and_go(slots.parse().unwrap(), time).await;
        }
        _ => panic!("unknown part {words:?}"),
    }
}

async fn echo(address: &str) {
    let listener = TcpListener::bind(address).await.unwrap();
    println!("echoing");
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            // A client that goes away is no failure of the echo.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

async fn provide(kind: &str, folder: &str) {
    let config = ProviderConfig {
        private_key: provider_key(),
        listen: ENDPOINT.parse().unwrap(),
        egress_v4: None,
        egress_v6: None,
        gateway_v4: GATEWAY,
        gateway_v6: None,
        control_port: CONTROL_PORT,
        policy: ExitPolicy {
            allow: vec![
                format!("{}/32:any/*", ECHO.split(':').next().unwrap())
                    .parse()
                    .unwrap(),
            ],
            ..ExitPolicy::new(Tier::Open)
        },
        limits: ExitLimits::default(),
    };
    let from_own_address = kind == "kernel";
    let (provider, mut events) = if from_own_address {
        let kernel = KernelExitConfig {
            folder: folder.into(),
            inner: vec!["10.77.0.1/16".parse().unwrap()],
            egress: vec![EgressRange {
                prefix: EGRESS.parse().unwrap(),
                interface: Some(UPLINK.to_owned()),
            }],
            interfaces: Vec::new(),
        };
        Provider::start_with_kernel_exit(config, &kernel, None).unwrap()
    } else {
        Provider::start(config).unwrap()
    };
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let listener = TcpListener::bind(CONTROL).await.unwrap();
    println!("providing");
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let provider = provider.clone();
        tokio::spawn(async move { serve(stream, provider, from_own_address).await });
    }
}

/// `PUBLICKEY SLOT` opens a lease, which the end of the connection closes.
async fn serve(stream: TcpStream, provider: Provider, from_own_address: bool) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let (key, slot) = line.trim().split_once(' ').unwrap();
    let slot: u8 = slot.parse().unwrap();
    let config = PeerConfig {
        public_key: key.parse::<PublicKey>().unwrap(),
        preshared_key: None,
        endpoint: None,
        allowed_ips: vec![format!("{}/32", inner(slot)).parse().unwrap()],
        keepalive: None,
    };
    let peer = if from_own_address {
        let IpAddr::V4(first) = EGRESS.split('/').next().unwrap().parse().unwrap() else {
            panic!("the range is IPv4");
        };
        let own = Ipv4Addr::from(u32::from(first) + u32::from(slot));
        provider
            .add_peer_from(config, Egress::from(IpAddr::V4(own)))
            .await
    } else {
        provider.add_peer(config).await
    };
    let peer = peer.unwrap();
    provider.set_gate(peer, Gate::Open).unwrap();
    stream.write_all(b"open\n").await.unwrap();
    // The requester's end closes it, whether it says so or dies.
    let _ = stream.read_line(&mut line).await;
    let usage = provider.remove_peer(peer).await.unwrap();
    let usage = usage.expect("the peer was there until now");
    let bytes = usage.bytes_up.min(usage.bytes_down);
    let _ = stream.write_all(format!("{bytes}\n").as_bytes()).await;
}

async fn come_and_go(slots: u8, time: Duration) {
    let end = Instant::now() + time;
    let tasks: Vec<_> = (1..=slots)
        .map(|slot| {
            tokio::spawn(async move {
                // Not all at the same moment, as in life.
                tokio::time::sleep(Duration::from_millis(u64::from(slot) * 20)).await;
                let mut leases = 0u64;
                while Instant::now() < end {
                    lease(slot, leases).await;
                    leases += 1;
                }
                leases
            })
        })
        .collect();
    let mut leases = 0;
    for task in tasks {
        leases += task.await.unwrap();
    }
    println!("leases {leases}");
}

async fn lease(slot: u8, number: u64) {
    let private_key = PrivateKey::generate(&mut rand::rngs::OsRng);
    let mut control = BufReader::new(TcpStream::connect(CONTROL).await.unwrap());
    let order = format!("{} {slot}\n", private_key.public_key());
    control.write_all(order.as_bytes()).await.unwrap();
    let mut line = String::new();
    control.read_line(&mut line).await.unwrap();
    assert_eq!(line, "open\n", "slot {slot}");
    let (client, events) = ClientTunnel::connect(ClientConfig {
        private_key,
        peer_public_key: provider_key().public_key(),
        preshared_key: None,
        endpoint: ENDPOINT.parse().unwrap(),
        bind: "0.0.0.0:0".parse().unwrap(),
        inner_v4: inner(slot),
        inner_v6: None,
        gateway_v4: GATEWAY,
        control_port: CONTROL_PORT,
        keepalive: None,
        handshake_timeout: PATIENCE,
        punch: None,
    })
    .await
    .unwrap();
    let echo: SocketAddr = ECHO.parse().unwrap();
    let mut stream = tokio::time::timeout(PATIENCE, client.tcp_connect(echo))
        .await
        .unwrap()
        .unwrap();
    let sent: Vec<u8> = (0..PAYLOAD).map(|i| (i as u8) ^ slot).collect();
    stream.write_all(&sent).await.unwrap();
    let mut received = vec![0; PAYLOAD];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert!(sent == received, "slot {slot}: the echo is another");
    // From a moment to a few seconds; every third leaves its connection open.
    let hold = (u64::from(slot) * 131 + number * 733) % 3000;
    tokio::time::sleep(Duration::from_millis(hold)).await;
    if !number.is_multiple_of(3) {
        let _ = stream.shutdown().await;
    }
    drop((stream, client, events));
    control.write_all(b"close\n").await.unwrap();
    line.clear();
    control.read_line(&mut line).await.unwrap();
    let bytes: usize = line.trim().parse().unwrap();
    assert!(bytes >= PAYLOAD, "slot {slot} was counted {bytes} bytes");
}
