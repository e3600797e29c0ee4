//! Writing responses.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    device::{Device, PeerSettings},
    keys::PrivateKey,
};

/// What an interface is set to, besides its peers.
#[derive(Debug, Clone, Default)]
pub struct InterfaceSettings {
    /// Its private key, if it has one.
    pub private_key: Option<PrivateKey>,
    /// The port it listens on; 0 if it does not listen.
    pub listen_port: u16,
    /// The mark on outer packets; 0 for none.
    pub fwmark: u32,
}

/// The response to a change: 0, or an error number, which `wg` expects negated, as wireguard-go sends it.
pub fn respond_done(errno: i32) -> String {
    format!("errno={}\n\n", -errno)
}

/// The response to [`Request::Get`](super::Request::Get): the interface and its peers, as
/// [`describe_peers`] puts them, from each shard. The text holds secrets.
pub fn respond_get<'p>(
    settings: &InterfaceSettings,
    peers: impl IntoIterator<Item = &'p str> + Clone,
) -> Zeroizing<String> {
    let len: usize = peers.clone().into_iter().map(str::len).sum();
    let mut text = Zeroizing::new(String::with_capacity(256 + len));
    // Writing to a string does not fail.
    let _ = write_interface(&mut text, settings);
    for peers in peers {
        text.push_str(peers);
    }
    text.push_str(&respond_done(0));
    text
}

/// The peers of a device, for [`respond_get`]. `since_epoch` turns the device's times into time since 1970. The text
/// holds secrets.
pub fn describe_peers(
    device: &Device,
    since_epoch: impl Fn(Instant) -> Duration,
) -> Zeroizing<String> {
    describe(device, true, since_epoch)
}

/// The same for those who may look and no more: it holds no private and no preshared key.
pub fn respond_watch(
    listen_port: u16,
    device: &Device,
    since_epoch: impl Fn(Instant) -> Duration,
) -> Zeroizing<String> {
    let settings = InterfaceSettings {
        listen_port,
        ..InterfaceSettings::default()
    };
    let peers = describe(device, false, since_epoch);
    respond_get(&settings, [peers.as_str()])
}

fn describe(
    device: &Device,
    secrets: bool,
    since_epoch: impl Fn(Instant) -> Duration,
) -> Zeroizing<String> {
    let mut peers: Vec<_> = device.peers().collect();
    peers.sort_by_key(|&(id, _)| id);
    // Room for everything from the start: a string that grows leaves secrets behind.
    let lines: usize = peers.iter().map(|(_, peer)| peer.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(peers.len() * 512 + lines * 64));
    for (_, peer) in &peers {
        // Writing to a string does not fail.
        let _ = write_peer(&mut text, peer, secrets, &since_epoch);
    }
    text
}

fn write_interface(text: &mut String, settings: &InterfaceSettings) -> fmt::Result {
    if let Some(key) = &settings.private_key {
        write_key(text, "private_key", key.expose_bytes())?;
    }
    if settings.listen_port != 0 {
        writeln!(text, "listen_port={}", settings.listen_port)?;
    }
    if settings.fwmark != 0 {
        writeln!(text, "fwmark={}", settings.fwmark)?;
    }
    Ok(())
}

fn write_peer(
    text: &mut String,
    peer: &PeerSettings<'_>,
    secrets: bool,
    since_epoch: impl Fn(Instant) -> Duration,
) -> fmt::Result {
    write_key(text, "public_key", peer.public_key.as_bytes())?;
    if let Some(key) = peer.preshared_key.filter(|_| secrets) {
        write_key(text, "preshared_key", key.expose_bytes())?;
    }
    writeln!(text, "protocol_version=1")?;
    if let Some(endpoint) = peer.endpoint {
        writeln!(text, "endpoint={endpoint}")?;
    }
    let handshake = peer.handshaked_at.map_or(Duration::ZERO, since_epoch);
    writeln!(text, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(
        text,
        "last_handshake_time_nsec={}",
        handshake.subsec_nanos()
    )?;
    writeln!(text, "tx_bytes={}", peer.transfer.sent)?;
    writeln!(text, "rx_bytes={}", peer.transfer.received)?;
    let keepalive = peer.keepalive.unwrap_or(0);
    writeln!(text, "persistent_keepalive_interval={keepalive}")?;
    for net in peer.allowed_ips {
        writeln!(text, "allowed_ip={net}")?;
    }
    Ok(())
}

fn write_key(text: &mut String, name: &str, bytes: &[u8; 32]) -> fmt::Result {
    write!(text, "{name}=")?;
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    writeln!(text)
}
