//! Relayed leases: a provider and a requester that can't reach each other send their WireGuard datagrams to a UDP port of
//! a relay's, which is that lease's alone and passes them on.
//!
//! A [`Port`] decides what becomes of a datagram, a [`Party`] is one side's part of it. WireGuard's datagrams are as they
//! always are. Who has no place at a port yet, and sends one or asks with a binding request of STUN, gets a challenge: a
//! binding indication whose transaction id depends on where it came from. The answer is an indication whose transaction id is an
//! HMAC of the challenge by a token that only that side and the relay have: whoever sends it has the token, and hears what is sent
//! there. A failed proof gets no answer, so two ports can't keep each other busy.
#![forbid(unsafe_code)]

mod pace;
mod party;
mod port;

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

pub use pace::Pace;
pub use party::Party;
pub use port::{Dropped, Port, Side, Verdict};

/// A secret of one side and the relay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// HMAC-SHA-256 (RFC 2104), of which a transaction id takes the first [`TAG`] bytes.
fn mac(key: &[u8; 32], message: &[u8]) -> Hmac<Sha256> {
    // A short key is padded to a block.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac
}

/// Bytes of a transaction id.
const TAG: usize = 12;

fn tag(mac: Hmac<Sha256>) -> [u8; TAG] {
    let whole = mac.finalize().into_bytes();
    std::array::from_fn(|at| whole[at])
}

#[cfg(test)]
mod tests;
