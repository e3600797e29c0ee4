//! schemathesis asks a running broker whether it keeps what docs/openapi.json says, with what the document allows and
//! with what it forbids: no answer is a failure of the broker's, none differs from the document, and memory stays.
//!
//! `tests/run` installs it from `tests/requirements.txt`; without it the test does so itself.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipsx_metering::DealId;
use ipsx_settlement::{Signer, Wallet};
use parties::program::Program;
use parties::{TestAgent, TestRequester};

/// Seconds for the whole interface, and again for the paths of one deal that exists.
const EVERYTHING: u64 = 60;
const ONE_DEAL: u64 = 20;
/// Resident memory that the broker may have gained, in kilobytes: allocators keep some, and answers under idempotency
/// keys are in the store's cache for a while.
const GROWTH: u64 = 96 * 1024;

/// The program, installed if it is missing.
fn schemathesis() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let program = tests.join("venv/bin/schemathesis");
    if !program.exists() {
        let run = |command: &mut Command| {
            let done = command.stdout(Stdio::null()).status();
            let ok = done.is_ok_and(|status| status.success());
            assert!(
                ok,
                "{command:?} failed; ./tests/run installs what the tests need"
            );
        };
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(tests.join("venv")));
        run(Command::new(tests.join("venv/bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(tests.join("requirements.txt")));
    }
    program
}

/// A signed-in requester with a deal that goes on, and the agent that serves it.
async fn parties(program: &Program, wallet: Wallet) -> (TestRequester, TestAgent, DealId) {
    let mut requester = program.funded(wallet, 1_000_000).await;
    let wallet = Wallet::random();
    let mut agent = TestAgent::connect_as(wallet, program.agents, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 4)).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    (requester, agent, deal.id())
}

/// Kilobytes that the process has in memory.
fn resident(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// Asks for so many seconds; `more` goes to the program.
fn ask(requester: &TestRequester, directory: &Path, seconds: u64, more: &[&str]) {
    let token = requester.token.as_ref().unwrap();
    let output = Command::new(schemathesis())
        .current_dir(directory)
        .args(["run", &format!("{}/openapi.json", requester.url)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-time", &seconds.to_string()])
        .args(["--request-timeout", "40", "--workers", "1", "--seed", "1"])
        // The longest that anybody may wait for a deal is 30 s.
        .args(["--checks", "all", "--max-response-time", "35"])
        // What the document allows may still be unsigned, sold out or somebody else's.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // It waits for the end of an answer, and this one has none; tests/events.rs reads it.
        .args(["--exclude-operation-id", "followDeals"])
        .args(["--generation-database", "none", "--no-color"])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_keeps_what_its_document_says() {
    let wallet = Wallet::random();
    let directory = tempfile::tempdir().unwrap();
    let fund = format!("{}=1000", wallet.address());
    let program = Program::start_with(directory.path(), |command| {
        command
            .args(["--fund", &fund])
            .env("IPSX_BROKER_MAX_ADDRESS_REQUESTS_PER_SECOND", "0")
            .env("IPSX_BROKER_MAX_WALLET_REQUESTS_PER_SECOND", "0");
    });
    let (requester, agent, deal) = parties(&program, wallet).await;
    let at_first = resident(&program);
    let (requester, agent) = tokio::task::spawn_blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        ask(&requester, directory.path(), EVERYTHING, &[]);
        let config = format!("[parameters]\n\"path.id\" = \"{deal}\"\n");
        std::fs::write(directory.path().join("schemathesis.toml"), config).unwrap();
        let of_deals = ["--include-path-regex", "/v1/deals/.id."];
        ask(&requester, directory.path(), ONE_DEAL, &of_deals);
        (requester, agent)
    })
    .await
    .unwrap();
    let grown = resident(&program).saturating_sub(at_first);
    println!("{grown} kB more in memory");
    assert!(grown < GROWTH, "{grown} kB more in memory");
    // Everybody else is still served.
    let problem = requester.deal(deal, "").await;
    assert!(problem.is_ok(), "{problem:?}");
    drop(agent);
}
