//! The mistakes that people make first: each gets one clear line, its own exit code, and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipsx_tests::market::{Market, Wallet};
use ipsx_tests::program::{Finished, Program, built};

const LIMIT: Duration = Duration::from_secs(40);
const OFFER: [&str; 4] = [
    "--price-per-second",
    "0.001",
    "--allow",
    "127.0.0.1/32:tcp/*",
];

fn finish(command: &mut Command) -> Finished {
    Program::start("ipsx", command).finish(LIMIT)
}

/// Checks the exit code, and that standard error is one line which contains each of the words.
fn assert_says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:#?}");
    let errors: Vec<_> = finished
        .stderr
        .lines()
        .filter(|l| l.starts_with("error:"))
        .collect();
    assert_eq!(errors.len(), 1, "one line that says error: {finished:#?}");
    for word in words {
        assert!(
            errors[0].contains(word),
            "{word:?} is missing from {:?}",
            errors[0]
        );
    }
}

fn market_with_provider() -> (Market, Wallet, Program) {
    let mut market = Market::on_loopback();
    let provider = market.wallet("provider");
    let requester = market.wallet("requester");
    market.start_broker();
    let running = market.start_provider(&provider, "127.0.1.1", &OFFER);
    market.run(&requester, &["deposit", "10"]);
    (market, requester, running)
}

fn connect(market: &Market, wallet: &Wallet, words: &str) -> Finished {
    let mut command = market.connect(wallet, words);
    finish(command.args(["--duration", "10s"]))
}

#[test]
fn a_request_that_cannot_be_filled_says_why_and_costs_nothing() {
    let (market, requester, _provider) = market_with_provider();
    let before = market.run(&requester, &["wallet", "show"]);

    let elsewhere = connect(&market, &requester, "--budget 1 --country BR");
    assert_says(&elsewhere, 5, &["BR"]);
    let cheap = "--budget 1 --max-price-per-second 0.0001";
    assert_says(&connect(&market, &requester, cheap), 6, &["0.001"]);
    let much = connect(&market, &requester, "--budget 500");
    assert_says(&much, 7, &["deposit"]);
    let unknown = connect(&market, &requester, "--budget 1 --country ZZ");
    assert_eq!(unknown.code, Some(2), "{unknown:#?}");
    assert!(unknown.stderr.contains("ZZ"), "{unknown:#?}");

    assert_eq!(market.run(&requester, &["wallet", "show"]), before);
    let leases = market.run(&requester, &["leases", "--all"]);
    assert_eq!(
        leases["leases"].as_array().map(Vec::len),
        Some(0),
        "{leases}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let (market, requester, _provider) = market_with_provider();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let words = [
        "connect",
        "--budget",
        "1",
        "--duration",
        "10s",
        "--proxy",
        &address,
    ];
    let proxy = finish(&mut market.ipsx(&requester.data, &words));
    assert_says(&proxy, 8, &[&address]);
    let leases = market.run(&requester, &["leases", "--all"]);
    assert_eq!(
        leases["leases"].as_array().map(Vec::len),
        Some(0),
        "nothing was leased: {leases}"
    );

    let broker = finish(
        built("ipsx-broker")
            .arg("--data-dir")
            .arg(market.path().join("second"))
            .args(["--http-listen", &address, "--agents-listen", "127.0.0.1:0"]),
    );
    assert_eq!(broker.code, Some(3), "{broker:#?}");
    assert!(broker.stderr.contains(&address), "{broker:#?}");
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let mut market = Market::on_loopback();
    let wallet = market.wallet("someone");
    fs::write(market.path().join("passphrase"), "something else\n").unwrap();
    let finished = finish(&mut market.ipsx(&wallet.data, &["wallet", "show"]));
    // Showing the address needs no passphrase; spending does.
    assert!(matches!(finished.code, Some(0 | 3 | 4)), "{finished:#?}");
    market.start_broker();
    let finished = finish(&mut market.ipsx(&wallet.data, &["deposit", "1"]));
    assert_says(&finished, 3, &["passphrase"]);
}

#[test]
fn a_wallet_is_never_overwritten() {
    let mut market = Market::on_loopback();
    let wallet = market.wallet("someone");
    let files = |folder: &Path| {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        all.sort();
        all.into_iter()
            .filter(|f| f.is_file())
            .map(|f| (f.clone(), fs::read(f).unwrap()))
            .collect::<Vec<_>>()
    };
    let before = files(&wallet.data);
    let finished = finish(&mut market.ipsx(&wallet.data, &["wallet", "new"]));
    assert_says(&finished, 3, &["exists"]);
    assert_eq!(files(&wallet.data), before);
}

#[test]
fn an_unreadable_configuration_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    fs::write(&config, "broker = 7\n").unwrap();
    let finished = finish(built("ipsx").arg("--config").arg(&config).arg("search"));
    assert_says(&finished, 2, &["broker"]);

    fs::write(&config, "http_listen = \"nonsense\"\n").unwrap();
    let finished = finish(built("ipsx-broker").arg("--config").arg(&config));
    assert_eq!(finished.code, Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("http"), "{finished:#?}");
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{closed}");
    let finished = finish(
        built("ipsx")
            .arg("--data")
            .arg(folder.path())
            .args(["--broker", &url, "search"]),
    );
    assert_says(&finished, 4, &[&closed.to_string()]);
}

#[test]
fn help_names_every_command_in_manual_pages_and_completions() {
    let help = finish(built("ipsx").arg("--help")).stdout.join("\n");
    let page = finish(built("ipsx").arg("man")).stdout.join("\n");
    let script = finish(built("ipsx").args(["completions", "bash"]))
        .stdout
        .join("\n");
    for command in [
        "wallet", "provide", "search", "deposit", "connect", "leases", "settle", "withdraw", "demo",
    ] {
        for text in [&help, &page, &script] {
            assert!(text.contains(command), "{command}");
        }
        let own = finish(built("ipsx").args(["man", command]));
        assert_eq!(own.code, Some(0), "{own:#?}");
    }
    assert_says(
        &finish(built("ipsx").args(["man", "nonsense"])),
        2,
        &["nonsense"],
    );
}
