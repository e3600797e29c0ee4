//! The wallet on disk: an encrypted JSON keystore (Web3 Secret Storage, version 3, scrypt).

mod seal;
#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests;
mod unseal;

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::seal::seal;
use self::unseal::{check_private, unseal};
use crate::{Phrase, Wallet};

/// The cipher of the format's version 3.
type Aes128Ctr = ctr::Ctr128BE<aes::Aes128>;

/// What a keystore is sealed with. Erased when dropped; never printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
}

impl From<Zeroizing<String>> for Passphrase {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// How much work it is to try a passphrase. Reading takes whatever the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// scrypt with N = 2^17, r = 8, p = 1: 128 MiB and half a second, as go-ethereum does.
    #[default]
    Standard,
    /// N = 2^13: for keys that are worth nothing, such as a demo's.
    Quick,
}

impl Sealing {
    const fn log_n(self) -> u8 {
        match self {
            Self::Standard => 17,
            Self::Quick => 13,
        }
    }
}

/// A keystore could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The passphrase is not the one that sealed it.
    #[error("wrong passphrase for the wallet {}", .0.display())]
    WrongPassphrase(PathBuf),
    /// There is a file already; it is never overwritten.
    #[error("{} exists already and is left as it is. Choose another path, or move it away", .0.display())]
    Exists(PathBuf),
    /// There is no such file.
    #[error("there is no wallet at {}. Create one with `ipsx wallet new`", .0.display())]
    Missing(PathBuf),
    /// Not a keystore that can be read.
    #[error("{} is no wallet file: {reason}. Restore it from a copy", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a private key.
    #[error(
        "this is no private key: expected 64 hex digits, not all zero, below the curve's order"
    )]
    NotAKey,
    /// Not a phrase.
    #[error(
        "this is no recovery phrase: expected 12, 15, 18, 21 or 24 English words of BIP-39 whose checksum holds; look for a misspelt or misplaced word"
    )]
    NotAPhrase,
    /// Others can read or write the file.
    #[error(
        "{} can be read by others (mode {mode:03o}). Run `chmod 600` on it, and move the funds if it was exposed",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Wallet {
    /// Draws a new key and seals it into `path`, which must not exist; missing folders are made, private to the user.
    pub fn create(path: &Path, passphrase: &Passphrase) -> Result<Self, KeystoreError> {
        Self::create_sealed(path, passphrase, Sealing::Standard)
    }

    /// The same, with a choice of how hard trying passphrases is.
    pub fn create_sealed(
        path: &Path,
        passphrase: &Passphrase,
        sealing: Sealing,
    ) -> Result<Self, KeystoreError> {
        let wallet = Self::random();
        seal(&wallet, path, passphrase, sealing)?;
        Ok(wallet)
    }

    /// Seals the first account of a recovery phrase into `path`, which must not exist.
    pub fn import_phrase(
        path: &Path,
        phrase: &Phrase,
        passphrase: &Passphrase,
    ) -> Result<Self, KeystoreError> {
        let wallet = phrase.wallet()?;
        seal(&wallet, path, passphrase, Sealing::Standard)?;
        Ok(wallet)
    }

    /// Seals a private key (64 hex digits, with or without 0x) into `path`, which must not exist.
    pub fn import_key(
        path: &Path,
        private_key: &str,
        passphrase: &Passphrase,
    ) -> Result<Self, KeystoreError> {
        let text = private_key.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, secret.as_mut_slice()).map_err(|_| KeystoreError::NotAKey)?;
        let wallet = Self::from_secret(&secret).ok_or(KeystoreError::NotAKey)?;
        seal(&wallet, path, passphrase, Sealing::Standard)?;
        Ok(wallet)
    }

    /// Copies the key of another keystore into `path`, which must not exist, sealed with its own passphrase.
    pub fn import_keystore(
        path: &Path,
        from: &Path,
        from_passphrase: &Passphrase,
        passphrase: &Passphrase,
    ) -> Result<Self, KeystoreError> {
        let wallet = unseal(from, from_passphrase)?;
        seal(&wallet, path, passphrase, Sealing::Standard)?;
        Ok(wallet)
    }

    /// Reads the key from its keystore, which nobody else may be able to read.
    pub fn open(path: &Path, passphrase: &Passphrase) -> Result<Self, KeystoreError> {
        check_private(path)?;
        unseal(path, passphrase)
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KeystoreError + 'a {
    move |source| KeystoreError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}
