//! Payment messages that the broker carries but cannot read or change.
//!
//! Key: keccak256 of a label, the X25519 secret (RFC 7748) between the deal's two tunnel keys, the deal's id
//! and the direction. Cipher: XChaCha20-Poly1305 with a random 24-byte nonce before the text. The tunnel
//! keys are used for nothing else but WireGuard, whose own key derivation (BLAKE2s, its own labels) shares
//! nothing with this one.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ipsx_metering::{DealId, keccak256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::request::TunnelKey;

/// Bytes of nonce before the sealed text.
pub const NONCE_BYTES: usize = 24;

/// Largest sealed frame, bytes: nonce, the largest payment message, and the tag of 16 bytes.
pub const MAX_SEALED: usize = NONCE_BYTES + crate::payment::MAX_PAYMENT_MESSAGE + 16;

const LABEL: &[u8] = b"ipsx sealed payment frame 1";

/// The frame is not from the deal's other side, or was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed frame is not from the other side of this deal, or was changed on the way")]
pub struct Unsealable;

/// Who sealed a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The payer, for the provider.
    ToProvider,
    /// The provider, for the payer.
    ToPayer,
}

/// Seals and opens the frames of one deal.
pub struct FrameSealer {
    to_provider: XChaCha20Poly1305,
    to_payer: XChaCha20Poly1305,
}

impl FrameSealer {
    /// From one side's own tunnel secret and the other's tunnel key.
    pub fn new(own_secret: [u8; 32], other: TunnelKey, deal: DealId) -> Self {
        let shared = StaticSecret::from(own_secret).diffie_hellman(&PublicKey::from(other.0.0));
        let cipher = |direction: u8| {
            let material = [
                LABEL,
                shared.as_bytes().as_slice(),
                deal.0.as_slice(),
                &[direction],
            ]
            .concat();
            let key = keccak256(zeroize::Zeroizing::new(material).as_slice());
            XChaCha20Poly1305::new(&key.0.into())
        };
        Self {
            to_provider: cipher(0),
            to_payer: cipher(1),
        }
    }

    /// Nonce and sealed text. The nonce must be fresh random bytes.
    pub fn seal(
        &self,
        direction: Direction,
        nonce: [u8; NONCE_BYTES],
        text: &[u8],
    ) -> Result<Vec<u8>, Unsealable> {
        let sealed = self
            .cipher(direction)
            .encrypt(&XNonce::from(nonce), text)
            .map_err(|_| Unsealable)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// The text of a frame sealed for `direction`.
    pub fn open(&self, direction: Direction, frame: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (nonce, sealed) = frame.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable)?;
        self.cipher(direction)
            .decrypt(&XNonce::from(*nonce), sealed)
            .map_err(|_| Unsealable)
    }

    fn cipher(&self, direction: Direction) -> &XChaCha20Poly1305 {
        match direction {
            Direction::ToProvider => &self.to_provider,
            Direction::ToPayer => &self.to_payer,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_metering::B256;

    fn sealers() -> (FrameSealer, FrameSealer) {
        let (payer, provider) = ([1; 32], [2; 32]);
        let key = |secret| {
            TunnelKey(B256::new(
                *PublicKey::from(&StaticSecret::from(secret)).as_bytes(),
            ))
        };
        let deal = DealId(B256::repeat_byte(9));
        (
            FrameSealer::new(payer, key(provider), deal),
            FrameSealer::new(provider, key(payer), deal),
        )
    }

    #[test]
    fn the_other_side_reads_what_was_sealed_for_it() {
        let (payer, provider) = sealers();
        let frame = payer
            .seal(Direction::ToProvider, [3; NONCE_BYTES], b"voucher")
            .unwrap();
        assert_eq!(
            provider.open(Direction::ToProvider, &frame).unwrap(),
            b"voucher"
        );
    }

    #[test]
    fn a_changed_reflected_or_foreign_frame_is_refused() {
        let (payer, provider) = sealers();
        let frame = payer
            .seal(Direction::ToProvider, [3; NONCE_BYTES], b"voucher")
            .unwrap();
        assert_eq!(provider.open(Direction::ToPayer, &frame), Err(Unsealable));
        assert_eq!(payer.open(Direction::ToPayer, &frame), Err(Unsealable));
        let mut changed = frame.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(
            provider.open(Direction::ToProvider, &changed),
            Err(Unsealable)
        );
        assert_eq!(
            provider.open(Direction::ToProvider, &frame[..10]),
            Err(Unsealable)
        );
    }
}
