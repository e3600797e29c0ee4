//! Writing a keystore: sealed, private to the user, whole or not at all, and never in the place of another.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::Path;

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::keccak256;
use rand::RngCore;
use rand::rngs::OsRng;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Aes128Ctr, KeystoreError, Passphrase, Sealing, io_error};
use crate::Wallet;

/// Seals a wallet into `path`, which must not exist.
pub(super) fn seal(
    wallet: &Wallet,
    path: &Path,
    passphrase: &Passphrase,
    sealing: Sealing,
) -> Result<(), KeystoreError> {
    if path.symlink_metadata().is_ok() {
        return Err(KeystoreError::Exists(path.to_path_buf()));
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_private_folder(parent)?;
    // Written in a folder that only the user can enter, then linked into place: a reader sees all of it or nothing,
    // and a link, unlike a rename, never replaces a file.
    let staging = tempfile::Builder::new()
        .prefix(".wallet-")
        .tempdir_in(parent)
        .map_err(io_error("make a folder in", parent))?;
    set_mode(staging.path(), 0o700)?;
    let staged = staging.path().join("keystore");
    copy_new(encrypt(wallet, passphrase, sealing).as_bytes(), &staged)?;
    match fs::hard_link(&staged, path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeystoreError::Exists(path.to_path_buf()));
        }
        // Some file systems have no links: then only the exclusive creation guards what exists.
        Err(_) => copy_exclusively(&staged, path)?,
    }
    let folder = File::open(parent).map_err(io_error("open", parent))?;
    folder.sync_all().map_err(io_error("write", parent))
}

/// The keystore's text: Web3 Secret Storage, version 3, scrypt and AES-128-CTR.
fn encrypt(wallet: &Wallet, passphrase: &Passphrase, sealing: Sealing) -> String {
    let (mut salt, mut iv, mut id) = ([0; 32], [0; 16], [0; 16]);
    for random in [salt.as_mut_slice(), &mut iv, &mut id] {
        OsRng.fill_bytes(random);
    }
    let params = scrypt::Params::new(sealing.log_n(), 8, 1).expect("the cost is in scrypt's range");
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(passphrase.0.as_bytes(), &salt, &params, key.as_mut_slice())
        .expect("32 bytes are a length that scrypt gives");
    let (cipher_key, mac_key) = key.split_at(16);
    let mut text = wallet.secret();
    Aes128Ctr::new_from_slices(cipher_key, &iv)
        .expect("key and counter have AES-128's lengths")
        .apply_keystream(text.as_mut_slice());
    // Version 4, variant 1 (RFC 9562).
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let id = hex::encode(id);
    json!({
        "version": 3,
        "id": format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]),
        "address": hex::encode(crate::Signer::address(wallet)),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": hex::encode(iv) },
            "ciphertext": hex::encode(text.as_slice()),
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32, "n": 1_u32 << sealing.log_n(), "r": 8, "p": 1, "salt": hex::encode(salt)
            },
            "mac": hex::encode(keccak256([mac_key, text.as_slice()].concat())),
        }
    })
    .to_string()
}

fn copy_exclusively(from: &Path, to: &Path) -> Result<(), KeystoreError> {
    let content = Zeroizing::new(fs::read(from).map_err(io_error("read", from))?);
    copy_new(&content, to)
}

/// Writes a file that must not exist, private to the user, to the disk.
fn copy_new(content: &[u8], to: &Path) -> Result<(), KeystoreError> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(to).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => KeystoreError::Exists(to.to_path_buf()),
        _ => io_error("create", to)(e),
    })?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // A half-written wallet would be taken for a real one.
        let _ = fs::remove_file(to);
        return Err(io_error("write", to)(e));
    }
    Ok(())
}

fn make_private_folder(folder: &Path) -> Result<(), KeystoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(io_error("create the folder", folder))
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<(), KeystoreError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error("protect", path))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> Result<(), KeystoreError> {
    Ok(())
}
