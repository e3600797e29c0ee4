//! Leases that leave from addresses of their own.

use std::net::Ipv4Addr;

use ipsx_tunnel_core::{Gate, PeerConfig, Tier};
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, Egress, ExitLimits};
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::setup::{client_config, key, policy, provider, tcp, within};

#[tokio::test(flavor = "multi_thread")]
async fn each_peer_leaves_from_the_address_that_it_was_given() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, from)) = server.accept().await {
            let seen = from.ip().to_string();
            stream.writable().await.unwrap();
            stream.try_write(seen.as_bytes()).unwrap();
        }
    });
    let (provider, _events) = provider(policy(Tier::Web, &[tcp(address)]), ExitLimits::default());
    for number in 2..5 {
        let (private_key, inner) = (key(), Ipv4Addr::new(10, 77, 0, number));
        let config = PeerConfig {
            public_key: private_key.public_key(),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec![std::net::IpAddr::V4(inner).into()],
            keepalive: None,
        };
        let egress = Ipv4Addr::new(127, 0, 9, number);
        let from = Egress::from(std::net::IpAddr::V4(egress));
        let peer = provider.add_peer_from(config, from).await.unwrap();
        provider.set_gate(peer, Gate::Open).unwrap();
        let config = ClientConfig {
            inner_v4: inner,
            inner_v6: None,
            ..client_config(&provider, private_key)
        };
        let (client, _events) = ClientTunnel::connect(config).await.unwrap();
        let mut stream = within(5, client.tcp_connect(address)).await.unwrap();
        let mut seen = String::new();
        within(5, stream.read_to_string(&mut seen)).await.unwrap();
        assert_eq!(seen, egress.to_string());
    }
}
