//! A provider and a peer with an established session.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic;
use std::sync::Once;
use std::time::{Duration, Instant};

use ipsx_tunnel_core::{
    Device, DeviceConfig, Gate, Inbound, PeerConfig, PeerId, PrivateKey, Side, packet,
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INNER_V6: &str = "fd77::2";

/// Where the peer sends from, unless something else is tried.
const PEER: u8 = 2;

/// Inputs that one pair is used for at most.
const USES: usize = 200;

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
pub(crate) type Datagrams = Vec<Vec<u8>>;

impl Pair {
    /// A pair with an established session and an open gate; `client` is how the peer's end is set up.
    fn new(client: Option<Side>) -> Self {
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
    pub(crate) fn settle(&mut self) {
        for _ in 0..8 {
            let (up, down) = (datagrams(&mut self.peer), datagrams(&mut self.provider));
            for datagram in &up {
                self.up(PEER, datagram);
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

    pub(crate) fn down(&mut self, datagram: &[u8]) {
        let mut buffer = vec![0; datagram.len().max(148)];
        let _ = self
            .peer
            .handle_datagram(outer(1), datagram, self.now, &mut buffer);
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.provider.handle_timeout(self.now);
        self.peer.handle_timeout(self.now);
    }

    /// Whether a packet of the peer's still arrives, without another handshake.
    fn is_whole(&mut self) -> bool {
        self.settle();
        let mut probe = Vec::new();
        let [source, destination] =
            [INNER, GATEWAY].map(|address| SocketAddr::from((address, 1000)));
        assert!(packet::udp(&mut probe, source, destination, b"probe"));
        if self.peer.handle_packet(&probe, self.now).is_err() {
            return false;
        }
        let sent = datagrams(&mut self.peer);
        sent.len() == 1 && self.up(PEER, &sent[0]) == Some(probe)
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

/// A pair that was used before, and by which inputs.
#[derive(Default)]
struct Used {
    pair: Option<Pair>,
    inputs: Vec<Vec<u8>>,
}

thread_local! {
    static USED: [RefCell<Used>; 2] = Default::default();
}

/// Checks an input with a pair. The handshake of a new one costs a hundred times as much as most inputs, so a pair
/// serves many of them, as long as packets still arrive. Should a promise be broken, what the pair was used for before
/// is printed.
pub(crate) fn with_pair(client: Option<Side>, input: &[u8], check: impl FnOnce(&mut Pair)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(tell_history);
    USED.with(|used| {
        let used = &used[usize::from(client.is_some())];
        let kept = used.borrow_mut().pair.take();
        let mut pair = kept.unwrap_or_else(|| {
            used.borrow_mut().inputs.clear();
            Pair::new(client)
        });
        check(&mut pair);
        let whole = pair.is_whole();
        let mut used = used.borrow_mut();
        used.inputs.push(input.to_vec());
        if whole && used.inputs.len() < USES {
            used.pair = Some(pair);
        }
    });
}

/// Has a panic tell the inputs that came before the one that it is about.
#[allow(
    clippy::print_stderr,
    reason = "whoever fuzzes reads what broke a promise there"
)]
fn tell_history() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        USED.with(|used| {
            for inputs in used.iter().filter_map(|used| used.try_borrow().ok()) {
                for input in &inputs.inputs {
                    eprintln!("before, with the same pair: {input:02x?}");
                }
            }
        });
        next(about);
    }));
}
