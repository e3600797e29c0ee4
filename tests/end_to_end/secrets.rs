//! Keys, phrases and passphrases are in no output, log, record or error text, and no crash writes them to a disk.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipsx_tests::program::{Finished, Program, built};

const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
const PHRASE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const PASSPHRASE: &str = "only-this-test-knows-it";
const FILES: [&str; 5] = ["key", "phrase", "passphrase", "bad-key", "bad-phrase"];

fn ipsx(folder: &Path, data: &str, words: &[&str]) -> Finished {
    let mut command = built("ipsx");
    command
        .args(["-vvv", "--broker", "http://127.0.0.1:9", "--data"])
        .arg(folder.join(data))
        .args(words)
        .env("RUST_LOG", "trace")
        .env("IPSX_PASSPHRASE", PASSPHRASE);
    Program::start("ipsx", &mut command).finish(LIMIT)
}

/// Everything that must not be seen: the key, the words side by side, the passphrase, and a bad key's digits.
fn secrets() -> Vec<String> {
    let mut all = vec![
        KEY.to_string(),
        KEY.to_uppercase(),
        PASSPHRASE.to_string(),
        KEY[..40].to_string(),
    ];
    let words: Vec<_> = PHRASE.split(' ').collect();
    all.extend(words.windows(2).map(|pair| pair.join(" ")));
    all
}

fn assert_clean(what: &str, text: &str) {
    for secret in secrets() {
        assert!(!text.contains(&secret), "{secret:?} is in {what}: {text}");
    }
}

#[test]
fn no_output_log_or_file_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let contents = [
        KEY,
        PHRASE,
        PASSPHRASE,
        &KEY[..62],
        &PHRASE.replace("yellow", "yelow"),
    ];
    for (name, content) in FILES.iter().zip(contents) {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (key, phrase) = (file("key"), file("phrase"));
    let (bad_key, bad_phrase, wrong) = (file("bad-key"), file("bad-phrase"), file("key"));
    let runs: [(&str, &[&str], i32); 8] = [
        ("one", &["wallet", "import", "--key", &key], 0),
        ("two", &["wallet", "import", "--phrase-file", &phrase], 0),
        ("one", &["wallet", "show"], 0),
        ("two", &["--json", "wallet", "show"], 0),
        ("one", &["--passphrase-file", &wrong, "wallet", "show"], 3),
        ("three", &["wallet", "import", "--key", &bad_key], 3),
        (
            "three",
            &["wallet", "import", "--phrase-file", &bad_phrase],
            3,
        ),
        ("three", &["wallet", "new", "--phrase"], 3),
    ];
    for (data, words, code) in runs {
        let finished = ipsx(folder.path(), data, words);
        assert_eq!(finished.code, Some(code), "{words:?}: {finished:#?}");
        assert_clean(
            &format!("the output of {words:?}"),
            &format!("{finished:?}"),
        );
    }
    // What was written: the keystores alone, sealed.
    for data in ["one", "two"] {
        let wallet = fs::read_to_string(folder.path().join(data).join("wallet.json")).unwrap();
        assert_clean("the keystore", &wallet);
        assert!(wallet.contains("131072"), "{wallet}");
    }
    assert!(!folder.path().join("three/wallet.json").exists());
}

/// The limits of a program that waits for a key, as the kernel has them.
#[test]
#[cfg(target_os = "linux")]
fn a_program_that_holds_a_key_leaves_no_core() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("passphrase"), PASSPHRASE).unwrap();
    let mut command: Command = built("ipsx");
    let mut waiting = command
        .arg("--data")
        .arg(folder.path())
        .arg("--passphrase-file")
        .arg(folder.path().join("passphrase"))
        .args(["wallet", "import", "--key", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", waiting.id());
    let begun = Instant::now();
    let mut core = String::new();
    while begun.elapsed() < LIMIT {
        let text = fs::read_to_string(&limits).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        core = line
            .unwrap()
            .split_whitespace()
            .skip(4)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        if core == "0 0" {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    assert_eq!(core, "0 0");
}
