//! Hourly keys, sealed to a key that need not be on the machine that records.

use std::fmt;
use std::str::FromStr;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ipsx_metering::{B256, keccak256};
use ipsx_settlement::Wallet;
use rand::RngCore;
use rand::rngs::OsRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of a sealed hourly key: the ephemeral public key, the key, and the tag.
pub(super) const SEALED_KEY: usize = 32 + 32 + TAG;
/// Bytes that sealing adds.
pub(super) const TAG: usize = 16;

const LABEL: &[u8] = b"ipsx connection record key 1";
const FROM_WALLET: &[u8] = b"connection record";

/// The X25519 key that hourly keys are sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKey(pub B256);

/// Opens what was sealed to its [`RecordKey`]. Erased when dropped; never printed.
pub struct RecordSecret(StaticSecret);

/// Seals the records of an hour, each under its number.
pub(super) struct HourKey(XChaCha20Poly1305);

impl RecordSecret {
    /// The wallet's own: who can open the wallet can disclose.
    pub fn of_wallet(wallet: &Wallet) -> Self {
        Self(StaticSecret::from(*wallet.derive(FROM_WALLET).secret()))
    }

    /// A new one, to be kept elsewhere.
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(bytes.as_mut_slice());
        Self(StaticSecret::from(*bytes))
    }

    /// The key to record with.
    pub fn key(&self) -> RecordKey {
        RecordKey(B256::new(PublicKey::from(&self.0).to_bytes()))
    }

    /// As it is kept in a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{:#x}\n", B256::new(self.0.to_bytes())))
    }

    /// Reads what [`Self::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(text.trim().parse::<B256>().ok()?.0);
        Some(Self(StaticSecret::from(*bytes)))
    }

    /// The key of an hour; `None` if it was sealed to another secret, or changed.
    pub(super) fn open(&self, sealed: &[u8; SEALED_KEY]) -> Option<HourKey> {
        let (ephemeral, text) = sealed.split_first_chunk::<32>()?;
        let ephemeral = PublicKey::from(*ephemeral);
        let shared = self.0.diffie_hellman(&ephemeral);
        let key = cipher(shared.as_bytes(), &ephemeral, &self.key())
            .decrypt(&XNonce::default(), text)
            .ok()?;
        let key = Zeroizing::new(key);
        Some(HourKey(XChaCha20Poly1305::new_from_slice(&key).ok()?))
    }
}

impl fmt::Debug for RecordSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordSecret({})", self.key())
    }
}

impl RecordKey {
    /// A fresh key for an hour, and itself sealed: only the secret opens it again.
    pub(super) fn new_hour(&self) -> Option<(HourKey, [u8; SEALED_KEY])> {
        let mut bytes = Zeroizing::new([[0; 32]; 2]);
        OsRng.fill_bytes(bytes.as_flattened_mut());
        let ephemeral = StaticSecret::from(bytes[0]);
        let public = PublicKey::from(&ephemeral);
        let shared = ephemeral.diffie_hellman(&PublicKey::from(self.0.0));
        let text = cipher(shared.as_bytes(), &public, self)
            .encrypt(&XNonce::default(), bytes[1].as_slice())
            .ok()?;
        let mut sealed = [0; SEALED_KEY];
        sealed[..32].copy_from_slice(public.as_bytes());
        sealed[32..].copy_from_slice(&text);
        Some((HourKey(XChaCha20Poly1305::new(&bytes[1].into())), sealed))
    }
}

/// One key seals one text: the nonce may be zero.
fn cipher(shared: &[u8; 32], ephemeral: &PublicKey, to: &RecordKey) -> XChaCha20Poly1305 {
    let parts = [LABEL, shared, ephemeral.as_bytes(), to.0.as_slice()];
    let material = Zeroizing::new(parts.concat());
    XChaCha20Poly1305::new(&keccak256(material.as_slice()).0.into())
}

impl HourKey {
    pub(super) fn seal(&self, number: u64, text: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(&nonce(number), text).ok()
    }

    pub(super) fn unseal(&self, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(&nonce(number), sealed).ok()
    }
}

fn nonce(number: u64) -> XNonce {
    let mut nonce = XNonce::default();
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    nonce
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for RecordKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is no record key; `ipsx disclose --new-key FILE` prints one")
        })
    }
}
