//! Prints what a device with 10,000 peers costs: memory, lookups, timers, packets, and a flood of handshakes.
//!
//! `cargo run --release -p ipsx-tunnel-core --example peers10k [PEERS]`. Times are processor time of this thread, medians of
//! seven, and hardly depend on what else runs. Linux only.
#![allow(
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

use std::{
    error::Error,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{Device, DeviceConfig, IpNet, PeerConfig, PrivateKey, packet};
use rand::{Rng, SeedableRng, rngs::StdRng};

const ROUNDS: usize = 7;

/// Clients that send.
const CLIENTS: u32 = 64;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(10_000), |n| n.parse())?;
    let mut rng = StdRng::from_seed([7; 32]);
    let keys: Vec<PrivateKey> = (0..count).map(|_| PrivateKey::generate(&mut rng)).collect();
    let mut now = Instant::now();
    let key = PrivateKey::generate(&mut rng);
    let mut device = Device::new(DeviceConfig::bare(key.clone()), [1; 32], now);
    let before = resident()?;
    for (n, key) in (0..count).zip(&keys) {
        device.add_peer(peer(key, inner(n), None), now)?;
    }
    let added = each(resident()? - before, count);
    println!("{count} peers that are away: {added}");
    println!("  next timer: {:?}", device.poll_timeout());

    lookups(&device, count, &mut rng)?;
    // A few clients are kept, to send something later.
    let (mut clients, mut before) = (Vec::new(), 0);
    for (n, client_key) in (0..count).zip(&keys) {
        // As fast as handshakes are answered without a proof of the address.
        now += Duration::from_millis(6);
        let client = connect(&mut device, &key, client_key, n, now)?;
        if n < CLIENTS {
            clients.push(client);
            before = resident()?;
        }
    }
    let established = device
        .peers()
        .filter(|(_, peer)| peer.handshaked_at.is_some());
    println!("peers with a session: {}", established.count());
    println!("  more: {}", each(resident()? - before, count - CLIENTS));
    timers(&mut device, now)?;
    packets(&mut device, &mut clients, now)?;
    flood(&mut device, &key, now)
}

fn inner(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

fn outer(n: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0xc612_0000 + n), 51820))
}

fn peer(key: &PrivateKey, address: Ipv4Addr, endpoint: Option<SocketAddr>) -> PeerConfig {
    PeerConfig {
        public_key: key.public_key(),
        preshared_key: None,
        endpoint,
        allowed_ips: vec![IpNet::from(IpAddr::V4(address))],
        keepalive: None,
    }
}

/// A client with a session.
fn connect(
    device: &mut Device,
    key: &PrivateKey,
    own: &PrivateKey,
    n: u32,
    now: Instant,
) -> Result<Device, Failure> {
    let mut seed = [2; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    let mut client = Device::new(DeviceConfig::bare(own.clone()), seed, now);
    let everywhere = Ipv4Addr::new(192, 0, 2, 1);
    let id = client.add_peer(peer(key, everywhere, Some(outer(0))), now)?;
    client.initiate(id, now)?;
    let mut buffer = [0; 2048];
    for _ in 0..2 {
        while let Some(sent) = client.poll_transmit() {
            let _ = device.handle_datagram(outer(n + 1), sent.contents(), now, &mut buffer)?;
            client.recycle(sent);
        }
        while let Some(sent) = device.poll_transmit() {
            let _ = client.handle_datagram(outer(0), sent.contents(), now, &mut buffer)?;
            device.recycle(sent);
        }
    }
    while device.poll_event().is_some() {}
    Ok(client)
}

fn lookups(device: &Device, count: u32, rng: &mut StdRng) -> Result<(), Failure> {
    let source = (Ipv4Addr::new(192, 0, 2, 1), 1).into();
    let packets: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let mut bytes = Vec::new();
            let to = (inner(rng.gen_range(0..count)), 1).into();
            packet::udp(&mut bytes, source, to, b"x");
            bytes
        })
        .collect();
    report("looking up an inner address", 100 * packets.len(), || {
        for _ in 0..100 {
            for packet in &packets {
                std::hint::black_box(device.shard_of_packet(packet));
            }
        }
        Ok(())
    })
}

fn timers(device: &mut Device, mut now: Instant) -> Result<(), Failure> {
    // Everything that the handshakes left to do.
    for _ in 0..20 {
        now += Duration::from_secs(1);
        device.handle_timeout(now);
        while let Some(sent) = device.poll_transmit() {
            device.recycle(sent);
        }
    }
    let mut microseconds = 0;
    report("a tick with all peers quiet", 1_000_000, || {
        for _ in 0..1_000_000 {
            microseconds += 1;
            device.handle_timeout(now + Duration::from_micros(microseconds));
        }
        Ok(())
    })
}

fn packets(device: &mut Device, clients: &mut [Device], now: Instant) -> Result<(), Failure> {
    let now = now + Duration::from_secs(21);
    let mut buffer = vec![0; 2048];
    let each = 256;
    let total = clients.len() * each;
    let mut datagrams: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut down = Vec::new();
    let mut opened = Vec::new();
    let mut sealed = Vec::new();
    for _ in 0..ROUNDS {
        datagrams.clear();
        for (client, n) in clients.iter_mut().zip(0..) {
            let mut up = Vec::new();
            let ends = (
                (inner(n), 1).into(),
                (Ipv4Addr::new(192, 0, 2, 1), 1).into(),
            );
            packet::udp(&mut up, ends.0, ends.1, &[1; 1392]);
            for _ in 0..each {
                client.handle_packet(&up, now)?;
                while let Some(sent) = client.poll_transmit() {
                    datagrams.push((n, sent.contents().to_vec()));
                    client.recycle(sent);
                }
            }
        }
        let started = processor_time()?;
        for (n, datagram) in &datagrams {
            let _ = device.handle_datagram(outer(n + 1), datagram, now, &mut buffer);
        }
        opened.push((processor_time()? - started) / total as f64);
        while device.poll_event().is_some() {}
        let started = processor_time()?;
        for n in 0..u32::try_from(clients.len())? {
            let ends = (
                (Ipv4Addr::new(192, 0, 2, 1), 1).into(),
                (inner(n), 1).into(),
            );
            packet::udp(&mut down, ends.0, ends.1, &[1; 1392]);
            for _ in 0..each {
                device.handle_packet(&down, now)?;
            }
            while let Some(sent) = device.poll_transmit() {
                device.recycle(sent);
            }
        }
        sealed.push((processor_time()? - started) / total as f64);
    }
    print("opening a packet of 1,420 bytes", &mut opened);
    print("sealing a packet of 1,420 bytes", &mut sealed);
    Ok(())
}

/// Initiations with the right first MAC, from an address each.
fn flood(device: &mut Device, key: &PrivateKey, now: Instant) -> Result<(), Failure> {
    let mut now = now + Duration::from_secs(30);
    let stranger = PrivateKey::generate(&mut StdRng::from_seed([9; 32]));
    let mut client = Device::new(DeviceConfig::bare(stranger), [9; 32], now);
    let id = client.add_peer(peer(key, inner(0), Some(outer(0))), now)?;
    client.initiate(id, now)?;
    let initiation = client.poll_transmit().ok_or("nothing was sent")?;
    let (mut buffer, mut answers, mut n) = ([0; 256], 0u32, 0u32);
    report("one of 100,000 initiations in a second", 100_000, || {
        now += Duration::from_secs(1);
        for _ in 0..100_000 {
            n = n.wrapping_add(1);
            let from = SocketAddr::from((Ipv4Addr::from(n), 7));
            let _ = device.handle_datagram(from, initiation.contents(), now, &mut buffer);
            while let Some(sent) = device.poll_transmit() {
                answers += 1;
                device.recycle(sent);
            }
        }
        Ok(())
    })?;
    println!("  answered: {} each second", answers / ROUNDS as u32);
    Ok(())
}

fn report(
    what: &str,
    times: usize,
    mut run: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let started = processor_time()?;
        run()?;
        all.push((processor_time()? - started) / times as f64);
    }
    print(what, &mut all);
    Ok(())
}

fn print(what: &str, seconds: &mut [f64]) {
    seconds.sort_by(f64::total_cmp);
    let nanoseconds = |n: usize| seconds[n] * 1e9;
    println!(
        "{what}: {:.0} ns ({:.0} to {:.0})",
        nanoseconds(seconds.len() / 2),
        nanoseconds(0),
        nanoseconds(seconds.len() - 1)
    );
}

fn each(bytes: usize, count: u32) -> String {
    let of_each = bytes / usize::try_from(count.max(1)).unwrap_or(1);
    format!("{} kB resident, {of_each} bytes each", bytes / 1000)
}

/// Bytes of this process in memory.
fn resident() -> Result<usize, Failure> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmRSS")?.parse::<usize>()? * 1024)
}

/// Seconds that this process has run.
fn processor_time() -> Result<f64, Failure> {
    // The kernel brings the figure up to date when somebody else may run, and else every few milliseconds.
    std::thread::yield_now();
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().ok_or("no schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}
