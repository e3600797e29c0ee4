//! Two devices over a simulated link.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

mod bare;
mod histories;
mod hostile;
mod lease;
mod limits;
mod marks;
mod path_mtu;
mod shards;
mod timers;

use super::*;
use crate::{
    INNER_MTU, MAX_CONTROL_PAYLOAD,
    gate::Rates,
    keys::{PresharedKey, PrivateKey},
    noise::padded_len,
    packet,
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const CONTROL_PORT: u16 = 4411;

fn key(n: u8) -> PrivateKey {
    let mut rng = StdRng::from_seed([n; 32]);
    PrivateKey::generate(&mut rng)
}

fn outer(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 51820))
}

fn config(n: u8, side: Side) -> DeviceConfig {
    DeviceConfig {
        private_key: key(n),
        side,
        gateway_v4: GATEWAY,
        control_port: CONTROL_PORT,
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What came out of the tunnel at one end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Delivered {
    packets: Vec<Vec<u8>>,
    control: Vec<Vec<u8>>,
    stun: Vec<Vec<u8>>,
    refused: Vec<DropReason>,
}

/// A provider with one peer, that peer's device, and a link between them.
struct Pair {
    provider: Device,
    peer: PeerId,
    client: Device,
    gateway: PeerId,
    /// The client's outer address.
    client_at: SocketAddr,
    now: Instant,
    at_provider: Delivered,
    at_client: Delivered,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut provider = Device::new(config(1, Side::Provider), [1; 32], now);
        let mut client = Device::new(config(2, Side::Client { inner_v4: INNER }), [2; 32], now);
        let peer = provider
            .add_peer(
                PeerConfig {
                    public_key: client.public_key(),
                    preshared_key: None,
                    endpoint: None,
                    allowed_ips: nets(&["10.77.0.2/32", "fd77::2/128"]),
                    keepalive: None,
                },
                now,
            )
            .unwrap();
        let gateway = client
            .add_peer(
                PeerConfig {
                    public_key: provider.public_key(),
                    preshared_key: None,
                    endpoint: Some(outer(1)),
                    allowed_ips: nets(&["0.0.0.0/0", "::/0"]),
                    keepalive: None,
                },
                now,
            )
            .unwrap();
        Self {
            provider,
            peer,
            client,
            gateway,
            client_at: outer(2),
            now,
            at_provider: Delivered::default(),
            at_client: Delivered::default(),
        }
    }

    fn open() -> Self {
        let mut pair = Self::new();
        pair.provider.set_gate(pair.peer, Gate::Open, pair.now);
        pair.client.initiate(pair.gateway, pair.now).unwrap();
        pair.settle();
        pair
    }

    /// Carries datagrams until nobody sends any more.
    fn settle(&mut self) {
        loop {
            let (up, down) = (datagrams(&mut self.client), datagrams(&mut self.provider));
            if up.is_empty() && down.is_empty() {
                return;
            }
            for (_, datagram) in up {
                self.carry_up(&datagram);
            }
            for (_, datagram) in down {
                self.carry_down(&datagram);
            }
        }
    }

    fn carry_up(&mut self, datagram: &[u8]) {
        take(
            &mut self.provider,
            self.client_at,
            datagram,
            self.now,
            &mut self.at_provider,
        );
    }

    fn carry_down(&mut self, datagram: &[u8]) {
        take(
            &mut self.client,
            outer(1),
            datagram,
            self.now,
            &mut self.at_client,
        );
    }

    fn up(&mut self, packet: &[u8]) -> Result<PeerId, DropReason> {
        self.client.handle_packet(packet, self.now)
    }

    fn down(&mut self, packet: &[u8]) -> Result<PeerId, DropReason> {
        self.provider.handle_packet(packet, self.now)
    }

    fn usages(&self) -> (Usage, Usage) {
        (
            self.provider.usage(self.peer).unwrap(),
            self.client.usage(self.gateway).unwrap(),
        )
    }
}

fn take(device: &mut Device, from: SocketAddr, datagram: &[u8], now: Instant, to: &mut Delivered) {
    let mut buffer = [0; 2048];
    match device.handle_datagram(from, datagram, now, &mut buffer) {
        Ok(Some(Inbound::Packet { peer, packet })) => {
            to.packets.push(packet.to_vec());
            let len = packet.len();
            device.count_received(peer, len);
        }
        Ok(Some(Inbound::Control { payload, .. })) => to.control.push(payload.to_vec()),
        Ok(Some(Inbound::Stun { message, .. })) => to.stun.push(message.to_vec()),
        Ok(None) => {}
        Err(reason) => to.refused.push(reason),
    }
}

fn datagrams(device: &mut Device) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(batch) = device.poll_transmit() {
        for datagram in batch.contents().chunks(batch.segment_size) {
            all.push((batch.destination, datagram.to_vec()));
        }
        device.recycle(batch);
    }
    all
}

fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    assert!(packet::udp(
        &mut packet,
        source.into(),
        destination.into(),
        payload
    ));
    packet
}

fn request(payload: &[u8]) -> Vec<u8> {
    udp((INNER, 4000), (Ipv4Addr::new(203, 0, 113, 9), 443), payload)
}

fn response(payload: &[u8]) -> Vec<u8> {
    udp((Ipv4Addr::new(203, 0, 113, 9), 443), (INNER, 4000), payload)
}
