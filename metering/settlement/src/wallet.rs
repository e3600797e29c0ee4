//! Keys: the wallet that owns the deposit, and the sub-keys derived from it.

use alloy_primitives::{Address, B256, keccak256};
use ethers_signers::LocalWallet;
use ipsx_metering::{SecretKey, Signature};
use zeroize::Zeroizing;

/// Whoever can sign: a wallet here, a hardware or remote one elsewhere.
pub trait Signer: Send + Sync {
    /// The signer's address.
    fn address(&self) -> Address;
    /// Signs 32 bytes; the result has a low `s` and a `v` of 27 or 28.
    fn sign_hash(&self, hash: B256) -> Signature;
}

/// A private key in memory. Erased when dropped; never printed.
///
/// The key lives in the wallet library's type; signing goes through libsecp256k1, which is several times faster
/// and gives the same deterministic signatures (RFC 6979).
pub struct Wallet {
    inner: LocalWallet,
    key: SecretKey,
}

impl Wallet {
    /// A new key from the operating system's randomness.
    pub fn random() -> Self {
        Self::from_local(LocalWallet::new(&mut rand::rngs::OsRng))
    }

    /// The wallet of a private key, or `None` if the bytes are zero or not below the curve's order.
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        LocalWallet::from_bytes(secret).ok().map(Self::from_local)
    }

    /// The sub-key with this label: the same for the same wallet and label, and telling nothing about either.
    ///
    /// Used for payout addresses, agent keys and session keys. Whoever holds the wallet can derive them again.
    pub fn derive(&self, label: &[u8]) -> Self {
        // The sponge of keccak has no length extension, so a hash that starts with the secret is a sound PRF.
        let domain = keccak256("ipsx sub-key, version 1");
        let secret = self.secret();
        let mut input = Zeroizing::new(Vec::with_capacity(65 + label.len()));
        input.extend_from_slice(domain.as_slice());
        input.extend_from_slice(secret.as_slice());
        input.push(0);
        input.extend_from_slice(label);
        loop {
            let candidate = Zeroizing::new(keccak256(input.as_slice()).0);
            if let Some(wallet) = Self::from_secret(&candidate) {
                return wallet;
            }
            // A hash that is no valid key has a probability of 2^-128.
            input[64] = input[64].wrapping_add(1);
        }
    }

    /// The private key's bytes, for sealing it or handing it to a signer of another crate.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.inner.signer().to_bytes().into())
    }

    /// The same key as the metering crate's type, to sign its messages.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    pub(crate) fn from_local(inner: LocalWallet) -> Self {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(inner.signer().to_bytes().into());
        let key = SecretKey::from_bytes(&secret).expect("both libraries accept the same keys");
        Self { inner, key }
    }
}

impl Signer for Wallet {
    fn address(&self) -> Address {
        self.key.address()
    }

    fn sign_hash(&self, hash: B256) -> Signature {
        self.key.sign_hash(hash)
    }
}

impl Signer for SecretKey {
    fn address(&self) -> Address {
        SecretKey::address(self)
    }

    fn sign_hash(&self, hash: B256) -> Signature {
        SecretKey::sign_hash(self, hash)
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wallet({})", self.address())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_libraries_agree_on_address_and_signature() {
        let wallet = Wallet::random();
        let hash = keccak256("message");
        let reference = wallet.inner.sign_hash(hash.0.into()).unwrap();
        assert_eq!(wallet.sign_hash(hash).0, <[u8; 65]>::from(reference));
        let address = ethers_signers::Signer::address(&wallet.inner);
        assert_eq!(wallet.address(), Address::from(address.0));
    }

    #[test]
    fn sub_keys_are_reproducible_and_apart() {
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        let again = Wallet::from_secret(&[7; 32]).unwrap();
        assert_eq!(
            wallet.derive(b"agent").address(),
            again.derive(b"agent").address()
        );
        assert_ne!(
            wallet.derive(b"agent").address(),
            wallet.derive(b"session").address()
        );
        let other = Wallet::from_secret(&[8; 32]).unwrap();
        assert_ne!(
            wallet.derive(b"agent").address(),
            other.derive(b"agent").address()
        );
        // Frozen: a change would lose the payout addresses of every provider.
        assert_eq!(
            wallet.derive(b"agent").address().to_string(),
            "0x723EB3dAe8D238cCAa1914E3527a88F6e4a34182"
        );
    }

    #[test]
    fn the_secret_is_not_printed() {
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        assert_eq!(
            format!("{wallet:?}"),
            format!("Wallet({})", wallet.address())
        );
    }
}
