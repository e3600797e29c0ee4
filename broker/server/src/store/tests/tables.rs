//! The database itself: tables of this program, of older and of newer ones.

use std::collections::BTreeSet;

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
    let found = store.deals_of_request(wallet, request).await.unwrap();
    assert_eq!(found, [record]);
    let changes = store.changes_of(wallet, 0, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(of_deal(&changes[0]).at, UnixSeconds(7));
    store.close().await;
}
