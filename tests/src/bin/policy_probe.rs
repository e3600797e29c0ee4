//! Asks an exit for everything that it must refuse.
//!
//! - `policy_probe through kernel|userspace FOLDER`: starts a provider's endpoint and a peer of it in this process, sends
//!   the peer's packets for every refused address by TCP, UDP and ICMP, then one to an address that is open, and prints
//!   how many packets were dropped, by reason. With `kernel` it then waits for its end, with everything set up.
//! - `policy_probe raw`: sends the same packets out of the interface that the host's routes name.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a part of a test: it acts, and fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use ipsx_tests::refused::{OPEN_V4, OPEN_V6, PACKETS_PER_ADDRESS, packets, refused};
use ipsx_tunnel_core::{
    Device, DeviceConfig, ExitPolicy, Gate, PeerConfig, PeerId, PrivateKey, Side, Tier,
};
use ipsx_tunnel_os::{ExitLimits, KernelExitConfig, Provider, ProviderConfig};
use rand::rngs::OsRng;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INNER_V6: &str = "fd77::2";
const CONTROL_PORT: u16 = 4_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["through", exit, folder] => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(through(exit == "kernel", Path::new(folder)));
        }
        ["raw"] => raw(),
        _ => panic!("policy_probe through kernel|userspace FOLDER, or policy_probe raw"),
    }
}

async fn through(kernel: bool, folder: &Path) {
    let config = ProviderConfig {
        private_key: PrivateKey::generate(&mut OsRng),
        listen: "127.0.0.1:0".parse().unwrap(),
        egress_v4: None,
        egress_v6: None,
        gateway_v4: GATEWAY,
        gateway_v6: Some("fd77::1".parse().unwrap()),
        control_port: CONTROL_PORT,
        policy: ExitPolicy::new(Tier::Open),
        limits: ExitLimits::default(),
    };
    let (provider, _events) = if kernel {
        let kernel = KernelExitConfig {
            folder: folder.to_owned(),
            inner: vec![
                "10.77.0.1/16".parse().unwrap(),
                "fd77::1/64".parse().unwrap(),
            ],
            egress: Vec::new(),
            interfaces: Vec::new(),
        };
        Provider::start_with_kernel_exit(config, &kernel, None).unwrap()
    } else {
        Provider::start(config).unwrap()
    };
    let mut peer = Peer::connect(&provider).await;
    let mut sent = 0;
    for address in refused() {
        for packet in packets(inner(address), address) {
            peer.send(&packet);
            sent += 1;
        }
        // Nothing here is about speed: no queue may overflow.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut dropped = provider.dropped().await.unwrap();
    while dropped.total() < sent && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        dropped = provider.dropped().await.unwrap();
    }
    for open in [OPEN_V4, OPEN_V6] {
        let open: IpAddr = open.parse().unwrap();
        for packet in packets(inner(open), open) {
            peer.send(&packet);
        }
    }
    let dropped: BTreeMap<_, _> = dropped
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.as_str(), count))
        .collect();
    let report = serde_json::json!({ "sent": sent, "dropped": dropped });
    println!("{report}");
    // The last packets have to get out; then whoever started this says when it ends.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

fn inner(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        INNER.into()
    } else {
        INNER_V6.parse().unwrap()
    }
}

/// The other end of the tunnel, which writes its own packets.
struct Peer {
    device: Device,
    socket: UdpSocket,
}

impl Peer {
    async fn connect(provider: &Provider) -> Self {
        let private_key = PrivateKey::generate(&mut OsRng);
        let id = provider
            .add_peer(peer(
                private_key.public_key(),
                None,
                &["10.77.0.2/32", "fd77::2/128"],
            ))
            .await
            .unwrap();
        provider.set_gate(id, Gate::Open).unwrap();
        let config = DeviceConfig {
            private_key,
            side: Side::Client { inner_v4: INNER },
            gateway_v4: GATEWAY,
            control_port: CONTROL_PORT,
        };
        let now = Instant::now();
        let mut device = Device::new(config, [3; 32], now);
        let endpoint = Some(provider.local_addr());
        let everything = peer(provider.public_key(), endpoint, &["0.0.0.0/0", "::/0"]);
        let gateway: PeerId = device.add_peer(everything, now).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut peer = Self { device, socket };
        peer.device.initiate(gateway, now).unwrap();
        peer.flush();
        while !peer.device.status(gateway).unwrap().established {
            let (mut datagram, mut buffer) = ([0; 2048], [0; 2048]);
            let (len, from) = peer.socket.recv_from(&mut datagram).unwrap();
            let datagram = &datagram[..len];
            let _ = peer
                .device
                .handle_datagram(from, datagram, Instant::now(), &mut buffer)
                .unwrap();
            peer.flush();
        }
        peer
    }

    fn send(&mut self, packet: &[u8]) {
        self.device.handle_packet(packet, Instant::now()).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(batch) = self.device.poll_transmit() {
            for datagram in batch.contents().chunks(batch.segment_size) {
                self.socket.send_to(datagram, batch.destination).unwrap();
            }
            self.device.recycle(batch);
        }
    }
}

fn peer(
    public_key: ipsx_tunnel_core::PublicKey,
    endpoint: Option<SocketAddr>,
    allowed: &[&str],
) -> PeerConfig {
    PeerConfig {
        public_key,
        preshared_key: None,
        endpoint,
        allowed_ips: allowed.iter().map(|text| text.parse().unwrap()).collect(),
        keepalive: None,
    }
}

/// Sends the packets as they are, as far as this host's own routes let them out.
fn raw() {
    use socket2::{Domain, Protocol, Socket, Type};
    /// `IPPROTO_RAW`: the packet brings its own header.
    const RAW: i32 = 255;
    let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).unwrap();
    let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(RAW))).unwrap();
    v4.set_broadcast(true).unwrap();
    let mut sent = BTreeMap::from([(true, 0), (false, 0)]);
    let open = [OPEN_V4, OPEN_V6].map(|text| text.parse::<IpAddr>().unwrap());
    for address in refused().into_iter().chain(open) {
        let socket = if address.is_ipv4() { &v4 } else { &v6 };
        for packet in packets(inner(address), address) {
            // This host's own kernel refuses some, such as 0.0.0.0/8, before any router could.
            let out = socket.send_to(&packet, &SocketAddr::new(address, 0).into());
            *sent.entry(out.is_ok()).or_insert(0) += 1;
        }
    }
    println!("sent {} of {}", sent[&true], sent[&true] + sent[&false]);
    assert!(sent[&true] >= PACKETS_PER_ADDRESS * 40, "{sent:?}");
}
