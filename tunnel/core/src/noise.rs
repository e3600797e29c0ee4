//! The only file that knows the Noise library (boringtun 0.7.1) and works around what it does not do.
//!
//! It wants output buffers of at least [`MIN_BUFFER`] bytes, leaves routing by index, padding and the pace of
//! handshakes to us, and its timers only move when polled.

use std::{net::IpAddr, sync::Arc};

use boringtun::{
    noise::{
        Packet, Tunn, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        rate_limiter::RateLimiter,
    },
    x25519,
};

use crate::{
    drops::DropReason,
    keys::{PresharedKey, PrivateKey, PublicKey},
};

/// Smallest output buffer that the library accepts without panicking: one handshake initiation.
pub(crate) const MIN_BUFFER: usize = 148;

/// Handshake messages per second answered without asking for proof of the source address.
const HANDSHAKES_PER_SECOND: u64 = 200;

impl PrivateKey {
    /// The public key that belongs to this private key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(x25519::PublicKey::from(&self.secret()).to_bytes())
    }

    fn secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.expose_bytes())
    }
}

/// What kind of message a datagram claims to be; an index has the session number in its low 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Initiation,
    Response { index: u32 },
    Cookie { index: u32 },
    Data { index: u32 },
}

pub(crate) fn classify(datagram: &[u8]) -> Option<Kind> {
    match Tunn::parse_incoming_packet(datagram).ok()? {
        Packet::HandshakeInit(_) => Some(Kind::Initiation),
        Packet::HandshakeResponse(message) => Some(Kind::Response {
            index: message.receiver_idx,
        }),
        Packet::PacketCookieReply(message) => Some(Kind::Cookie {
            index: message.receiver_idx,
        }),
        Packet::PacketData(message) => Some(Kind::Data {
            index: message.receiver_idx,
        }),
    }
}

/// Whether a handshake message may cost us a Diffie-Hellman.
pub(crate) enum Admission {
    Pass,
    /// Too many handshakes: this many bytes of cookie reply were written.
    Challenge(usize),
    Refuse(DropReason),
}

/// Our own key and the limiters that all sessions share.
pub(crate) struct Identity {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Has the real limit and sees each handshake once.
    front: RateLimiter,
    /// Given to the sessions, which would count every message a second time: it never refuses.
    inner: Arc<RateLimiter>,
}

impl Identity {
    pub(crate) fn new(key: &PrivateKey) -> Self {
        let secret = key.secret();
        let public = x25519::PublicKey::from(&secret);
        Self {
            front: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            inner: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
        }
    }

    /// Checks a handshake message's first MAC, and its second when handshakes arrive too fast.
    pub(crate) fn admit(&self, from: IpAddr, datagram: &[u8], reply: &mut [u8]) -> Admission {
        match self.front.verify_packet(Some(from), datagram, reply) {
            Ok(_) => Admission::Pass,
            Err(TunnResult::WriteToNetwork(cookie)) => Admission::Challenge(cookie.len()),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => {
                Admission::Refuse(DropReason::HandshakeRate)
            }
            Err(_) => Admission::Refuse(DropReason::BadHandshake),
        }
    }

    /// The public key that a handshake initiation claims.
    pub(crate) fn initiator(&self, datagram: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(message)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let half = parse_handshake_anon(&self.secret, &self.public, &message).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
    }

    /// To be called once a second.
    pub(crate) fn reset_limits(&self) {
        self.front.reset_count();
        self.inner.reset_count();
    }
}

/// What came out of a datagram; lengths count from the start of the output buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Authentic, with nothing inside.
    Nothing,
    /// Authentic, and this answer has to be sent.
    Reply(usize),
    /// An inner IP packet.
    Packet(usize),
}

/// The Noise sessions with one peer.
pub(crate) struct Session(Box<Tunn>);

impl Session {
    /// `index` has 24 bits and must be unpredictable and unique in the device.
    pub(crate) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        keepalive: Option<u16>,
        index: u32,
    ) -> Self {
        Self(Box::new(Tunn::new(
            identity.secret.clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            preshared.map(|key| *key.expose_bytes()),
            keepalive,
            index,
            Some(Arc::clone(&identity.inner)),
        )))
    }

    /// Whether data can be encrypted right now.
    pub(crate) fn is_established(&self) -> bool {
        self.0.time_since_last_handshake().is_some()
    }

    /// Opens one datagram into `buffer`, which must be as long as the datagram and at least [`MIN_BUFFER`].
    pub(crate) fn open(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, DropReason> {
        match self.0.decapsulate(Some(from), datagram, buffer) {
            TunnResult::Done => Ok(Opened::Nothing),
            TunnResult::WriteToNetwork(reply) => Ok(Opened::Reply(reply.len())),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(Opened::Packet(packet.len()))
            }
            TunnResult::Err(error) => Err(reason(&error)),
        }
    }

    /// Takes what the library queued by itself (keepalives): call after a reply until it gives nothing.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.0.decapsulate(None, &[], buffer) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Encrypts a padded packet; the session must be established. Returns the datagram's length.
    pub(crate) fn seal(&mut self, padded: &[u8], buffer: &mut [u8]) -> usize {
        match self.0.encapsulate(padded, buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.len(),
            _ => 0,
        }
    }

    /// Writes a handshake initiation; `again` writes one even if one is under way. Returns its length.
    pub(crate) fn initiate(&mut self, again: bool, buffer: &mut [u8]) -> Option<usize> {
        match self.0.format_handshake_initiation(buffer, again) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Moves the timers; may write one datagram. An expired connection is only idle: a peer that never connected
    /// or went away may come back at any time.
    pub(crate) fn tick(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.0.update_timers(buffer) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }
}

/// Length of a packet once padded to 16 bytes, but never past the MTU (as the kernel does).
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(16).min(mtu.max(len))
}

fn reason(error: &WireGuardError) -> DropReason {
    match error {
        WireGuardError::InvalidAeadTag => DropReason::BadTag,
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => DropReason::Replay,
        WireGuardError::NoCurrentSession
        | WireGuardError::WrongIndex
        | WireGuardError::ConnectionExpired => DropReason::NoSession,
        WireGuardError::UnderLoad => DropReason::HandshakeRate,
        // The library reports a decrypted payload that is no IP packet this way.
        WireGuardError::InvalidPacket => DropReason::Malformed,
        _ => DropReason::BadHandshake,
    }
}
