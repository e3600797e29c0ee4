//! A provider and a client on the loopback, and servers to reach.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipsx_tunnel_core::{ExitPolicy, Gate, PeerConfig, PeerId, PrivateKey, Rule, Tier, Usage};
use ipsx_tunnel_os::{
    ClientConfig, ClientEvent, ClientTunnel, ExitLimits, Provider, ProviderConfig, ProviderEvent,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};

pub(crate) const EGRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 7);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const CONTROL_PORT: u16 = 4411;

pub(crate) struct Lease {
    pub(crate) provider: Provider,
    pub(crate) peer: PeerId,
    pub(crate) client: ClientTunnel,
    pub(crate) provider_events: Receiver<ProviderEvent>,
    pub(crate) client_events: Receiver<ClientEvent>,
}

pub(crate) fn key() -> PrivateKey {
    PrivateKey::generate(&mut rand::rngs::OsRng)
}

pub(crate) fn policy(tier: Tier, allow: &[String]) -> ExitPolicy {
    let allow: Vec<Rule> = allow.iter().map(|rule| rule.parse().unwrap()).collect();
    ExitPolicy {
        tier,
        allow,
        ..ExitPolicy::default()
    }
}

/// Opens one TCP port of the loopback.
pub(crate) fn tcp(address: SocketAddr) -> String {
    format!("{}:tcp/{}", address.ip(), address.port())
}

pub(crate) fn provider(
    policy: ExitPolicy,
    limits: ExitLimits,
) -> (Provider, Receiver<ProviderEvent>) {
    Provider::start(provider_config(policy, limits)).unwrap()
}

pub(crate) fn provider_config(policy: ExitPolicy, limits: ExitLimits) -> ProviderConfig {
    ProviderConfig {
        private_key: key(),
        listen: "127.0.0.1:0".parse().unwrap(),
        egress_v4: Some(EGRESS),
        egress_v6: None,
        gateway_v4: GATEWAY,
        gateway_v6: Some("fd77::1".parse().unwrap()),
        control_port: CONTROL_PORT,
        policy,
        limits,
    }
}

pub(crate) fn client_config(provider: &Provider, private_key: PrivateKey) -> ClientConfig {
    ClientConfig {
        private_key,
        peer_public_key: provider.public_key(),
        preshared_key: None,
        endpoint: provider.local_addr(),
        bind: "127.0.0.1:0".parse().unwrap(),
        inner_v4: INNER,
        inner_v6: Some("fd77::2".parse().unwrap()),
        gateway_v4: GATEWAY,
        control_port: CONTROL_PORT,
        keepalive: Some(25),
        handshake_timeout: Duration::from_secs(5),
        punch: None,
    }
}

pub(crate) async fn lease_with(policy: ExitPolicy, limits: ExitLimits) -> Lease {
    lease_over(policy, limits, async |endpoint| endpoint).await
}

/// A lease whose datagrams take the way that `path` gives for the provider's endpoint.
pub(crate) async fn lease_over(
    policy: ExitPolicy,
    limits: ExitLimits,
    path: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
) -> Lease {
    let (provider, provider_events) = provider(policy, limits);
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
    let endpoint = path(provider.local_addr()).await;
    let config = ClientConfig {
        endpoint,
        ..client_config(&provider, private_key)
    };
    let (client, client_events) = ClientTunnel::connect(config).await.unwrap();
    Lease {
        provider,
        peer,
        client,
        provider_events,
        client_events,
    }
}

/// A UDP relay to `provider` that loses every `loss`th datagram and holds others back for a while; gives its own address.
pub(crate) async fn bad_path(provider: SocketAddr, loss: u64) -> SocketAddr {
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 2048], [0; 2048]);
        let (mut client, mut count, mut kept) = (None, 0u64, None);
        loop {
            count += 1;
            let lost = count > 20 && count.is_multiple_of(loss);
            let late = kept.is_some();
            tokio::select! {
                () = sleep(Duration::from_millis(2)), if late => {
                    if let (Some(datagram), Some(to)) = (kept.take(), client) {
                        let datagram: Vec<u8> = datagram;
                        front.send_to(&datagram, to).await.unwrap();
                    }
                }
                received = front.recv_from(&mut up) => {
                    let (len, from) = received.unwrap();
                    client = Some(from);
                    if !lost {
                        back.send_to(&up[..len], provider).await.unwrap();
                    }
                }
                received = back.recv_from(&mut down) => {
                    let (len, _) = received.unwrap();
                    let Some(to) = client else { continue };
                    if lost {
                        continue;
                    }
                    if count.is_multiple_of(31) && kept.is_none() {
                        kept = Some(down[..len].to_vec());
                        continue;
                    }
                    front.send_to(&down[..len], to).await.unwrap();
                }
            }
        }
    });
    address
}

pub(crate) async fn lease(tier: Tier, allow: &[String]) -> Lease {
    lease_with(policy(tier, allow), ExitLimits::default()).await
}

impl Lease {
    /// What both ends count, once they agree; fails if they do not within a few seconds.
    pub(crate) async fn agreed_usage(&self) -> Usage {
        let mut last = None;
        for _ in 0..100 {
            let ours = self.client.usage().await.unwrap();
            let theirs = self.provider.usage(self.peer).await.unwrap().unwrap();
            if ours == theirs && last == Some(ours) {
                return ours;
            }
            last = Some(ours);
            sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "client counts {:?}, provider counts {:?}; dropped there {:?}, here {:?}",
            self.client.usage().await.unwrap(),
            self.provider.usage(self.peer).await.unwrap(),
            drops(&self.provider).await,
            self.client
                .dropped()
                .await
                .unwrap()
                .iter()
                .filter(|&(_, n)| n > 0)
                .collect::<Vec<_>>(),
        );
    }
}

pub(crate) async fn drops(provider: &Provider) -> Vec<(&'static str, u64)> {
    let counts = provider.dropped().await.unwrap();
    counts
        .iter()
        .filter(|&(_, count)| count > 0)
        .map(|(reason, count)| (reason.as_str(), count))
        .collect()
}

/// A listener on the loopback.
pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port of the loopback where nothing listens.
pub(crate) async fn closed_port() -> SocketAddr {
    listener().await.1
}

/// A server that tells each caller its address and closes.
pub(crate) async fn mirror() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            stream
                .write_all(from.ip().to_string().as_bytes())
                .await
                .unwrap();
        }
    });
    address
}

/// An HTTP/1.0 server that answers each request with the caller's address, the request line and the body's length.
pub(crate) async fn web() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            tokio::spawn(serve_web(stream, from.ip()));
        }
    });
    address
}

async fn serve_web(mut stream: TcpStream, from: IpAddr) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let head = loop {
        let count = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..count]);
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if count == 0 {
            return;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_string();
    let length: usize = text
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(|v| v.trim().parse().unwrap())
        })
        .unwrap_or(0);
    while request.len() < head + length {
        let count = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..count]);
    }
    let answer = format!("{from}\n{text}body {length}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

/// Bytes that depend on their position, and differ from seed to seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Fails loudly instead of hanging.
pub(crate) async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), future)
        .await
        .expect("in time")
}
