//! Reading a keystore, of this program or another one: scrypt or PBKDF2, and AES-128-CTR.

use std::fs;
use std::io;
use std::path::Path;

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::{B256, keccak256};
use hmac::Hmac;
use serde::Deserialize;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Aes128Ctr, KeystoreError, Passphrase, io_error};
use crate::Wallet;

/// The parts of the file that are read. Some programs spell the field with a capital.
#[derive(Deserialize)]
struct Keystore {
    version: u32,
    #[serde(alias = "Crypto")]
    crypto: Sealed,
}

#[derive(Deserialize)]
struct Sealed {
    cipher: String,
    cipherparams: Counter,
    ciphertext: String,
    #[serde(flatten)]
    kdf: Kdf,
    mac: B256,
}

#[derive(Deserialize)]
struct Counter {
    iv: String,
}

/// How the passphrase becomes a key.
#[derive(Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt {
        dklen: u32,
        n: u32,
        r: u32,
        p: u32,
        salt: String,
    },
    Pbkdf2 {
        dklen: u32,
        c: u32,
        prf: String,
        salt: String,
    },
}

/// Opens the keystore at `path`.
pub(super) fn unseal(path: &Path, passphrase: &Passphrase) -> Result<Wallet, KeystoreError> {
    let text = fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KeystoreError::Missing(path.to_path_buf()),
        _ => io_error("read", path)(e),
    })?;
    match open(&text, passphrase) {
        Ok(Some(wallet)) => Ok(wallet),
        Ok(None) => Err(KeystoreError::WrongPassphrase(path.to_path_buf())),
        Err(reason) => Err(KeystoreError::Malformed {
            path: path.to_path_buf(),
            reason,
        }),
    }
}

/// `None` for a wrong passphrase.
fn open(text: &str, passphrase: &Passphrase) -> Result<Option<Wallet>, String> {
    let keystore: Keystore = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let sealed = keystore.crypto;
    if keystore.version != 3 || sealed.cipher != "aes-128-ctr" {
        let (version, cipher) = (keystore.version, sealed.cipher);
        return Err(format!(
            "it is of version {version} with {cipher}; version 3 with aes-128-ctr can be read"
        ));
    }
    let mut secret = Zeroizing::new([0; 32]);
    let mut iv = [0; 16];
    hex::decode_to_slice(&sealed.ciphertext, secret.as_mut_slice())
        .map_err(|_| "ciphertext should be 32 bytes of hex")?;
    hex::decode_to_slice(&sealed.cipherparams.iv, &mut iv)
        .map_err(|_| "cipherparams.iv should be 16 bytes of hex")?;
    let key = sealed.kdf.key(passphrase)?;
    let (cipher_key, mac_key) = key.split_at(16);
    if keccak256([mac_key, secret.as_slice()].concat()) != sealed.mac {
        return Ok(None);
    }
    Aes128Ctr::new_from_slices(cipher_key, &iv)
        .map_err(|e| e.to_string())?
        .apply_keystream(secret.as_mut_slice());
    let wallet = Wallet::from_secret(&secret).ok_or("what it seals is no private key")?;
    Ok(Some(wallet))
}

impl Kdf {
    /// Costs beyond any wallet's are refused: they would be a file that was made to use up memory or time. 2^20 with
    /// r = 8 takes a gigabyte.
    fn key(&self, passphrase: &Passphrase) -> Result<Zeroizing<[u8; 32]>, String> {
        let mut key = Zeroizing::new([0; 32]);
        let (secret, length) = (passphrase.0.as_bytes(), "kdfparams.dklen should be 32");
        let salt = |text: &str| hex::decode(text).map_err(|_| "kdfparams.salt should be hex");
        match self {
            Self::Scrypt {
                dklen: 32,
                n,
                r,
                p,
                salt: text,
            } => {
                let costs =
                    (2..=1 << 20).contains(n) && (1..=8).contains(r) && (1..=16).contains(p);
                if !costs || !n.is_power_of_two() {
                    return Err(
                        "kdfparams should be n a power of two up to 2^20, r up to 8, p up to 16"
                            .into(),
                    );
                }
                let log_n = n.trailing_zeros().try_into().unwrap_or(u8::MAX);
                let params = scrypt::Params::new(log_n, *r, *p).map_err(|_| {
                    format!(
                        "kdfparams n = {n} with r = {r} is no scrypt (RFC 7914: n below 2^(16 r))"
                    )
                })?;
                scrypt::scrypt(secret, &salt(text)?, &params, key.as_mut_slice())
                    .map_err(|e| e.to_string())?;
            }
            Self::Pbkdf2 {
                dklen: 32,
                c,
                prf,
                salt: text,
            } => {
                if !(1..=10_000_000).contains(c) || prf != "hmac-sha256" {
                    return Err("kdfparams should be c up to 10^7 and prf hmac-sha256".into());
                }
                pbkdf2::pbkdf2::<Hmac<Sha256>>(secret, &salt(text)?, *c, key.as_mut_slice());
            }
            _ => return Err(length.into()),
        }
        Ok(key)
    }
}

/// That nobody else can read or write the file.
#[cfg(unix)]
pub(super) fn check_private(path: &Path) -> Result<(), KeystoreError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KeystoreError::Missing(path.to_path_buf()),
        _ => io_error("read", path)(e),
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Exposed {
            path: path.to_path_buf(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn check_private(_path: &Path) -> Result<(), KeystoreError> {
    Ok(())
}
