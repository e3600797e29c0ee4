//! Keystores on a real disk, of this program and of others.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::*;
use crate::Signer;

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
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
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

/// Written by other programs for the key 0x0707…: ethers (N = 2^17, with its own spelling of the field), and
/// ethereumjs, whose reader MetaMask's import is and whose costs are those of go-ethereum (N = 2^18, r = 8).
#[test]
fn keystores_of_other_wallets_are_imported() {
    let ethers = r#"{"address":"4a62316623ad457f02cdc5d997ded67a383ec569","id":"bd594bfe-7ea4-42ab-9c09-6c312afd9246","version":3,
            "Crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"c5c8c45bd622488519ae08fedcdb01f8"},
            "ciphertext":"73d290e36a97922e8235c1b0e38ff604f2360abbcb4f2326aed744c03bc59ef2","kdf":"scrypt",
            "kdfparams":{"salt":"d43cd020aabd231290ce5cd047fba3b55b7a31a78fc51c6c50a1d8e72fb8568c","n":131072,"dklen":32,
            "p":1,"r":8},"mac":"2ffcc5f7d51300257530cb51299c380756eefac7adaa5e7c051fa378a8300b4c"}}"#;
    let ethereumjs = r#"{"version":3,"id":"5c1223d9-4074-4fdf-864f-a904e3d9395a","address":"4a62316623ad457f02cdc5d997ded67a383ec569",
            "crypto":{"ciphertext":"86eb91b403ea528c1c22f1aa2bb444526b1286c2582525e46548bfdfab552927",
            "cipherparams":{"iv":"b3932dc805e3bbdc2e2877b9f3f89edd"},"cipher":"aes-128-ctr","kdf":"scrypt",
            "kdfparams":{"dklen":32,"salt":"8a294e0866912f415a5aff3215b8e9e84be1a65da9598f80c8602b35c821e020","n":262144,
            "p":1,"r":8},"mac":"a4809969c5790e573769517d7daf482bda43f0c4bdc94fe755aefab70bd3c30f"}}"#;
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
    for text in [ethers, ethereumjs] {
        fs::write(&theirs, text).unwrap();
        let import = |secret| {
            let passphrase = Passphrase::new("another");
            Wallet::import_keystore(&ours, &theirs, &Passphrase::new(secret), &passphrase)
        };
        assert!(matches!(
            import("wrong horse"),
            Err(KeystoreError::WrongPassphrase(_))
        ));
        assert!(!ours.exists());
        let wallet = import("correct horse").unwrap();
        assert_eq!(wallet.secret().as_slice(), [7; 32]);
        fs::remove_file(&ours).unwrap();
    }
}
