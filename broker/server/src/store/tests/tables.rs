//! The database itself: tables of this program, of older and of newer ones.

use std::collections::{BTreeMap, BTreeSet};

use ipsx_metering::{ChannelId, PayerAccount};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::*;

on_both! {
    the_first_setting_stays
    what_it_can_not_read_is_named
    tables_of_a_newer_program_are_left_alone
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

/// A file as an older program left it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_file_has_is_found() {
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
    // An account had its channels within it, and outcomes were in the order of their ids.
    let payer = Address::repeat_byte(7);
    let account = r#"{"balance":"9","pending":"0","withdrawals":{},"channels":{"CHANNEL":{"promises":
        [{"capacity":"340282366920938463463374607431768211455","valid_until":5}],"claimed":"2","held":"1","closed_at":null}}}"#;
    let channel = ChannelId(B256::repeat_byte(3));
    let account = account.replace("CHANNEL", &channel.to_string());
    sqlx::query("INSERT INTO accounts (payer, account) VALUES ($1, $2)")
        .bind(format!("{payer:#x}"))
        .bind(&account)
        .execute(&mut file)
        .await
        .unwrap();
    let word = outcome(&record, Binding::Bound);
    sqlx::query("INSERT INTO outcomes (deal_id, outcome, signed, at) VALUES ($1, 'bound', $2, 1)")
        .bind(record.deal_id.to_string())
        .bind(serde_json::to_string(&word).unwrap())
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    let store = Store::open(&StoreConfig::Sqlite, folder.path())
        .await
        .unwrap();
    let (wallet, request) = (record.deal.requester, record.deal.request);
    let found = store.deals_of_request(wallet, request).await.unwrap();
    assert_eq!(found, [record]);
    let (accounts, damaged) = store.accounts().await.unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    let kept: PayerAccount = serde_json::from_str(&account).unwrap();
    assert_eq!(kept.committed(), Amount(u128::MAX - 3));
    assert_eq!(accounts, BTreeMap::from([(payer, kept)]));
    let told = store.outcome(found[0].deal_id).await.unwrap();
    assert_eq!(told, Some(word));
    let other = Entry::Outcome(Box::new(outcome(&found[0], Binding::Aborted)), NOW);
    let refused = save(&store, vec![other]).await;
    assert!(matches!(refused, Err(StoreError::OtherOutcome(_))));
    let changes = store.changes_of(wallet, 0, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(of_deal(&changes[0]).at, UnixSeconds(7));
    store.close().await;
}

/// The same in PostgreSQL, and what a broker of a fleet reads of it in a payer's turn.
#[tokio::test(flavor = "multi_thread")]
async fn channels_within_an_older_account_are_rows_of_their_own() {
    const LAST: i64 = 8;
    let Some(server) = Server::for_test() else {
        return;
    };
    let url = server.database("older");
    let mut older = sqlx::migrate!("./migrations/postgres");
    older.migrations.to_mut().retain(|m| m.version <= LAST);
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    older.run(&mut connection).await.unwrap();
    let channels = r#""0xCHANNEL":{"promises":[{"capacity":"340282366920938463463374607431768211455","valid_until":5}],
        "claimed":"2","held":"1","closed_at":null}"#;
    let channels = channels.replace("CHANNEL", &"03".repeat(32));
    let mut accounts = BTreeMap::new();
    for (number, channels) in [(7, channels.as_str()), (8, "")] {
        let account = r#"{"balance":"9","pending":"0","withdrawals":{},"channels":{"#;
        let account = format!("{account}{channels}}}}}");
        let payer = Address::repeat_byte(number);
        sqlx::query("INSERT INTO accounts (payer, account, version) VALUES ($1, $2, 4)")
            .bind(format!("{payer:#x}"))
            .bind(&account)
            .execute(&mut connection)
            .await
            .unwrap();
        accounts.insert(payer, serde_json::from_str(&account).unwrap());
    }
    connection.close().await.unwrap();

    let config = StoreConfig::Postgres(Secret::new(url));
    let folder = TempDir::new().unwrap();
    let store = Store::open(&config, folder.path()).await.unwrap();
    let (found, damaged) = store.accounts().await.unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    assert_eq!(found, accounts);
    let fleet = FleetStore::open(&config).await.unwrap();
    for (payer, account) in accounts {
        let account: PayerAccount = account;
        let turn = fleet.payer_turn(payer).await.unwrap();
        assert_eq!((turn.account, turn.version), (Some(account), 4));
    }
    store.close().await;
}
