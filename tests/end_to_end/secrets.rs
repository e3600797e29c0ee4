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

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipsx_metering::{Address, NetworkId};
use ipsx_settlement::{Passphrase, Signer, Wallet as Key};
use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::{Finished, Program, built};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
const PHRASE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const PASSPHRASE: &str = "only-this-test-knows-it";
/// What seals the wallets of every [`Market`].
const MARKET_PASSPHRASE: &str = "correct horse battery staple";
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

/// A secret in every form in which it could be written down by mistake.
fn written(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<_> = secret.iter().map(u8::to_string).collect();
    vec![
        hex.to_uppercase(),
        hex,
        numbers.join(", "),
        numbers.join(","),
        BASE64_STANDARD.encode(secret),
    ]
}

/// The wallets of a market and what is derived from them for a lease, as the programs do it.
fn keys_of(market: &Market, provider: &Wallet, requester: &Wallet) -> Vec<(String, Vec<u8>)> {
    let open =
        |path: &Path, passphrase: &str| Key::open(path, &Passphrase::new(passphrase)).unwrap();
    let lender = open(&provider.data.join("wallet.json"), MARKET_PASSPHRASE);
    let tenant = open(&requester.data.join("wallet.json"), MARKET_PASSPHRASE);
    let broker = market.path().join("broker");
    // Drawn by the broker itself for its own chain.
    let drawn = fs::read_to_string(broker.join("operator.passphrase")).unwrap();
    let operator = open(&broker.join("operator.json"), drawn.trim());
    let url = format!("http://{}/v1/network", market.http());
    let network = Command::new("curl").args(["-sS", &url]).output().unwrap();
    let network: Value = serde_json::from_slice(&network.stdout).unwrap();
    let network: NetworkId = network["network"].as_str().unwrap().parse().unwrap();
    let with = |kind: &str, other: Address| {
        [kind.as_bytes(), network.0.as_slice(), other.as_slice()].concat()
    };
    let session = [b"session key".as_slice(), network.0.as_slice(), &[0; 4]].concat();
    let named = [
        ("the provider's wallet", lender.secret()),
        ("the requester's wallet", tenant.secret()),
        ("the operator's wallet", operator.secret()),
        (
            "the payout key",
            lender
                .derive(&with("provider payout", tenant.address()))
                .secret(),
        ),
        (
            "the agent key",
            lender
                .derive(&with("provider agent", tenant.address()))
                .secret(),
        ),
        ("the tunnel key", lender.derive(b"provider tunnel").secret()),
        ("the session key", tenant.derive(&session).secret()),
    ];
    named
        .into_iter()
        .map(|(name, secret)| (name.to_string(), secret.to_vec()))
        .collect()
}

/// Every file below a folder, but those that hold a passphrase.
fn files_below(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if !path.to_str().unwrap().ends_with("passphrase") {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// Three programs log all they can through a lease, its claim, its statements and a disclosure.
#[test]
fn a_whole_lease_leaves_no_key_behind() {
    let mut market = Market::new(
        "127.0.0.1",
        &[("127.0.1.1/32", "FR")],
        Box::new(|name| {
            let mut command = built(name);
            command
                .env("RUST_LOG", "trace")
                .env("IPSX_BROKER_LOG", "trace");
            command
        }),
    );
    let [provider, requester] = ["provider", "requester"].map(|name| market.wallet(name));
    market.start_broker();
    let origin = Origin::start("127.0.0.1:0");
    let rule = origin.rule();
    let words = [
        "-vvv",
        "--price-per-second",
        "0.01",
        "--price-per-gib",
        "0.5",
        "--allow",
        &rule,
    ];
    let serving = market.start_provider(&provider, "127.0.1.1", &words);
    let mut said = Vec::new();
    let mut run = |wallet: &Wallet, words: &[&str]| {
        let output = market.ipsx(&wallet.data, words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        said.push((words.join(" "), text.clone()));
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&text)
        );
        text
    };
    run(&requester, &["-vvv", "deposit", "20"]);
    let words = "-vvv --country FR --duration 8s --budget 2";
    let mut connect = Program::start("connect", &mut market.connect(&requester, words));
    assert_eq!(origin.sees(&connect.proxy(SOON)), "127.0.1.1");
    let finished = connect.finish(LIMIT);
    assert_eq!(finished.code, Some(0), "{finished:?}");

    let page = market.path().join("page.html").display().to_string();
    run(&requester, &["-vvv", "--json", "leases", "--all"]);
    run(&requester, &["-vvv", "statement", "--html", &page]);
    run(&requester, &["-vvv", "--json", "statement"]);
    run(&provider, &["-vvv", "--json", "statement", "--provider"]);
    run(&provider, &["-vvv", "settle", "--yes"]);
    run(&provider, &["-vvv", "withdraw", "credits"]);
    run(&requester, &["-vvv", "wallet", "revoke"]);
    serving.signal("INT");
    let served = serving.finish(LIMIT);
    let broker = market.broker.take().unwrap();
    let keys = {
        let keys = keys_of(&market, &provider, &requester);
        broker.signal("INT");
        keys
    };
    let brokered = broker.finish(LIMIT);
    for (name, finished) in [
        ("provide", served),
        ("connect", finished),
        ("ipsx-broker", brokered),
    ] {
        let text = [finished.stdout.join("\n"), finished.stderr].concat();
        // They did log what happened inside them.
        assert!(text.contains("TRACE"), "{name} has not logged: {text}");
        said.push((name.to_string(), text.into_bytes()));
    }
    files_below(market.path(), &mut said);
    let kinds = ["vouchers", ".db", ".json", "page.html", "chain.journal"];
    for kind in kinds {
        assert!(
            said.iter().any(|(name, _)| name.contains(kind)),
            "no {kind} was looked at"
        );
    }
    for (place, bytes) in &said {
        let text = String::from_utf8_lossy(bytes);
        assert!(
            !text.contains(MARKET_PASSPHRASE),
            "the passphrase is in {place}"
        );
        for (key, secret) in &keys {
            let raw = bytes.windows(secret.len()).any(|part| part == secret);
            let text = written(secret).iter().any(|form| text.contains(form));
            assert!(!raw && !text, "{key} is in {place}");
        }
    }
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
