//! Datagrams from the network, at both ends of an established session.
//!
//! The peer is a plain WireGuard interface, which sends whatever it is given: what it seals reaches the provider's
//! checks of the inner packet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipsx_tunnel_core::{
    Device, DeviceConfig, Gate, Inbound, PeerConfig, PeerId, PrivateKey, Side, packet,
};

use crate::bytes::Bytes;

/// Steps of one input.
const STEPS: usize = 64;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INNER_V6: &str = "fd77::2";

fn outer(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 51820))
}

/// A provider, a peer of it, and the time they both live in.
pub(crate) struct Pair {
    pub(crate) provider: Device,
    pub(crate) peer: Device,
    peer_id: PeerId,
    pub(crate) now: Instant,
}

/// What one end sent.
type Datagrams = Vec<Vec<u8>>;

impl Pair {
    /// A pair with an established session and an open gate; `client` is how the peer's end is set up.
    pub(crate) fn new(client: Option<Side>) -> Self {
        let now = Instant::now();
        let [key, peer_key] = [7, 9].map(|n| PrivateKey::from_bytes([n; 32]));
        let config = |private_key, side| DeviceConfig {
            private_key,
            side,
            gateway_v4: GATEWAY,
            control_port: 4411,
        };
        let peer_config = match client {
            Some(side) => config(peer_key, side),
            None => DeviceConfig::bare(peer_key),
        };
        let mut provider = Device::new(config(key, Side::Provider), [1; 32], now);
        let mut peer = Device::new(peer_config, [2; 32], now);
        let other = |device: &Device, endpoint, nets: &[&str]| PeerConfig {
            public_key: device.public_key(),
            preshared_key: None,
            endpoint,
            allowed_ips: nets.iter().map(|net| net.parse().unwrap()).collect(),
            keepalive: None,
        };
        let at_provider = other(&peer, None, &["10.77.0.2/32", "fd77::2/128"]);
        let at_peer = other(&provider, Some(outer(1)), &["0.0.0.0/0", "::/0"]);
        let peer_id = provider.add_peer(at_provider, now).unwrap();
        let gateway = peer.add_peer(at_peer, now).unwrap();
        provider.set_gate(peer_id, Gate::Open, now);
        peer.initiate(gateway, now).unwrap();
        let mut pair = Self {
            provider,
            peer,
            peer_id,
            now,
        };
        pair.settle();
        pair
    }

    /// Carries datagrams until nobody sends any more, a bounded number of times.
    fn settle(&mut self) {
        for _ in 0..8 {
            let (up, down) = (datagrams(&mut self.peer), datagrams(&mut self.provider));
            for datagram in &up {
                self.up(2, datagram);
            }
            for datagram in &down {
                self.down(datagram);
            }
            if up.is_empty() && down.is_empty() {
                return;
            }
        }
    }

    /// Hands a datagram to the provider; gives the inner packet that comes out.
    pub(crate) fn up(&mut self, from: u8, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; datagram.len().max(148)];
        let taken = self
            .provider
            .handle_datagram(outer(from), datagram, self.now, &mut buffer);
        let Ok(Some(Inbound::Packet { peer, packet })) = taken else {
            return None;
        };
        assert_eq!(peer, self.peer_id);
        let (source, _) = packet::addresses(packet).expect("what is delivered is an IP packet");
        let allowed = [IpAddr::V4(INNER), INNER_V6.parse().unwrap()];
        assert!(
            allowed.contains(&source),
            "a packet from {source} was delivered"
        );
        let packet = packet.to_vec();
        self.provider.count_received(peer, packet.len());
        Some(packet)
    }

    fn down(&mut self, datagram: &[u8]) {
        let mut buffer = vec![0; datagram.len().max(148)];
        let _ = self
            .peer
            .handle_datagram(outer(1), datagram, self.now, &mut buffer);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.provider.handle_timeout(self.now);
        self.peer.handle_timeout(self.now);
    }
}

/// Everything that a device has to send.
pub(crate) fn datagrams(device: &mut Device) -> Datagrams {
    let mut all = Vec::new();
    while let Some(batch) = device.poll_transmit() {
        assert!(batch.segments() >= 1);
        let chunks = batch.contents().chunks(batch.segment_size);
        assert_eq!(chunks.len(), batch.segments());
        all.extend(chunks.map(<[u8]>::to_vec));
        device.recycle(batch);
    }
    all
}

pub(crate) fn check(input: &[u8]) {
    let mut bytes = Bytes(input);
    let mut pair = Pair::new(None);
    let mut last = Datagrams::new();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        match bytes.u8() % 7 {
            // Anything from anywhere.
            0 => {
                let from = bytes.u8();
                let delivered = pair.up(from, bytes.block());
                assert_eq!(delivered, None, "nobody can seal without the keys");
            }
            1 => pair.down(bytes.block()),
            // A packet of the peer's own making.
            2 => {
                let _ = pair.peer.handle_packet(bytes.block(), pair.now);
                last = datagrams(&mut pair.peer);
                for datagram in last.clone() {
                    pair.up(2, &datagram);
                }
            }
            // The same again.
            3 => {
                for datagram in last.clone() {
                    let delivered = pair.up(bytes.u8(), &datagram);
                    assert_eq!(delivered, None, "a datagram was delivered twice");
                }
            }
            // Changed on the way.
            4 => {
                let _ = pair.peer.handle_packet(bytes.block(), pair.now);
                let (at, change) = (bytes.u16(), bytes.u8().max(1));
                last.clear();
                for mut datagram in datagrams(&mut pair.peer) {
                    let at = usize::from(at) % datagram.len();
                    datagram[at] ^= change;
                    let delivered = pair.up(2, &datagram);
                    // Three reserved bytes are not sealed; WireGuard's are zero, and others are refused.
                    assert_eq!(delivered, None, "a changed datagram was delivered");
                }
            }
            5 => {
                let _ = pair.provider.handle_packet(bytes.block(), pair.now);
                for datagram in datagrams(&mut pair.provider) {
                    pair.down(&datagram);
                }
            }
            _ => {
                pair.wait(Duration::from_millis(u64::from(bytes.u16())));
                pair.settle();
                last.clear();
            }
        }
    }
    pair.settle();
}
