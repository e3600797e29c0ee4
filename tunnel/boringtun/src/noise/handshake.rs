// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

mod cookies;
mod initiator;
mod primitives;
mod responder;
mod timestamp;

pub use responder::{parse_handshake_anon, HalfHandshake};

pub(crate) use primitives::{b2s_hash, b2s_keyed_mac_16, b2s_keyed_mac_16_2, b2s_mac_24};

use crate::x25519;
use primitives::{b2s_hmac, b2s_hmac2};
use std::time::Instant;
use timestamp::{Tai64N, TimeStamper};

pub(crate) const LABEL_MAC1: &[u8; 8] = b"mac1----";
pub(crate) const LABEL_COOKIE: &[u8; 8] = b"cookie--";
const KEY_LEN: usize = 32;
const TIMESTAMP_LEN: usize = 12;

// initiator.chaining_key = HASH(CONSTRUCTION)
const INITIAL_CHAIN_KEY: [u8; KEY_LEN] = [
    96, 226, 109, 174, 243, 39, 239, 192, 46, 195, 53, 226, 160, 37, 210, 208, 22, 235, 66, 6, 248,
    114, 119, 245, 45, 56, 209, 152, 139, 120, 205, 54,
];

// initiator.chaining_hash = HASH(initiator.chaining_key || IDENTIFIER)
const INITIAL_CHAIN_HASH: [u8; KEY_LEN] = [
    34, 17, 179, 97, 8, 26, 197, 102, 105, 18, 67, 219, 69, 138, 213, 50, 45, 156, 108, 102, 34,
    147, 232, 183, 14, 225, 156, 101, 186, 7, 158, 243,
];

/// Parameters used by the noise protocol
struct NoiseParams {
    /// Our static public key
    static_public: x25519::PublicKey,
    /// Our static private key
    static_private: x25519::StaticSecret,
    /// Static public key of the other party
    peer_static_public: x25519::PublicKey,
    /// A shared key = DH(static_private, peer_static_public)
    static_shared: x25519::SharedSecret,
    /// A pre-computation of HASH("mac1----", peer_static_public) for this peer
    sending_mac1_key: [u8; KEY_LEN],
    /// An optional preshared key
    preshared_key: Option<[u8; KEY_LEN]>,
}

impl std::fmt::Debug for NoiseParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseParams")
            .field("static_public", &self.static_public)
            .field("static_private", &"<redacted>")
            .field("peer_static_public", &self.peer_static_public)
            .field("static_shared", &"<redacted>")
            .field("sending_mac1_key", &self.sending_mac1_key)
            .field("preshared_key", &self.preshared_key)
            .finish()
    }
}

struct HandshakeInitSentState {
    local_index: u32,
    hash: [u8; KEY_LEN],
    chaining_key: [u8; KEY_LEN],
    ephemeral_private: x25519::ReusableSecret,
    time_sent: Instant,
}

impl std::fmt::Debug for HandshakeInitSentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeInitSentState")
            .field("local_index", &self.local_index)
            .field("hash", &self.hash)
            .field("chaining_key", &self.chaining_key)
            .field("ephemeral_private", &"<redacted>")
            .field("time_sent", &self.time_sent)
            .finish()
    }
}

#[derive(Debug)]
enum HandshakeState {
    /// No handshake in process
    None,
    /// We initiated the handshake
    InitSent(HandshakeInitSentState),
    /// Handshake initiated by peer
    InitReceived {
        hash: [u8; KEY_LEN],
        chaining_key: [u8; KEY_LEN],
        peer_ephemeral_public: x25519::PublicKey,
        peer_index: u32,
    },
    /// Handshake was established too long ago (implies no handshake is in progress)
    Expired,
}

pub struct Handshake {
    params: NoiseParams,
    /// Index of the next session
    next_index: u32,
    /// Allow to have two outgoing handshakes in flight, because sometimes we may receive a delayed response to a handshake with bad networks
    previous: HandshakeState,
    /// Current handshake state
    state: HandshakeState,
    cookies: Cookies,
    /// The timestamp of the last handshake we received
    last_handshake_timestamp: Tai64N,
    /// One for each peer, and kept when the connection is put aside: it gives no time stamp twice
    stamper: TimeStamper,
    /// The present, as the caller last told it
    now: Instant,
}

/// What must outlive a connection that is put aside, so that old handshakes can't be replayed to the next one and its
/// own are taken for newer ones
#[derive(Debug)]
pub struct Remembered {
    last_handshake_timestamp: Tai64N,
    stamper: TimeStamper,
    next_index: u32,
}

#[derive(Default)]
struct Cookies {
    last_mac1: Option<[u8; 16]>,
    index: u32,
    write_cookie: Option<[u8; 16]>,
}

impl NoiseParams {
    /// New noise params struct from our secret key, peers public key, and optional preshared key
    fn new(
        static_private: x25519::StaticSecret,
        static_public: x25519::PublicKey,
        peer_static_public: x25519::PublicKey,
        preshared_key: Option<[u8; 32]>,
    ) -> NoiseParams {
        let static_shared = static_private.diffie_hellman(&peer_static_public);

        let initial_sending_mac_key = b2s_hash(LABEL_MAC1, peer_static_public.as_bytes());

        NoiseParams {
            static_public,
            static_private,
            peer_static_public,
            static_shared,
            sending_mac1_key: initial_sending_mac_key,
            preshared_key,
        }
    }
}

impl Handshake {
    pub(crate) fn new(
        static_private: x25519::StaticSecret,
        static_public: x25519::PublicKey,
        peer_static_public: x25519::PublicKey,
        global_idx: u32,
        preshared_key: Option<[u8; 32]>,
        now: Instant,
    ) -> Handshake {
        let params = NoiseParams::new(
            static_private,
            static_public,
            peer_static_public,
            preshared_key,
        );

        Handshake {
            params,
            next_index: global_idx,
            previous: HandshakeState::None,
            state: HandshakeState::None,
            last_handshake_timestamp: Tai64N::zero(),
            stamper: TimeStamper::new(now),
            now,
            cookies: Default::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn keys_for_tests(&self) -> (x25519::StaticSecret, x25519::PublicKey) {
        let params = &self.params;
        (params.static_private.clone(), params.static_public)
    }

    /// Whether keys of a handshake under way are held
    pub(crate) fn holds_keys(&self) -> bool {
        matches!(self.state, HandshakeState::InitSent(_))
            || matches!(self.previous, HandshakeState::InitSent(_))
    }

    /// What the next connection with this peer has to know
    pub(crate) fn remember(self) -> Remembered {
        Remembered {
            last_handshake_timestamp: self.last_handshake_timestamp,
            stamper: self.stamper,
            next_index: self.next_index,
        }
    }

    /// Goes on where an earlier connection ended; the upper 24 bits of its index are this one's own
    pub(crate) fn recall(&mut self, remembered: Remembered) {
        self.last_handshake_timestamp = remembered.last_handshake_timestamp;
        self.stamper = remembered.stamper;
        self.next_index = (self.next_index & !0xff) | (remembered.next_index & 0xff);
    }

    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) fn time(&self) -> Instant {
        self.now
    }

    pub(crate) fn is_in_progress(&self) -> bool {
        !matches!(self.state, HandshakeState::None | HandshakeState::Expired)
    }

    pub(crate) fn timer(&self) -> Option<Instant> {
        match self.state {
            HandshakeState::InitSent(HandshakeInitSentState { time_sent, .. }) => Some(time_sent),
            _ => None,
        }
    }

    pub(crate) fn set_expired(&mut self) {
        self.previous = HandshakeState::Expired;
        self.state = HandshakeState::Expired;
    }

    pub(crate) fn is_expired(&self) -> bool {
        matches!(self.state, HandshakeState::Expired)
    }

    // The index used is 24 bits for peer index, allowing for 16M active peers per server and 8 bits for cyclic session index
    fn inc_index(&mut self) -> u32 {
        let index = self.next_index;
        let idx8 = index as u8;
        self.next_index = (index & !0xff) | u32::from(idx8.wrapping_add(1));
        self.next_index
    }

    /// Mixes the preshared key, or zeros, into the exchange; gives the key of the response's empty field
    fn mix_preshared_key(
        &self,
        chaining_key: &mut [u8; KEY_LEN],
        hash: &mut [u8; KEY_LEN],
    ) -> [u8; KEY_LEN] {
        // temp = HMAC(responder.chaining_key, preshared_key)
        let temp = b2s_hmac(
            chaining_key,
            &self.params.preshared_key.unwrap_or([0u8; KEY_LEN])[..],
        );
        // responder.chaining_key = HMAC(temp, 0x1)
        *chaining_key = b2s_hmac(&temp, &[0x01]);
        // temp2 = HMAC(temp, responder.chaining_key || 0x2)
        let temp2 = b2s_hmac2(&temp, chaining_key, &[0x02]);
        // responder.hash = HASH(responder.hash || temp2)
        *hash = b2s_hash(hash, &temp2);
        // key = HMAC(temp, temp2 || 0x3)
        b2s_hmac2(&temp, &temp2, &[0x03])
    }
}

/// The keys that the initiator sends and receives with
fn transport_keys(chaining_key: &[u8; KEY_LEN]) -> ([u8; KEY_LEN], [u8; KEY_LEN]) {
    // temp1 = HMAC(initiator.chaining_key, [empty])
    let temp1 = b2s_hmac(chaining_key, &[]);
    // initiator.sending_key = HMAC(temp1, 0x1)
    let sending = b2s_hmac(&temp1, &[0x01]);
    // initiator.receiving_key = HMAC(temp1, initiator.sending_key || 0x2)
    let receiving = b2s_hmac2(&temp1, &sending, &[0x02]);
    (sending, receiving)
}
