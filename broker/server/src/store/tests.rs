//! The same tests on both databases.
#![allow(clippy::unwrap_used)]

#[path = "../../../market/tests/examples/mod.rs"]
#[allow(dead_code, reason = "made for the messages' golden files")]
mod examples;
#[path = "../../../../tests/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
mod postgres;

use std::collections::BTreeSet;

use async_trait::async_trait;
use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::http::{DealEvent, RequestEvent};
use ipsx_market::record::{Cause, DealRecord, Transition};
use ipsx_market::request::SignedRequest;
use ipsx_market::resting::{RequestRecord, RequestStatus};
use ipsx_market::status::{ProviderStatus, RequesterStatus, Side};
use ipsx_metering::{Address, Amount, B256, PayerAccount, RequestId, Signed, UnixSeconds};
use postgres::Server;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;
use crate::config::Secret;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A store, and what it lives in.
struct Place {
    store: Store,
    config: StoreConfig,
    folder: TempDir,
    server: Option<Server>,
}

impl Place {
    async fn sqlite() -> Self {
        Self::open(StoreConfig::Sqlite, None).await
    }

    /// Its absence is a failure, not a reason to skip, unless somebody says so.
    async fn postgres() -> Option<Self> {
        if std::env::var_os("IPSX_WITHOUT_POSTGRES").is_some() {
            return None;
        }
        let server = Server::start(&["fsync=off"]);
        let server = server.expect(
            "PostgreSQL is missing: install Debian's postgresql, or set IPSX_WITHOUT_POSTGRES",
        );
        let config = StoreConfig::Postgres(Secret::new(server.database("broker")));
        Some(Self::open(config, Some(server)).await)
    }

    async fn open(config: StoreConfig, server: Option<Server>) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&config, folder.path()).await.unwrap();
        Self {
            store,
            config,
            folder,
            server,
        }
    }

    async fn reopened(&self) -> Store {
        Store::open(&self.config, self.folder.path()).await.unwrap()
    }
}

/// One test for each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::sqlite().await).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = super::Place::postgres().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}

on_both! {
    deals_are_found_by_id_state_requester_and_request
    an_outcome_is_never_changed
    all_of_a_write_or_nothing
    one_that_fails_takes_no_other_with_it
    what_was_asked_for_is_written_before_it_closes
    accounts_and_withdrawals
    a_key_is_taken_once_and_keeps_its_answer
    a_nonce_is_taken_once
    changes_are_numbered_as_they_were_written
    requests_that_rest_are_kept_with_what_became_of_them
    a_session_is_opened_once
    the_first_setting_stays
    what_it_can_not_read_is_named
    tables_of_a_newer_program_are_left_alone
}

/// A deal whose requester and request are told by `number`, newer the higher it is.
fn record(number: u8) -> DealRecord {
    let mut deal = examples::deal();
    deal.requester = Address::repeat_byte(number % 2 + 1);
    deal.request = RequestId(B256::repeat_byte(number));
    DealRecord {
        deal_id: deal.id(),
        deal,
        filter: examples::request().filter,
        together: 0,
        offer: examples::offer(),
        placement: examples::placement(),
        provider_signature: examples::signed(examples::outcome(), &examples::provider()).signature,
        requester_signature: None,
        provider: ProviderStatus::Accepted,
        requester: RequesterStatus::Requested,
        proposed_at: UnixSeconds(NOW.0 + u64::from(number)),
        outcome: None,
        reservation: None,
        prepaid: None,
        forfeited: false,
        paid_before: Amount::ZERO,
        ready: None,
        ready_at: None,
        over_at: None,
        cause: None,
        provider_report: None,
        requester_report: None,
        closed_at: None,
    }
}

fn outcome(record: &DealRecord, outcome: Binding) -> Signed<Outcome> {
    let deal_id = record.deal_id;
    examples::signed(Outcome { deal_id, outcome }, &examples::operator())
}

fn change(record: &DealRecord) -> Entry {
    let moved = Transition {
        deal_id: record.deal_id,
        at: NOW,
        side: Side::Provider,
        provider: record.provider,
        requester: record.requester,
        cause: Cause::Signed,
    };
    Entry::Deal {
        record: Box::new(record.clone()),
        transitions: vec![moved],
    }
}

async fn save(store: &Store, changes: Vec<Entry>) -> Result<(), StoreError> {
    store.write(Entries(changes)).await
}

async fn deals_are_found_by_id_state_requester_and_request(place: Place) {
    let store = &place.store;
    let mut records: Vec<_> = (1..=5).map(record).collect();
    for record in &records {
        save(store, vec![change(record)]).await.unwrap();
    }
    records[0].closed_at = Some(NOW);
    records[2].closed_at = Some(NOW);
    records[2].outcome = Some(outcome(&records[2], Binding::Aborted));
    for record in &records {
        save(store, vec![change(record)]).await.unwrap();
        let kept = store.deal(record.deal_id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(record));
    }
    let ids = |records: Vec<DealRecord>| records.iter().map(|r| r.deal_id).collect::<Vec<_>>();
    let open = ids(store.open_deals().await.unwrap());
    let expected: BTreeSet<_> = [1, 3, 4].map(|n: usize| records[n].deal_id).into();
    assert_eq!(open.into_iter().collect::<BTreeSet<_>>(), expected);
    let wordless = ids(store.deals_without_outcome().await.unwrap());
    assert_eq!(wordless, [records[0].deal_id]);
    // Newest first, page by page.
    let requester = records[0].deal.requester;
    let page = store.deals_of(requester, None, 2).await.unwrap();
    assert_eq!(ids(page.clone()), [records[4].deal_id, records[2].deal_id]);
    let after = Some((page[1].proposed_at, page[1].deal_id));
    let page = store.deals_of(requester, after, 2).await.unwrap();
    assert_eq!(ids(page), [records[0].deal_id]);
    let found = store.deal_of_request(requester, records[2].deal.request);
    assert_eq!(found.await.unwrap().as_ref(), Some(&records[2]));
    let stranger = store.deal_of_request(Address::repeat_byte(9), records[2].deal.request);
    assert_eq!(stranger.await.unwrap(), None);
    // Another program sees the same.
    store.close().await;
    let again = place.reopened().await;
    assert_eq!(
        again.deal(records[2].deal_id).await.unwrap().as_ref(),
        Some(&records[2])
    );
    again.close().await;
}

async fn an_outcome_is_never_changed(place: Place) {
    let (store, record) = (&place.store, record(1));
    let id = record.deal_id;
    let word = |binding| Entry::Outcome(Box::new(outcome(&record, binding)), NOW);
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    let other = save(store, vec![word(Binding::Aborted)]).await.unwrap_err();
    assert!(matches!(other, StoreError::OtherOutcome(other) if other == id));
    let kept = store.outcome(id).await.unwrap().unwrap();
    assert_eq!(kept.message.outcome, Binding::Bound);
    // Nor by whoever comes past the program.
    for sql in ["UPDATE outcomes SET at = 1", "DELETE FROM outcomes"] {
        let refused = store.write(Sql(sql)).await.unwrap_err().to_string();
        assert!(refused.contains("an outcome is never"), "{refused}");
    }
}

async fn all_of_a_write_or_nothing(place: Place) {
    let (store, first, second) = (&place.store, record(1), record(2));
    let word = |binding| Entry::Outcome(Box::new(outcome(&first, binding)), NOW);
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    let changes = vec![change(&second), word(Binding::Aborted), change(&first)];
    save(store, changes).await.unwrap_err();
    assert_eq!(store.deal(second.deal_id).await.unwrap(), None);
    assert_eq!(store.deal(first.deal_id).await.unwrap(), None);
}

async fn one_that_fails_takes_no_other_with_it(place: Place) {
    let store = &place.store;
    let contested = record(1);
    let bound = outcome(&contested, Binding::Bound);
    save(store, vec![Entry::Outcome(Box::new(bound), NOW)])
        .await
        .unwrap();
    let before = store.commits();
    let mut asked = Vec::new();
    for number in 1..=200 {
        let mut changes = vec![change(&record(number))];
        if number % 50 == 0 {
            let aborted = outcome(&contested, Binding::Aborted);
            changes.push(Entry::Outcome(Box::new(aborted), NOW));
        }
        asked.push((number, store.ask(Entries(changes)).await));
    }
    for (number, asked) in asked {
        let fails = number % 50 == 0;
        assert_eq!(asked.written().await.is_err(), fails, "{number}");
        let kept = store.deal(record(number).deal_id).await.unwrap();
        assert_eq!(kept.is_none(), fails, "{number}");
    }
    assert!(store.commits() > before);
}

async fn what_was_asked_for_is_written_before_it_closes(place: Place) {
    // Made before, since signing takes longer than a commit.
    let writes: Vec<_> = (1..=250)
        .map(|number| Entries(vec![change(&record(number))]))
        .collect();
    let mut asked = Vec::new();
    let before = place.store.commits();
    for entries in writes {
        asked.push(place.store.ask(entries).await);
    }
    place.store.close().await;
    for asked in asked {
        asked.written().await.unwrap();
    }
    let commits = place.store.commits() - before;
    assert!(commits < 125, "{commits} commits for 250 writes");
    let late = save(&place.store, vec![change(&record(251))]).await;
    assert!(matches!(late, Err(StoreError::Closed(_))));
    let again = place.reopened().await;
    for number in 1..=250 {
        assert!(again.deal(record(number).deal_id).await.unwrap().is_some());
    }
    again.close().await;
}

async fn accounts_and_withdrawals(place: Place) {
    let store = &place.store;
    let payer = Address::repeat_byte(0xab);
    let account = |balance| PayerAccount {
        balance: Amount(balance),
        ..PayerAccount::default()
    };
    for balance in [5, u128::MAX] {
        let entry = Entry::Account(payer, Some(Box::new(account(balance))));
        save(store, vec![entry]).await.unwrap();
        let kept = store.accounts().await.unwrap();
        assert_eq!(kept, [(payer, account(balance))]);
    }
    save(store, vec![Entry::Account(payer, None)])
        .await
        .unwrap();
    assert_eq!(store.accounts().await.unwrap(), []);

    let withdrawal = ipsx_metering::Withdrawal {
        network: examples::network(),
        owner: payer,
        to: payer,
        amount: Amount(7),
        nonce: u64::MAX,
        deadline: NOW,
    };
    let signed = examples::signed(withdrawal, &examples::operator());
    let consent = |key: Option<&str>| Entry::Withdrawal {
        signed: Box::new(signed.clone()),
        key: key.map(str::to_owned),
        now: NOW,
    };
    save(store, vec![consent(Some("k"))]).await.unwrap();
    save(store, vec![consent(None)]).await.unwrap();
    let under = async |key, now| store.withdrawal_under(payer, key, now).await.unwrap();
    assert_eq!(under("k", NOW).await, Some(signed.clone()));
    assert_eq!(under("other", NOW).await, None);
    assert_eq!(under("k", NOW.after(2 * 24 * 3_600)).await, None);
}

async fn a_key_is_taken_once_and_keeps_its_answer(place: Place) {
    let store = &place.store;
    let wallet = Address::repeat_byte(1);
    let take = async |key: &str, fingerprint: &str, now| {
        let taken = TakeKey {
            wallet,
            key: key.into(),
            fingerprint: fingerprint.into(),
            now,
        };
        store.write(taken).await.unwrap()
    };
    assert_eq!(take("k", "a", NOW).await, KeyState::New);
    assert_eq!(take("k", "a", NOW).await, KeyState::Unanswered);
    assert_eq!(take("k", "b", NOW).await, KeyState::Other);
    let answer = KeepAnswer {
        wallet,
        key: "k".into(),
        status: 200,
        body: "{\"é\": \"\\u0000'\"}".into(),
    };
    store.write(answer.clone()).await.unwrap();
    let answered = KeyState::Answered(200, answer.body);
    assert_eq!(take("k", "a", NOW).await, answered);
    // A day later it is free, and forgotten by the sweep.
    let later = NOW.after(24 * 3_600 + 1);
    assert_eq!(take("k", "b", later).await, KeyState::New);
    assert_eq!(take("k", "b", later).await, KeyState::Unanswered);
    let much_later = later.after(24 * 3_600 + 1);
    store.write(ForgetExpired(much_later)).await.unwrap();
    assert_eq!(take("k", "a", much_later).await, KeyState::New);
}

async fn a_nonce_is_taken_once(place: Place) {
    let store = &place.store;
    let taken = async |request, nonce| {
        let nonce = UseNonce {
            requester: Address::repeat_byte(1),
            nonce,
            request: RequestId(B256::repeat_byte(request)),
            expires_at: NOW,
        };
        store.write(nonce).await.unwrap()
    };
    assert_eq!(taken(1, u64::MAX).await, NonceState::Fresh);
    assert_eq!(taken(1, u64::MAX).await, NonceState::Same);
    assert_eq!(taken(2, u64::MAX).await, NonceState::Other);
    assert_eq!(taken(2, 2).await, NonceState::Fresh);
    store.write(ForgetExpired(NOW.after(1))).await.unwrap();
    assert_eq!(taken(2, u64::MAX).await, NonceState::Fresh);
}

fn of_deal(change: &Change) -> &DealEvent {
    match &change.event {
        Event::Deal(event) => event,
        Event::Request(event) => panic!("{event:?}"),
    }
}

async fn changes_are_numbered_as_they_were_written(place: Place) {
    let store = &place.store;
    for number in [1, 2, 3, 1] {
        save(store, vec![change(&record(number))]).await.unwrap();
    }
    let (first, wallet) = (record(1), record(1).deal.requester);
    let all = store.changes_of(wallet, 0, 10).await.unwrap();
    let deals: Vec<_> = all.iter().map(|change| of_deal(change).deal_id).collect();
    assert_eq!(deals, [first.deal_id, record(3).deal_id, first.deal_id]);
    assert!(all.is_sorted_by_key(|change| change.number));
    let event = of_deal(&all[0]);
    assert_eq!((event.at, event.side), (NOW, Side::Provider));
    assert_eq!(
        (event.provider, event.requester),
        (first.provider, first.requester)
    );
    assert_eq!(
        (event.status, event.cause.as_str()),
        (first.status(), "signed")
    );
    let latest = store.latest_change(wallet).await.unwrap();
    assert_eq!(latest, all[2].number);
    assert_eq!(store.latest_change(Address::ZERO).await.unwrap(), 0);
    let rest = store.changes_of(wallet, all[0].number, 1).await.unwrap();
    assert_eq!(rest, all[1..2]);
    let of_deal = store.changes_of_deal(first.deal_id, 0, 10).await.unwrap();
    assert_eq!(of_deal, [all[0].clone(), all[2].clone()]);
}

/// Whoever follows a wallet's changes by their numbers would miss one that becomes readable after a later one.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_share_a_database_number_a_wallet_s_changes_in_order() {
    let Some(place) = Place::postgres().await else {
        return;
    };
    let other = place.reopened().await;
    let wallet = record(1).deal.requester;
    let mut asked = Vec::new();
    for number in 0..=255 {
        let store = if number % 4 < 2 { &place.store } else { &other };
        let entries = Entries(vec![change(&record(number))]);
        asked.push(store.ask(entries).await);
    }
    let watched = tokio::spawn({
        let store = other.clone();
        async move {
            let mut seen = Vec::new();
            while seen.len() < 128 {
                let after = seen.last().map_or(0, |change: &Change| change.number);
                seen.extend(store.changes_of(wallet, after, 1_000).await.unwrap());
            }
            seen
        }
    });
    for asked in asked {
        asked.written().await.unwrap();
    }
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), watched).await;
    assert_eq!(seen.unwrap().unwrap().len(), 128);
    other.close().await;
}

async fn a_session_is_opened_once(place: Place) {
    let store = &place.store;
    let wallet = Address::repeat_byte(0xcd);
    let open = async |token: &str| {
        let session = OpenSession {
            nonce: ("n".into(), NOW),
            token_hash: token.into(),
            wallet,
            expires_at: NOW.after(10),
        };
        store.write(session).await.unwrap()
    };
    assert!(open("a").await);
    assert!(!open("b").await, "the nonce was used");
    let whose = async |token, now| store.session(token, now).await.unwrap();
    assert_eq!(whose("a", NOW).await, Some(wallet));
    assert_eq!(whose("b", NOW).await, None);
    assert_eq!(whose("a", NOW.after(10)).await, None);
}

async fn the_first_setting_stays(place: Place) {
    let store = &place.store;
    assert_eq!(store.meta::<u64>("a").await.unwrap(), None);
    assert_eq!(store.first_meta("a", 1u64).await.unwrap(), 1);
    assert_eq!(store.first_meta("a", 2u64).await.unwrap(), 1);
    store.set_meta("a", &3u64).await.unwrap();
    assert_eq!(store.meta::<u64>("a").await.unwrap(), Some(3));
}

async fn what_it_can_not_read_is_named(place: Place) {
    let store = &place.store;
    let record = record(1);
    save(store, vec![change(&record)]).await.unwrap();
    store
        .write(Sql("UPDATE deals SET record = '{\"deal_id\":'"))
        .await
        .unwrap();
    let damaged = store.open_deals().await.unwrap_err();
    assert!(matches!(damaged, StoreError::Damaged { what: "deal", .. }));
    let said = damaged.to_string();
    let named = match &place.server {
        Some(_) => "PostgreSQL at ",
        None => "broker.db",
    };
    assert!(said.contains(named), "{said}");
    assert!(!said.contains("ipsx@"), "{said}");
}

async fn tables_of_a_newer_program_are_left_alone(place: Place) {
    let sql = match &place.server {
        Some(_) => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', true, '\\x00', 0)"
        }
        None => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', true, x'00', 0)"
        }
    };
    place.store.write(Sql(sql)).await.unwrap();
    place.store.close().await;
    let refused = Store::open(&place.config, place.folder.path()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("a newer program"), "{refused}");
}

/// What a program that knows the tables might do.
struct Sql(&'static str);

#[async_trait]
impl Write for Sql {
    type Done = ();

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        tx.execute(self.0, []).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_have_the_same_tables() {
    let sqlite = Place::sqlite().await;
    let Some(postgres) = Place::postgres().await else {
        return;
    };
    let columns = async |place: &Place, sql| {
        let rows = place.store.rows(sql, []).await.unwrap();
        rows.iter()
            .map(|row| (row.text(0).unwrap(), row.text(1).unwrap()))
            .collect::<BTreeSet<_>>()
    };
    let ours = columns(
        &sqlite,
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE '%sql%'",
    )
    .await;
    // A fleet is on PostgreSQL only.
    let theirs = columns(
        &postgres,
        "SELECT table_name::text, column_name::text FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '%sql%'
         AND table_name NOT IN ('brokers', 'shards')",
    )
    .await;
    assert!(ours.len() > 30, "{ours:?}");
    assert_eq!(ours, theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_before_it_has_written_is_refused() {
    let Some(place) = Place::postgres().await else {
        return;
    };
    let server = place.server.as_ref().unwrap();
    let off = "ALTER DATABASE broker SET synchronous_commit = off";
    server.sql("postgres", off);
    let refused = Store::open(&place.config, place.folder.path()).await;
    assert!(matches!(refused, Err(StoreError::NotDurable(_))));
}

async fn requests_that_rest_are_kept_with_what_became_of_them(place: Place) {
    let store = &place.store;
    let request = |number: u64| {
        let mut message = examples::request();
        message.nonce = number;
        let (wallet, key) = (examples::requester(), examples::session_key());
        RequestRecord {
            number,
            request: SignedRequest::sign(message, &examples::DOMAIN, &wallet, &key),
            seed: B256::repeat_byte(1),
            since: NOW,
            status: RequestStatus::Resting,
            changed_at: NOW,
        }
    };
    let mut records = [3, 1, 2].map(request);
    for record in &records {
        save(store, vec![Entry::Request(Box::new(record.clone()))])
            .await
            .unwrap();
    }
    let resting = store.resting_requests().await.unwrap();
    let numbers: Vec<_> = resting.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    records[0].status = RequestStatus::Expired;
    let (expired, id) = (records[0].clone(), records[0].id());
    save(store, vec![Entry::Request(Box::new(expired.clone()))])
        .await
        .unwrap();
    assert_eq!(store.resting_requests().await.unwrap().len(), 2);
    assert_eq!(store.request(id).await.unwrap().as_ref(), Some(&expired));
    let wallet = expired.request.message.requester;
    let all = store.changes_of(wallet, 0, 10).await.unwrap();
    let last = all.last().map(|change| &change.event);
    let event = RequestEvent {
        request: id,
        at: NOW,
        status: RequestStatus::Expired,
    };
    assert_eq!((all.len(), last), (4, Some(&Event::Request(event))));
    assert_eq!(store.inspect(NOW).await.unwrap(), Vec::<String>::new());
    // Those that are over are forgotten a day after nobody could post them again.
    let long_after = expired.request.message.expires_at.after(24 * 3_600 + 1);
    store.write(ForgetExpired(long_after)).await.unwrap();
    assert_eq!(store.request(id).await.unwrap(), None);
    assert_eq!(store.resting_requests().await.unwrap().len(), 2);
}

/// A file as an older program left it.
#[tokio::test(flavor = "multi_thread")]
async fn deals_and_changes_of_an_older_file_are_found() {
    const LAST: i64 = 3;
    let folder = TempDir::new().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("broker.db"))
        .create_if_missing(true);
    let mut file = options.connect().await.unwrap();
    let mut older = sqlx::migrate!("./migrations/sqlite");
    older.migrations.to_mut().retain(|m| m.version <= LAST);
    older.run(&mut file).await.unwrap();
    let record = record(1);
    sqlx::query(
        "INSERT INTO deals (deal_id, provider, requester, channel, status, proposed_at, closed, record)
         VALUES ($1, '', $2, '', 'proposed', 1, 0, $3)",
    )
    .bind(record.deal_id.to_string())
    .bind(format!("{:#x}", record.deal.requester))
    .bind(serde_json::to_string(&record).unwrap())
    .execute(&mut file)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO transitions (deal_id, at, side, provider, requester, status, cause, wallet)
         VALUES ($1, 7, 'provider', 'accepted', 'requested', 'proposed', 'signed', $2)",
    )
    .bind(record.deal_id.to_string())
    .bind(format!("{:#x}", record.deal.requester))
    .execute(&mut file)
    .await
    .unwrap();
    file.close().await.unwrap();
    let store = Store::open(&StoreConfig::Sqlite, folder.path())
        .await
        .unwrap();
    let (wallet, request) = (record.deal.requester, record.deal.request);
    let found = store.deal_of_request(wallet, request).await.unwrap();
    assert_eq!(found.as_ref(), Some(&record));
    let changes = store.changes_of(wallet, 0, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(of_deal(&changes[0]).at, UnixSeconds(7));
    store.close().await;
}
