//! The wallet on disk: an encrypted JSON keystore (Web3 Secret Storage, version 3, scrypt).

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::keccak256;
use ethers_signers::{LocalWallet, WalletError};
use rand::RngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{Phrase, Wallet};

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

fn seal(
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

fn unseal(path: &Path, passphrase: &Passphrase) -> Result<Wallet, KeystoreError> {
    let text = fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => KeystoreError::Missing(path.to_path_buf()),
        _ => io_error("read", path)(e),
    })?;
    check_shape(&text).map_err(|reason| KeystoreError::Malformed {
        path: path.to_path_buf(),
        reason,
    })?;
    LocalWallet::decrypt_keystore(path, passphrase.0.as_bytes())
        .map(Wallet::from_local)
        .map_err(|e| wallet_error(e, "read", path))
}

/// The keystore library panics on fields of the wrong length; this says no before.
fn check_shape(text: &str) -> Result<(), String> {
    let keystore: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    // Other tools write the key in either case.
    let crypto = match &keystore["crypto"] {
        Value::Null => &keystore["Crypto"],
        crypto => crypto,
    };
    for (field, wanted) in [("ciphertext", 32), ("mac", 32)] {
        let found = hex_length(&crypto[field]);
        if found != Some(wanted) {
            return Err(format!("{field} should be {wanted} bytes of hex"));
        }
    }
    if hex_length(&crypto["cipherparams"]["iv"]) != Some(16) {
        return Err("cipherparams.iv should be 16 bytes of hex".into());
    }
    // More would be a file that was made to use up memory: 2^20 with r = 8 takes a gigabyte.
    let params = &crypto["kdfparams"];
    let within = |name: &str, most: u64| {
        params[name]
            .as_u64()
            .is_none_or(|n| (1..=most).contains(&n))
    };
    if !within("n", 1 << 20) || !within("r", 8) || !within("p", 16) || !within("c", 10_000_000) {
        return Err(
            "kdfparams ask for more work than any wallet's: n up to 2^20, r 8, p 16, c 10^7".into(),
        );
    }
    if params["dklen"].as_u64() != Some(32) {
        return Err("kdfparams.dklen should be 32".into());
    }
    Ok(())
}

fn hex_length(value: &Value) -> Option<usize> {
    hex::decode(value.as_str()?).ok().map(|bytes| bytes.len())
}

fn wallet_error(error: WalletError, action: &'static str, path: &Path) -> KeystoreError {
    match error {
        WalletError::EthKeystoreError(eth_keystore::KeystoreError::MacMismatch) => {
            KeystoreError::WrongPassphrase(path.to_path_buf())
        }
        WalletError::EthKeystoreError(eth_keystore::KeystoreError::StdIo(reason)) => {
            io_error(action, path)(io::Error::other(reason))
        }
        other => KeystoreError::Malformed {
            path: path.to_path_buf(),
            reason: other.to_string(),
        },
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KeystoreError + 'a {
    move |source| KeystoreError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
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

#[cfg(unix)]
fn check_private(path: &Path) -> Result<(), KeystoreError> {
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
fn set_mode(_path: &Path, _mode: u32) -> Result<(), KeystoreError> {
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_path: &Path) -> Result<(), KeystoreError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Signer;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_wallet_is_private_and_opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/deep/wallet.json");
        let wallet = Wallet::create(&path, &Passphrase::new("correct")).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let opened = Wallet::open(&path, &Passphrase::new("correct")).unwrap();
        assert_eq!(opened.address(), wallet.address());
        assert!(matches!(
            Wallet::open(&path, &Passphrase::new("wrong")),
            Err(KeystoreError::WrongPassphrase(_))
        ));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "the staging folder is gone");
    }

    /// The two examples of the storage's definition. That of scrypt has a cost that RFC 7914 forbids (N must be below
    /// 2^(16 r)): no wallet writes such files, and they are refused rather than guessed at.
    #[test]
    fn the_definitions_own_examples_are_read_as_far_as_the_rfc_goes() {
        let dir = tempfile::tempdir().unwrap();
        let scrypt = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
            "kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,
            "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
            "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let pbkdf2 = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",
            "kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
            "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
            "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let path = dir.path().join("theirs.json");
        let open = |text: &str| {
            fs::write(&path, text).unwrap();
            set_mode(&path, 0o600).unwrap();
            Wallet::open(&path, &Passphrase::new("testpassword"))
        };
        let known = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        let wallet = open(pbkdf2).unwrap();
        assert_eq!(hex::encode(wallet.secret().as_slice()), known);
        assert!(matches!(open(scrypt), Err(KeystoreError::Malformed { .. })));
    }

    #[test]
    fn a_wallet_of_value_is_sealed_as_hard_as_go_ethereums() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.json");
        Wallet::create(&path, &Passphrase::new("x")).unwrap();
        let keystore: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(keystore["crypto"]["kdfparams"]["n"], 131_072);
        assert_eq!(keystore["crypto"]["kdfparams"]["r"], 8);
    }

    #[test]
    fn a_phrase_is_sealed_and_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.json");
        let phrase = Phrase::random();
        let wallet = Wallet::import_phrase(&path, &phrase, &Passphrase::new("x")).unwrap();
        let opened = Wallet::open(&path, &Passphrase::new("x")).unwrap();
        assert_eq!(opened.address(), wallet.address());
        assert_eq!(phrase.wallet().unwrap().address(), wallet.address());
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.json");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Wallet::create(&path, &Passphrase::new("x")),
            Err(KeystoreError::Exists(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn keys_and_keystores_are_imported() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first.json");
        let key = "0x".to_string() + &"07".repeat(32);
        let wallet = Wallet::import_key(&first, &key, &Passphrase::new("a")).unwrap();
        assert_eq!(
            wallet.address(),
            Wallet::from_secret(&[7; 32]).unwrap().address()
        );
        let second = dir.path().join("second.json");
        Wallet::import_keystore(
            &second,
            &first,
            &Passphrase::new("a"),
            &Passphrase::new("b"),
        )
        .unwrap();
        let opened = Wallet::open(&second, &Passphrase::new("b")).unwrap();
        assert_eq!(opened.address(), wallet.address());
        for bad in ["", "07", &"00".repeat(32), &"ff".repeat(32), "not hex"] {
            let path = dir.path().join("third.json");
            assert!(matches!(
                Wallet::import_key(&path, bad, &Passphrase::new("a")),
                Err(KeystoreError::NotAKey)
            ));
            assert!(!path.exists());
        }
    }

    #[test]
    fn unreadable_wallets_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.json");
        let passphrase = Passphrase::new("x");
        assert!(matches!(
            Wallet::open(&path, &passphrase),
            Err(KeystoreError::Missing(_))
        ));
        Wallet::create(&path, &passphrase).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Wallet::open(&path, &passphrase),
            Err(KeystoreError::Exposed { mode: 0o644, .. })
        ));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let short = good.replace("\"ciphertext\":\"", "\"ciphertext\":\"00");
        let greedy = good.replace("\"n\":131072", "\"n\":2147483648");
        assert_ne!(greedy, good);
        for bad in ["", "{}", &good[..good.len() / 2], &short, &greedy] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(
                Wallet::open(&path, &passphrase),
                Err(KeystoreError::Malformed { .. })
            ));
        }
    }
}
