//! The exit tells of every flow: what opened it, from which outside port, and what it moved.

use std::net::SocketAddr;

use ipsx_tunnel_core::{Gate, PeerConfig, Tier};
use ipsx_tunnel_os::{ClientTunnel, ExitLimits, FlowEvent, FlowProtocol, Provider};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::setup::{
    client_config, closed_port, key, listener, policy, provider_config, tcp, within,
};

async fn recorded(
    allowed: &[SocketAddr],
    room: usize,
) -> (ClientTunnel, mpsc::Receiver<FlowEvent>, Provider) {
    let (sender, flows) = mpsc::channel(room);
    let allow: Vec<String> = allowed.iter().map(|address| tcp(*address)).collect();
    let config = provider_config(policy(Tier::Web, &allow), ExitLimits::default());
    let (provider, _events) = Provider::start_recorded(config, sender).unwrap();
    let private_key = key();
    let peer = provider
        .add_peer(PeerConfig {
            public_key: private_key.public_key(),
            preshared_key: None,
            endpoint: None,
            allowed_ips: vec!["10.77.0.2/32".parse().unwrap()],
            keepalive: None,
        })
        .await
        .unwrap();
    provider.set_gate(peer, Gate::Open).unwrap();
    let config = client_config(&provider, private_key);
    let (client, _events) = ClientTunnel::connect(config).await.unwrap();
    (client, flows, provider)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_told_with_the_port_that_its_destination_sees_and_with_what_it_moved() {
    let (server, address) = listener().await;
    let seen = tokio::spawn(async move {
        let (mut stream, from) = server.accept().await.unwrap();
        let mut request = [0; 5];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"twelve bytes").await.unwrap();
        from.port()
    });
    let (client, mut flows, _provider) = recorded(&[address], 64).await;
    let mut stream = within(5, client.tcp_connect(address)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    within(5, stream.read_to_end(&mut answer)).await.unwrap();
    drop(stream);
    let port = seen.await.unwrap();
    let Some(FlowEvent::Opened {
        peer,
        flow,
        protocol,
        source_port,
        destination,
    }) = within(5, flows.recv()).await
    else {
        panic!("the first event opens")
    };
    assert_eq!(
        (protocol, source_port, destination),
        (FlowProtocol::Tcp, port, address)
    );
    let closed = within(10, flows.recv()).await.unwrap();
    assert_eq!(
        closed,
        FlowEvent::Closed {
            peer,
            flow,
            bytes_up: 5,
            bytes_down: 12
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_cannot_be_told_is_not_carried() {
    let (_server, address) = listener().await;
    let closed = closed_port().await;
    // Room for one event: a flow needs two, for its beginning and its end.
    let (client, mut flows, provider) = recorded(&[address, closed], 1).await;
    assert!(within(5, client.tcp_connect(address)).await.is_err());
    drop((client, provider));
    assert_eq!(within(10, flows.recv()).await, None);
}
