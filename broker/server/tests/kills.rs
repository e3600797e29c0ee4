//! A broker that is killed between two steps that are one for others: a signature and what binds by it, a nonce and the disk. The
//! store stands still meanwhile, so that each gap is hit.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::path::Path;
use std::time::Duration;

use ipsx_market::deal::Binding;
use ipsx_market::http::{BoundDeal, OfferView, ProblemKind, ProposedDeal};
use ipsx_market::status::DealStatus;
use ipsx_settlement::Wallet;
use ipsx_tests::postgres::Server;
use ipsx_tests::requester::now;
use parties::program::Program;
use parties::{TestAgent, TestRequester, bundle};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::time::{Instant, sleep};

const REQUESTS: &str = "/v1/requests";
const DEPOSIT: u128 = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// The lock that a commit with a nonce waits for.
const LOCK: i64 = 4_242;

fn wallet(number: u8) -> Wallet {
    Wallet::from_secret(&[number; 32]).unwrap()
}

/// The one provider, with one lease to let.
async fn provider(program: &Program) -> TestAgent {
    let mut agent = TestAgent::connect_as(wallet(0x51), program.agents, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    agent
}

async fn again(directory: &Path, options: &[String], requester: &mut TestRequester) -> Program {
    let program = Program::start(directory, options);
    requester.url = format!("http://{}", program.http);
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_was_heard_before_a_kill_binds_nothing_once_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let timers = ["--propose-seconds", "2", "--sign-seconds", "5"].map(String::from);
    let wallets = [wallet(0x71), wallet(0x72)];
    let (program, options) = bundle::program(directory.path(), &wallets, &timers).await;
    let [first, second] = wallets;
    let mut requester = program.funded(first, DEPOSIT).await;
    let mut other = program.funded(second, DEPOSIT).await;
    let mut agent = provider(&program).await;
    let request = requester.request("FR");
    let body = requester.posted(request);
    let posting = requester.post_once(REQUESTS, "k", &body);
    let (answer, deal) = tokio::join!(posting, agent.accept());
    let answer = answer.unwrap().2;
    let proposed: ProposedDeal = serde_json::from_slice(&answer).unwrap();

    // The signature is there, and what binds by it does not get to the disk.
    let file = directory.path().join("data/broker.db");
    let url = format!("sqlite://{}", file.display());
    let mut lock = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut lock)
        .await
        .unwrap();
    requester.sign_in_vain(&proposed).await;
    program.kill();
    lock.close().await.unwrap();
    sleep(Duration::from_secs(deal.sign_by.since(now()) + 1)).await;

    let program = again(directory.path(), &options, &mut requester).await;
    other.url = requester.url.clone();
    let until = Instant::now() + PATIENCE;
    while requester.deal(deal.id(), "").await.unwrap().status != DealStatus::Expired {
        assert!(Instant::now() < until, "{:?}", requester.deals().await);
        sleep(Duration::from_millis(100)).await;
    }
    let late = requester.sign(&proposed).await.unwrap_err();
    let over = [ProblemKind::Conflict, ProblemKind::NotFound];
    assert!(over.contains(&late.kind), "{late:?}");
    let path = format!("/v1/deals/{}/outcome", deal.id());
    let word: BoundDeal = requester.get(&path).await.unwrap();
    assert_eq!(word.outcome.message.outcome, Binding::Aborted);
    assert_eq!(word.reservation, None);

    // The same request leads to nothing else: the nonce is used, and its key tells of the deal that is over.
    let used = requester.post::<ProposedDeal>(REQUESTS, &body).await;
    assert_eq!(used.unwrap_err().kind, ProblemKind::Conflict);
    let replay = requester.post_once(REQUESTS, "k", &body).await.unwrap();
    assert_eq!(replay, (200, true, answer));
    assert_eq!(requester.deals().await.len(), 1);

    // Neither side has lost anything: all of the deposit is free, and so is the address.
    let mut agent = provider(&program).await;
    assert!(agent.unfinished.is_empty());
    requester.take_out(DEPOSIT).await.unwrap();
    let offers: Vec<OfferView> = other.get("/v1/offers").await.unwrap();
    assert_eq!(offers[0].free_leases, 1);
    let request = other.request("FR");
    let (proposed, _) = tokio::join!(other.ask(request), agent.accept());
    other.sign(&proposed.unwrap()).await.unwrap();
}

/// A store of PostgreSQL in which a nonce is written, and its transaction does not end for as long as [`LOCK`] is held.
async fn nonces_wait(server: &Server) -> PgConnection {
    let held = format!(
        "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$"
    );
    server.sql("broker", &held);
    server.sql(
        "broker",
        "CREATE CONSTRAINT TRIGGER held AFTER INSERT ON request_nonces
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held()",
    );
    let url = server.url("broker");
    let mut lock = PgConnection::connect(&url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut lock)
        .await
        .unwrap();
    lock
}

/// What has not ended is taken back, as when the server's machine had been without power.
async fn give_up(server: &Server, lock: PgConnection) {
    let waiting = "FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    server.sql(
        "broker",
        &format!("SELECT pg_terminate_backend(pid) {waiting}"),
    );
    let until = Instant::now() + PATIENCE;
    let count = format!("SELECT count(*) {waiting}");
    while server.sql("broker", &count) != ["0"] {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(50)).await;
    }
    lock.close().await.unwrap();
    server.sql("broker", "DROP TRIGGER held ON request_nonces");
    server.sql("broker", "DROP FUNCTION held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_nonce_did_not_reach_the_disk_leads_to_one_lease_when_it_is_posted_again() {
    let Some(server) = Server::for_test() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let store = ["--store".into(), server.database("broker")];
    let wallets = [wallet(0x71)];
    let (mut program, options) = bundle::program(directory.path(), &wallets, &store).await;
    let [own] = wallets;
    let mut requester = program.funded(own, DEPOSIT).await;
    // Whether the provider has signed before the kill, and whether the request is posted again under its key.
    for (round, (signed, keyed)) in [(false, true), (true, true), (true, false)]
        .into_iter()
        .enumerate()
    {
        let key = format!("round-{round}");
        let mut request = requester.request("FR");
        request.channel_salt.0[0] = 1 + round as u8;
        let id = request.id();
        let body = requester.posted(request);
        let mut agent = provider(&program).await;
        let lock = nonces_wait(&server).await;
        let early = {
            let posting = requester.post_once(REQUESTS, &key, &body);
            tokio::pin!(posting);
            // The provider is asked although nothing of it is on disk.
            let (number, terms) = tokio::select! {
                answer = &mut posting => panic!("{answer:?}"),
                asked = agent.proposal() => asked,
            };
            let nonces = format!("SELECT count(*) FROM request_nonces WHERE request = '{id}'");
            assert_eq!(server.sql("broker", &nonces), ["0"]);
            let early = match signed {
                true => Some(agent.accept_proposal(number, &terms).await),
                false => None,
            };
            let waited = tokio::time::timeout(Duration::from_millis(300), &mut posting);
            let waited = waited.await;
            assert!(waited.is_err(), "{waited:?} is not on disk");
            program.kill();
            give_up(&server, lock).await;
            assert_eq!(server.sql("broker", &nonces), ["0"]);
            early
        };

        program = again(directory.path(), &options, &mut requester).await;
        let mut agent = provider(&program).await;
        assert!(agent.unfinished.is_empty());
        let posting = async {
            match keyed {
                true => {
                    let (status, replayed, answer) =
                        requester.post_once(REQUESTS, &key, &body).await.unwrap();
                    assert_eq!((status, replayed), (200, false), "{answer:?}");
                    serde_json::from_slice::<ProposedDeal>(&answer).unwrap()
                }
                false => requester.post(REQUESTS, &body).await.unwrap(),
            }
        };
        let (proposed, deal) = tokio::join!(posting, agent.accept());
        assert_eq!(proposed.deal_id, deal.id());
        requester.sign(&proposed).await.unwrap();
        assert_eq!(agent.bound().await.0, deal);
        // What was signed before the kill is known to nobody.
        if let Some(early) = early {
            assert_ne!(early.id(), deal.id());
            let path = format!("/v1/deals/{}/signature", early.id());
            let body = requester.signature(&proposed);
            let gone = requester.post::<BoundDeal>(&path, &body);
            assert_eq!(gone.await.unwrap_err().kind, ProblemKind::NotFound);
        }
        let used = requester.post::<ProposedDeal>(REQUESTS, &body).await;
        assert_eq!(used.unwrap_err().kind, ProblemKind::Conflict);
        let deals = requester.deals().await;
        let of_this = deals.iter().filter(|view| view.deal.request == id);
        assert_eq!(of_this.count(), 1, "round {round}");
        agent
            .end(deal.id(), ipsx_market::messages::EndCause::Completed, None)
            .await;
        let until = Instant::now() + PATIENCE;
        while requester.deal(deal.id(), "").await.unwrap().status == DealStatus::Agreed {
            assert!(Instant::now() < until);
            sleep(Duration::from_millis(50)).await;
        }
    }
}
