//! Prints how fast one TCP connection is through the tunnel on this machine: client, provider and server are all
//! here and share its processors.
//!
//! `cargo run --release -p ipsx-tunnel-os --example throughput [megabytes]`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

use std::{error::Error, net::SocketAddr, time::Duration, time::Instant};

use ipsx_tunnel_core::{ExitPolicy, Gate, PeerConfig, PrivateKey, Tier};
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, ExitLimits, Provider, ProviderConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let megabytes: usize = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(serve(listener, megabytes << 20));
    let (provider, client) = lease(server).await?;
    println!(
        "handshake {:?}, echo {:?}",
        client.round_trip(),
        client.ping(Duration::from_secs(1)).await?
    );

    let mut stream = client.tcp_connect(server).await?;
    stream.write_all(b"d").await?;
    let started = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => received += count,
        }
    }
    report("down", received, started);

    let mut stream = client.tcp_connect(server).await?;
    stream.write_all(b"u").await?;
    let started = Instant::now();
    for _ in 0..(megabytes << 20) / buffer.len() {
        stream.write_all(&buffer).await?;
    }
    stream.shutdown().await?;
    let received = stream.read_u64().await?;
    report("up", usize::try_from(received)?, started);

    println!("client {:?}", client.usage().await?);
    for (reason, count) in provider
        .dropped()
        .await?
        .iter()
        .filter(|&(_, count)| count > 0)
    {
        println!("dropped {reason}: {count}");
    }
    Ok(())
}

/// Sends or swallows `bytes`, as the caller's first byte asks.
async fn serve(listener: TcpListener, bytes: usize) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut buffer = vec![7; 256 << 10];
        if stream.read_u8().await? == b'd' {
            for _ in 0..bytes / buffer.len() {
                stream.write_all(&buffer).await?;
            }
            continue;
        }
        let mut received = 0;
        loop {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => received += count as u64,
            }
        }
        stream.write_u64(received).await?;
    }
}

async fn lease(server: SocketAddr) -> Result<(Provider, ClientTunnel), Box<dyn Error>> {
    let rule = format!("{}:tcp/{}", server.ip(), server.port()).parse()?;
    let (provider, _events) = Provider::start(ProviderConfig {
        private_key: PrivateKey::generate(&mut rand::rngs::OsRng),
        listen: "127.0.0.1:0".parse()?,
        egress_v4: Some("127.0.1.7".parse()?),
        egress_v6: None,
        gateway_v4: "10.77.0.1".parse()?,
        gateway_v6: None,
        control_port: 4411,
        policy: ExitPolicy {
            allow: vec![rule],
            ..ExitPolicy::new(Tier::Web)
        },
        limits: ExitLimits::default(),
    })?;
    let private_key = PrivateKey::generate(&mut rand::rngs::OsRng);
    let peer = provider
        .add_peer(PeerConfig {
            public_key: private_key.public_key(),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec!["10.77.0.2/32".parse()?],
            keepalive: None,
        })
        .await?;
    provider.set_gate(peer, Gate::Open)?;
    let (client, _events) = ClientTunnel::connect(ClientConfig {
        private_key,
        peer_public_key: provider.public_key(),
        preshared_key: None,
        endpoint: provider.local_addr(),
        bind: "127.0.0.1:0".parse()?,
        inner_v4: "10.77.0.2".parse()?,
        inner_v6: None,
        gateway_v4: "10.77.0.1".parse()?,
        control_port: 4411,
        keepalive: None,
        handshake_timeout: Duration::from_secs(5),
        punch: None,
    })
    .await?;
    Ok((provider, client))
}

fn report(direction: &str, bytes: usize, started: Instant) {
    let elapsed = started.elapsed();
    let megabits = bytes as u128 * 8 / elapsed.as_micros().max(1);
    println!("{direction}: {bytes} bytes in {elapsed:.2?}, {megabits} Mbit/s");
}
