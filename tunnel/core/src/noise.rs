//! The only file that knows the Noise library (boringtun, vendored with the changes in its `PATCHES.md`) and works
//! around what it does not do.
//!
//! It wants output buffers of at least [`MIN_BUFFER`] bytes, leaves routing by index, padding and the pace of
//! handshakes to us, and its time stands still until it is told.

use std::{net::IpAddr, sync::Arc, time::Instant};

use boringtun::{
    noise::{
        Packet, Tunn, TunnResult,
        errors::WireGuardError,
        handshake::{Remembered, parse_handshake_anon},
        rate_limiter::RateLimiter,
    },
    x25519,
};

use crate::{
    DATA_OVERHEAD,
    drops::DropReason,
    handshake_limits::{HandshakeLimits, Pace},
    keys::{PresharedKey, PrivateKey, PublicKey},
};

/// Smallest output buffer that the library accepts without panicking: one handshake initiation.
pub(crate) const MIN_BUFFER: usize = 148;

/// Bytes of a data datagram before the inner packet.
pub(crate) const DATA_HEADER: usize = 16;

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

/// Our own key and the limits that all sessions share.
pub(crate) struct Identity {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Knows the MACs of handshake messages; given to the sessions as well, where it never refuses, since each message
    /// was counted here.
    macs: Arc<RateLimiter>,
    limits: HandshakeLimits,
}

impl Identity {
    pub(crate) fn new(key: &PrivateKey, now: Instant) -> Self {
        let secret = key.secret();
        let public = x25519::PublicKey::from(&secret);
        Self {
            macs: Arc::new(RateLimiter::new(&public, u64::MAX, now)),
            limits: HandshakeLimits::new(now),
            secret,
            public,
        }
    }

    /// Checks a handshake message's first MAC, and its second when handshakes arrive too fast.
    pub(crate) fn admit(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        reply: &mut [u8],
        now: Instant,
    ) -> Admission {
        if self.macs.verify_mac1(datagram).is_err() {
            return Admission::Refuse(DropReason::BadHandshake);
        }
        if self.limits.pace(now) == Pace::Calm {
            return Admission::Pass;
        }
        // Most have no second MAC at all, and that is seen without calculating.
        let (_, mac2) = datagram.split_at(datagram.len().saturating_sub(16));
        let proven =
            mac2.iter().any(|&byte| byte != 0) && self.macs.verify_mac2(from, datagram, now);
        if proven {
            return if self.limits.take_proven(from, now) {
                Admission::Pass
            } else {
                Admission::Refuse(DropReason::HandshakeRate)
            };
        }
        if !self.limits.take_cookie(from, now) {
            return Admission::Refuse(DropReason::HandshakeRate);
        }
        match self.macs.challenge(from, datagram, reply, now) {
            Ok(cookie) => Admission::Challenge(cookie.len()),
            Err(_) => Admission::Refuse(DropReason::BadHandshake),
        }
    }

    /// A peer has called from this address: its next handshakes are worth more than strangers'.
    pub(crate) fn remember(&mut self, from: IpAddr, now: Instant) {
        self.limits.remember(from, now);
    }

    /// The public key that a handshake initiation claims.
    pub(crate) fn initiator(&self, datagram: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(message)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let half = parse_handshake_anon(&self.secret, &self.public, &message).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
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
///
/// The library's state is made when the first handshake begins and put aside when the connection has ended: most peers
/// of a large device are away.
pub(crate) struct Session {
    tunn: Option<Box<Tunn>>,
    remembered: Option<Box<Remembered>>,
}

/// What a session is made from.
pub(crate) struct SessionKeys<'k> {
    pub(crate) identity: &'k Identity,
    pub(crate) peer: &'k PublicKey,
    pub(crate) preshared: Option<&'k PresharedKey>,
    pub(crate) keepalive: Option<u16>,
    /// 24 bits, unpredictable and unique in the device.
    pub(crate) index: u32,
}

impl Session {
    /// Without any state.
    pub(crate) fn new() -> Self {
        Self {
            tunn: None,
            remembered: None,
        }
    }

    /// Makes ready for a handshake, and tells the time.
    pub(crate) fn wake(&mut self, keys: &SessionKeys<'_>, now: Instant) {
        if let Some(tunn) = &mut self.tunn {
            tunn.set_time(now);
            return;
        }
        let mut tunn = Box::new(Tunn::new(
            keys.identity.secret.clone(),
            x25519::PublicKey::from(*keys.peer.as_bytes()),
            keys.preshared.map(|key| *key.expose_bytes()),
            keys.keepalive,
            keys.index,
            Some(Arc::clone(&keys.identity.macs)),
            now,
        ));
        if let Some(remembered) = self.remembered.take() {
            tunn.resume(*remembered);
        }
        self.tunn = Some(tunn);
    }

    /// Tells the time. Everything below happens at the time told last: data sent or received after a quiet spell would
    /// be dated back else, and a session that is as old as the spell thrown away.
    pub(crate) fn set_time(&mut self, now: Instant) {
        if let Some(tunn) = &mut self.tunn {
            tunn.set_time(now);
        }
    }

    /// Ends the connection. The next one is made with the keys that are given then.
    pub(crate) fn put_aside(&mut self) {
        if let Some(tunn) = self.tunn.take() {
            self.remembered = Some(Box::new(tunn.put_aside()));
        }
    }

    /// Whether the library's state is there.
    #[cfg(test)]
    pub(crate) fn is_awake(&self) -> bool {
        self.tunn.is_some()
    }

    /// Whether data can be encrypted right now.
    pub(crate) fn is_established(&self) -> bool {
        self.tunn.as_ref().is_some_and(|tunn| tunn.has_session())
    }

    /// Opens one datagram into `buffer`, which must be as long as the datagram and at least [`MIN_BUFFER`].
    pub(crate) fn open(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        buffer: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let tunn = self.tunn.as_mut().ok_or(DropReason::NoSession)?;
        match tunn.decapsulate(Some(from), datagram, buffer) {
            TunnResult::Done => Ok(Opened::Nothing),
            TunnResult::WriteToNetwork(reply) => Ok(Opened::Reply(reply.len())),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(Opened::Packet(packet.len()))
            }
            TunnResult::Err(error) => Err(reason(&error)),
        }
    }

    /// Encrypts in place the padded packet of `len` bytes that lies [`DATA_HEADER`] bytes into `buffer`, which has
    /// [`DATA_OVERHEAD`] bytes more than the packet. Returns the datagram's length: 0 without a session.
    pub(crate) fn seal(&mut self, buffer: &mut [u8], len: usize) -> usize {
        debug_assert!(buffer.len() >= len + DATA_OVERHEAD);
        self.tunn
            .as_mut()
            .and_then(|tunn| tunn.encapsulate_in_place(buffer, len).ok())
            .unwrap_or(0)
    }

    /// Writes a handshake initiation; `again` writes one even if one is under way. Returns its length. The session must
    /// be awake.
    pub(crate) fn initiate(&mut self, again: bool, buffer: &mut [u8]) -> Option<usize> {
        match self
            .tunn
            .as_mut()?
            .format_handshake_initiation(buffer, again)
        {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Moves the timers; may write one datagram. An expired connection is only idle: a peer that never connected
    /// or went away may come back at any time.
    pub(crate) fn tick(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.tunn.as_mut()?.update_timers(buffer) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// When [`tick`](Self::tick) has something to do next, if nothing happens before. A connection that has ended, and
    /// need not be kept alive, is put aside here.
    pub(crate) fn next_tick(&mut self) -> Option<Instant> {
        let tunn = self.tunn.as_ref()?;
        if tunn.is_idle() && tunn.persistent_keepalive().is_none() {
            self.put_aside();
            return None;
        }
        tunn.next_timer()
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
