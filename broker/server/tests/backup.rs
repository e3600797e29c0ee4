//! What an operator does when the disk has failed: backups, putting them back, and being told what is damaged.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use ipsx_market::http::{DealView, NetworkInfo};
use ipsx_metering::{Amount, DealId};
use ipsx_settlement::{Centralizer, Deployment, RpcChain, Signer, Wallet};
use parties::program::{Program, command};
use parties::{TestAgent, TestRequester};
use sqlx::Connection;
use tempfile::TempDir;

fn wallet() -> Wallet {
    Wallet::from_secret(&[0x77; 32]).unwrap()
}

fn fund() -> Vec<String> {
    vec!["--fund".into(), format!("{}=1000", wallet().address())]
}

async fn requester(program: &Program, deposit: u128) -> TestRequester {
    let info: NetworkInfo = program.network().await;
    if deposit > 0 {
        let chain = RpcChain::new(&format!("http://{}{}", program.http, info.chain_rpc)).unwrap();
        let deployment = Deployment {
            chain_id: info.domain.chain_id,
            token: info.token,
            centralizer: info.domain.contract,
        };
        let contract = Centralizer::connect(Arc::new(chain), deployment)
            .await
            .unwrap();
        contract
            .deposit(&wallet(), info.network, wallet().address(), Amount(deposit))
            .await
            .unwrap();
    }
    let mut requester = TestRequester::at(wallet(), program.http, info);
    requester.sign_in().await;
    requester
}

/// A broker that runs and has bound a deal.
async fn with_a_deal(directory: &Path) -> (Program, DealId) {
    let program = Program::start(directory, &fund());
    let mut requester = requester(&program, 150_000).await;
    let agent = Wallet::from_secret(&[0x66; 32]).unwrap();
    let mut agent = TestAgent::connect_as(agent, program.agents, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    (program, deal.id())
}

fn run(directory: &Path, words: &[&str]) -> Output {
    command(directory).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

async fn sql(directory: &Path, sql: &'static str) {
    let path = directory.join("data/broker.db");
    let url = format!("sqlite://{}", path.display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_broker_brings_everything_back() {
    let directory = TempDir::new().unwrap();
    let (program, id) = with_a_deal(directory.path()).await;
    let copy = directory.path().join("copy");
    let backup = ["backup", copy.to_str().unwrap()];
    let done = run(directory.path(), &backup);
    assert!(done.status.success(), "{}", said(&done));
    // Nobody else reads it, and none is written over another.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&copy), 0o700);
    let names: Vec<_> = fs::read_dir(&copy).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for file in &names {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
    assert_eq!(run(directory.path(), &backup).status.code(), Some(9));
    // Nothing is put where a broker runs.
    let restore = [
        "restore",
        copy.to_str().unwrap(),
        "--force",
        "--was-stopped",
    ];
    let refused = run(directory.path(), &restore);
    assert_eq!(refused.status.code(), Some(9), "{}", said(&refused));
    program.kill();

    let refused = run(directory.path(), &restore[..2]);
    assert_eq!(refused.status.code(), Some(9));
    assert!(said(&refused).contains("--force"), "{}", said(&refused));
    fs::remove_dir_all(directory.path().join("data")).unwrap();
    let done = run(directory.path(), &restore);
    assert!(done.status.success(), "{}", said(&done));
    let checked = run(directory.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    let program = Program::start(directory.path(), &fund());
    let requester = requester(&program, 0).await;
    let deals: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
    assert_eq!(deals.iter().map(|d| d.deal_id).collect::<Vec<_>>(), [id]);
    program.kill();

    // What is there is moved aside, not lost.
    let done = run(directory.path(), &restore);
    assert!(done.status.success(), "{}", said(&done));
    let data = fs::read_dir(directory.path().join("data")).unwrap();
    let aside = data
        .map(|entry| entry.unwrap().path())
        .find(|path| path.display().to_string().contains("before-restore"));
    assert!(aside.unwrap().join("broker.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_as_it_was_is_not_put_back() {
    let directory = TempDir::new().unwrap();
    let (program, _) = with_a_deal(directory.path()).await;
    let copy = directory.path().join("copy");
    let restore = ["restore", copy.to_str().unwrap(), "--force"];
    assert!(
        run(directory.path(), &["backup", copy.to_str().unwrap()])
            .status
            .success()
    );
    program.kill();
    let before = fs::read(directory.path().join("data/broker.db")).unwrap();
    let refused = |why: &str| {
        let refused = run(directory.path(), &restore);
        assert_eq!(refused.status.code(), Some(9), "{why}");
        assert!(said(&refused).contains(why), "{why}: {}", said(&refused));
        let now = fs::read(directory.path().join("data/broker.db")).unwrap();
        assert!(now == before, "the data directory was changed");
    };
    for name in ["broker.db", "vouchers.db", "operator.json", "chain.journal"] {
        let path = copy.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&path, &bad).unwrap();
        refused("SHA-256");
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        refused("bytes instead of");
        fs::remove_file(&path).unwrap();
        refused(name);
        fs::write(&path, &good).unwrap();
    }
    let manifest = fs::read_to_string(copy.join("manifest.json")).unwrap();
    let elsewhere = manifest.replace("\"broker.db\"", "\"../../etc/passwd\"");
    fs::write(copy.join("manifest.json"), elsewhere).unwrap();
    refused("it names a file");
    fs::write(copy.join("manifest.json"), "{").unwrap();
    refused("is no backup");
    fs::write(copy.join("manifest.json"), manifest).unwrap();
    assert!(run(directory.path(), &restore).status.success());
}

/// Somebody may hold a promise that an older backup does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_on_an_older_backup_promises_nothing_for_two_days() {
    let directory = TempDir::new().unwrap();
    let (program, _) = with_a_deal(directory.path()).await;
    let copy = directory.path().join("copy");
    assert!(
        run(directory.path(), &["backup", copy.to_str().unwrap()])
            .status
            .success()
    );
    program.kill();
    let restore = ["restore", copy.to_str().unwrap(), "--force"];
    assert!(run(directory.path(), &restore).status.success());
    let program = Program::start(directory.path(), &fund());
    let mut requester = requester(&program, 0).await;
    let request = requester.request("FR");
    let refused = requester.ask(request).await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_reported_at_the_start_with_how_to_restore_it() {
    let directory = TempDir::new().unwrap();
    let (program, _) = with_a_deal(directory.path()).await;
    program.kill();
    // Everything into the file itself.
    sql(directory.path(), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let path = directory.path().join("data/broker.db");
    let good = fs::read(&path).unwrap();
    let reported = |what: &str, why: &[&str]| {
        let refused = run(directory.path(), &[]);
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(4), "{what}: {text}");
        for word in ["broker.db", "ipsx-broker restore"].iter().chain(why) {
            assert!(text.contains(word), "{what}: no {word} in {text}");
        }
        let checked = run(directory.path(), &["check"]);
        assert_eq!(checked.status.code(), Some(8), "{what}: {}", said(&checked));
    };
    let restored = || {
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(directory.path().join(format!("data/broker.db{end}")));
        }
        fs::write(&path, &good).unwrap();
    };

    let page = 4_096;
    for number in [1, good.len() / page / 2, good.len() / page - 1] {
        let mut bad = good.clone();
        bad[number * page..(number + 1) * page].fill(0xa5);
        fs::write(&path, &bad).unwrap();
        reported("a bad page", &["damaged"]);
        restored();
    }
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    reported("a truncated file", &["damaged"]);
    restored();
    fs::write(&path, vec![0x5a; good.len()]).unwrap();
    reported("garbage", &["damaged"]);
    restored();
    sql(directory.path(), "UPDATE deals SET record = '{}'").await;
    reported("a row", &["(deal)"]);
    restored();
    sql(directory.path(), "UPDATE accounts SET deposit = 'x'").await;
    reported("a row", &["(account)"]);
    restored();

    sql(
        directory.path(),
        "UPDATE _sqlx_migrations SET version = 9999 WHERE version = 2",
    )
    .await;
    let refused = run(directory.path(), &[]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(
        said(&refused).contains("newer program"),
        "{}",
        said(&refused)
    );
    restored();
    assert_eq!(run(directory.path(), &["check"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_what_does_not_agree() {
    let directory = TempDir::new().unwrap();
    let (program, _) = with_a_deal(directory.path()).await;
    let busy = run(directory.path(), &["check"]);
    assert_eq!(busy.status.code(), Some(4), "a broker uses it");
    program.kill();
    let copy = directory.path().join("copy");
    assert!(
        run(directory.path(), &["backup", copy.to_str().unwrap()])
            .status
            .success()
    );
    for (change, finding) in [
        ("UPDATE deals SET closed = 1", "closed without an outcome"),
        ("UPDATE deals SET status = 'ended'", "its columns are not"),
        (
            "UPDATE deals SET proposed_at = 1, record = json_set(record, '$.proposed_at', 99999999999)",
            "from the future",
        ),
        ("DELETE FROM accounts", "not in its payer's account"),
        (
            "UPDATE transitions SET at = 99999999999",
            "changes are from the future",
        ),
        ("UPDATE transitions SET side = 'nobody'", "change "),
        ("UPDATE deals SET deal_id = '0x00'", "of another deal"),
        (
            "PRAGMA foreign_keys = OFF; DELETE FROM deals",
            "belong to no deal",
        ),
    ] {
        let restore = [
            "restore",
            copy.to_str().unwrap(),
            "--force",
            "--was-stopped",
        ];
        assert!(run(directory.path(), &restore).status.success());
        let trigger = "DROP TRIGGER outcomes_stay; DELETE FROM outcomes";
        if change.contains("closed = 1") {
            sql(directory.path(), trigger).await;
        }
        let change: &'static str =
            Box::leak(format!("PRAGMA foreign_keys = OFF; {change}").into_boxed_str());
        sql(directory.path(), change).await;
        let checked = run(directory.path(), &["check"]);
        let text = said(&checked);
        assert_eq!(checked.status.code(), Some(8), "{change}: {text}");
        assert!(text.contains(finding), "{change}: {text}");
        // Of the same second, two would be moved to the same place.
        for entry in fs::read_dir(directory.path().join("data")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            }
        }
    }
}
