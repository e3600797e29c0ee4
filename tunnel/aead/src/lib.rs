//! ChaCha20-Poly1305 (RFC 8439) as WireGuard's data packets use it: no additional data, and a nonce that is four zero
//! bytes and a little-endian counter.
//!
//! ring does it everywhere. With the feature `ipsec-mb`, and on a processor with AVX-512, Intel's Multi-Buffer Crypto for
//! IPsec does it in about three quarters of the time.

#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of the tag that follows what is sealed.
pub const TAG_LEN: usize = 16;

/// What was to be opened was not sealed with this key and counter, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

/// One direction's key of one session.
pub struct Key(Cipher);

#[cfg_attr(
    feature = "ipsec-mb",
    expect(
        clippy::large_enum_variant,
        reason = "a build has room for either, and a pointer more costs time"
    )
)]
enum Cipher {
    Ring(LessSafeKey),
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(ipsec_mb::Key),
}

impl Key {
    /// The key, for the fastest implementation on this processor.
    pub fn new(key: &[u8; 32]) -> Self {
        #[cfg(feature = "ipsec-mb")]
        if let Some(key) = ipsec_mb::Key::new(key) {
            return Self(Cipher::IpsecMb(key));
        }
        Self::of_ring(key)
    }

    fn of_ring(key: &[u8; 32]) -> Self {
        match UnboundKey::new(&CHACHA20_POLY1305, key) {
            Ok(key) => Self(Cipher::Ring(LessSafeKey::new(key))),
            Err(_) => unreachable!("every 32 bytes are a key"),
        }
    }

    /// Encrypts `data` where it lies, and returns its tag. A counter may be used only once with a key.
    #[inline]
    pub fn seal(&self, counter: u64, data: &mut [u8]) -> [u8; TAG_LEN] {
        match &self.0 {
            Cipher::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                match key.seal_in_place_separate_tag(nonce, Aad::empty(), data) {
                    Ok(tag) => {
                        let mut bytes = [0; TAG_LEN];
                        bytes.copy_from_slice(tag.as_ref());
                        bytes
                    }
                    Err(_) => unreachable!("a packet is far from 2^38 bytes"),
                }
            }
            #[cfg(feature = "ipsec-mb")]
            Cipher::IpsecMb(key) => key.seal(&nonce(counter), data),
        }
    }

    /// Decrypts `sealed`, whose end is its tag, to the beginning of `plain` and returns that. `plain` has at least
    /// `sealed`'s length; what it holds after an error is nothing of the packet's.
    #[inline]
    pub fn open<'p>(
        &self,
        counter: u64,
        sealed: &[u8],
        plain: &'p mut [u8],
    ) -> Result<&'p mut [u8], Forged> {
        match &self.0 {
            Cipher::Ring(key) => {
                let plain = &mut plain[..sealed.len()];
                plain.copy_from_slice(sealed);
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                key.open_in_place(nonce, Aad::empty(), plain)
                    .map_err(|_| Forged)
            }
            #[cfg(feature = "ipsec-mb")]
            Cipher::IpsecMb(key) => key.open(&nonce(counter), sealed, plain),
        }
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests;
