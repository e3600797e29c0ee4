//! The program itself: exit codes, and what a kill -9 leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::deal::Binding;
use ipsx_market::http::{
    BoundDeal, NetworkInfo, OfferView, PostWithdrawal, ProblemKind, ProposedDeal, SignedWithdrawal,
};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause};
use ipsx_market::status::DealStatus;
use ipsx_metering::Amount;
use ipsx_settlement::{Centralizer, Deployment, RpcChain, Signer, Wallet};
use parties::program::{Program, command};
use parties::{TestAgent, TestRequester};

/// The contract, through the broker's own JSON-RPC.
async fn contract(program: &Program, info: &NetworkInfo) -> Centralizer {
    let chain = RpcChain::new(&format!("http://{}{}", program.http, info.chain_rpc)).unwrap();
    let deployment = Deployment {
        chain_id: info.domain.chain_id,
        token: info.token,
        centralizer: info.domain.contract,
    };
    Centralizer::connect(Arc::new(chain), deployment)
        .await
        .unwrap()
}

async fn requester(program: &Program, wallet: Wallet, deposit: u128) -> TestRequester {
    let info = program.network().await;
    let contract = contract(program, &info).await;
    let owner = wallet.address();
    contract
        .deposit(&wallet, info.network, owner, Amount(deposit))
        .await
        .unwrap();
    let mut requester = TestRequester::at(wallet, program.http, info);
    requester.sign_in().await;
    requester
}

fn wallet() -> Wallet {
    Wallet::from_secret(&[0x77; 32]).unwrap()
}

fn fund() -> Vec<String> {
    vec!["--fund".into(), format!("{}=1000", wallet().address())]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_goes_on_with_its_leases() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), &fund());
    let mut requester = requester(&program, wallet(), 150_000).await;
    let agent_key = [0x66; 32];
    let agent_wallet = || Wallet::from_secret(&agent_key).unwrap();
    let mut agent = TestAgent::connect_as(agent_wallet(), program.agents, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer.clone()).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request.clone()), agent.accept());
    let bound = requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    let id = deal.id();
    agent.ready(id).await;
    agent.say(&AgentMessage::LeaseServing { deal_id: id }).await;
    let view = requester.deal(id, "?wait=10&status=agreed").await.unwrap();
    assert_eq!(view.status, DealStatus::Active);
    let info = requester.info.clone();
    program.kill();

    let program = Program::start(directory.path(), &fund());
    assert_eq!(program.network().await.network, info.network);
    requester.url = format!("http://{}", program.http);
    // The session still counts, the deal is as it was.
    let again = requester.deal(id, "").await.unwrap();
    assert_eq!(again, view);
    let outcome: BoundDeal = requester
        .get(&format!("/v1/deals/{id}/outcome"))
        .await
        .unwrap();
    assert_eq!(outcome, bound);
    let replayed = requester.ask(request).await.unwrap_err();
    assert_eq!(replayed.kind, ProblemKind::Conflict);
    // Its capacity and its deposit are still promised, and the agent is reminded of it.
    let mut agent = TestAgent::connect_as(agent_wallet(), program.agents, "127.0.1.1").await;
    assert_eq!(agent.unfinished, [id]);
    agent.publish(offer).await;
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    assert_eq!(offers[0].free_leases, 0);
    let ask = PostWithdrawal {
        to: requester.wallet.address(),
        amount: Amount(50_001),
    };
    let refused = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask)
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ProblemKind::InsufficientDeposit);
    // It goes on.
    let voucher = requester.voucher(deal.channel().id(), 10_000);
    agent
        .say(&AgentMessage::RenewReservation {
            deal_id: id,
            voucher,
        })
        .await;
    assert!(matches!(
        agent.hear().await,
        BrokerMessage::ReservationRenewed { .. }
    ));
    agent.end(id, EndCause::Completed, None).await;
    let view = requester.deal(id, "?wait=10&status=active").await.unwrap();
    assert_eq!(view.status, DealStatus::Ended);
    let offers: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
    assert_eq!(offers[0].free_leases, 1);
}

/// Killed anywhere between the requester's signature and the answer: what was released is kept, and whatever the
/// answer was, there is one word on each deal.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_released_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Program::start(directory.path(), &fund());
    let mut requester = requester(&program, wallet(), 100_000_000).await;
    let mut seen: Vec<(ProposedDeal, Option<BoundDeal>)> = Vec::new();
    for round in 0..8u64 {
        let mut agent = TestAgent::connect_as(Wallet::random(), program.agents, "127.0.1.1").await;
        agent.publish(agent.offer(1_000, 1)).await;
        let request = requester.request("FR");
        let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
        let proposed = proposed.unwrap();
        let signing = requester.post_raw(&proposed);
        let answer = tokio::time::timeout(Duration::from_millis(3 * round), signing).await;
        program.kill();
        seen.push((proposed, answer.ok().flatten()));

        program = Program::start(directory.path(), &fund());
        requester.url = format!("http://{}", program.http);
        for (proposed, answer) in &seen {
            let id = proposed.deal_id;
            let view = requester.deal(id, "").await.unwrap();
            let word = requester
                .get::<BoundDeal>(&format!("/v1/deals/{id}/outcome"))
                .await;
            if let Some(bound) = answer {
                assert_eq!(word.as_ref().unwrap(), bound);
            }
            match (&word, view.status) {
                (Ok(word), DealStatus::Expired | DealStatus::Aborted) => {
                    assert_eq!(word.outcome.message.outcome, Binding::Aborted);
                }
                (Ok(word), _) => {
                    let reservation = word.reservation.as_ref().unwrap();
                    assert_eq!(word.outcome.message.outcome, Binding::Bound);
                    assert_eq!(reservation.message.channel_id, proposed.deal.channel().id());
                    word.outcome
                        .verify(&requester.info.domain, requester.info.operator)
                        .unwrap();
                }
                (Err(problem), status) => {
                    assert_eq!(
                        (problem.kind, status),
                        (ProblemKind::Conflict, DealStatus::Proposed)
                    );
                }
            }
        }
    }
    let bound = seen.iter().filter(|(_, answer)| answer.is_some()).count();
    assert!(bound < seen.len(), "no kill came in time");
    // Each bound deal has its own channel: what all of them may claim can't be taken out.
    let promised = 100_000 * bound as u128;
    let amount = Amount(100_000_000 - promised + 1);
    let ask = PostWithdrawal {
        to: requester.wallet.address(),
        amount,
    };
    let refused = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask)
        .await;
    assert!(bound == 0 || refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_stops_the_broker_and_loses_nothing() {
    use sqlx::Connection;
    let directory = tempfile::tempdir().unwrap();
    let mut program = Program::start(directory.path(), &fund());
    let mut requester = requester(&program, wallet(), 150_000).await;
    let mut agent = TestAgent::connect_as(Wallet::random(), program.agents, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let request = requester.request("FR");
    let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
    let proposed = proposed.unwrap();
    // Somebody else locks the database: what is signed now can't be written down.
    let url = format!(
        "sqlite://{}",
        directory.path().join("data/broker.db").display()
    );
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let (status, body) = requester
        .exchange(
            hyper::Method::POST,
            &format!("/v1/deals/{}/signature", proposed.deal_id),
            serde_json::to_vec(&requester.signature(&proposed)).unwrap(),
        )
        .await;
    assert_eq!(status, 500, "{body:?}");
    let code = program.child.wait().unwrap().code();
    assert_eq!(code, Some(4));
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();

    let program = Program::start(directory.path(), &fund());
    requester.url = format!("http://{}", program.http);
    let bound = requester.sign(&proposed).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
}

fn run(directory: &Path, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = command(directory);
    change(&mut command);
    command.output().unwrap()
}

fn assert_fails(output: &Output, code: i32, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(
        last.starts_with("ipsx-broker: ") && last.contains(words),
        "{text}"
    );
}

#[test]
fn each_failure_has_its_exit_code_and_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(root, |c| {
        c.args(["--http-listen", &address]);
    });
    assert_eq!(output.status.code(), Some(2), "clap takes an option once");
    let mut free = Command::new(env!("CARGO_BIN_EXE_ipsx-broker"));
    let output = free
        .args(["--http-listen", &address, "--data-dir"])
        .arg(root.join("other"))
        .output()
        .unwrap();
    assert_fails(
        &output,
        3,
        &format!("can't listen on {address} for requesters"),
    );
    let output = run(root, |c| {
        c.env("IPSX_BROKER_FEE_BPS", "5000");
    });
    assert_fails(&output, 2, "fee_bps = 5000");
    let output = run(root, |c| {
        c.args(["--config", "/nonexistent/broker.toml"]);
    });
    assert_fails(
        &output,
        2,
        "can't read the configuration /nonexistent/broker.toml",
    );
    let output = run(root, |c| {
        c.args(["--asn-db", "/nonexistent/asn.mmdb"]);
    });
    assert_fails(&output, 7, "asn_db = /nonexistent/asn.mmdb");
    std::fs::write(root.join("data.file"), "").unwrap();
    let mut blocked = Command::new(env!("CARGO_BIN_EXE_ipsx-broker"));
    let output = blocked
        .arg("--data-dir")
        .arg(root.join("data.file/x"))
        .output()
        .unwrap();
    assert_fails(&output, 4, "can't use the store");
    let output = run(root, |c| {
        c.args(["--chain", "rpc", "--rpc-url", "http://127.0.0.1:1"])
            .args([
                "--centralizer",
                "0x5fbdb2315678afecb367f032d93f642f64180aa3",
            ])
            .env("IPSX_BROKER_PASSPHRASE", "x");
    });
    assert_fails(&output, 6, "there is no wallet at");
}

#[test]
fn one_broker_to_a_directory_and_its_wallet_needs_its_passphrase() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), &[]);
    assert_fails(&run(directory.path(), |_| ()), 4, "another broker uses it");
    drop(program);
    let output = run(directory.path(), |c| {
        c.env("IPSX_BROKER_PASSPHRASE", "wrong");
    });
    assert_fails(&output, 6, "wrong passphrase");
    let output = run(directory.path(), |c| {
        c.args(["--chain", "rpc", "--rpc-url", "http://127.0.0.1:1"])
            .args([
                "--centralizer",
                "0x5fbdb2315678afecb367f032d93f642f64180aa3",
            ])
            .args(["--passphrase-file"])
            .arg(directory.path().join("data/operator.passphrase"));
    });
    assert_fails(&output, 5, "no answer from the chain at http://127.0.0.1:1");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for (file, mode) in [
            ("", 0o700),
            ("operator.json", 0o600),
            ("operator.passphrase", 0o600),
        ] {
            let path = directory.path().join("data").join(file);
            let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }
}

#[test]
fn help_says_everything() {
    let output = Command::new(env!("CARGO_BIN_EXE_ipsx-broker"))
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for words in [
        "--country-db",
        "IPSX_BROKER_PASSPHRASE",
        "Exit codes:",
        "packaging/ipsx-broker.example.toml",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}
