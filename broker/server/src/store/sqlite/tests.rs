//! The log of a writer that makes no pause.
#![allow(clippy::unwrap_used)]

use super::*;

/// Bytes of a row: more than a hundred pages of the log.
const ROW: usize = 200_000;
/// Rows that make four times as many pages as let the log begin anew.
const ROWS: i64 = 640;

#[test]
fn the_log_begins_anew_under_a_writer_that_makes_no_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    let first = Connection::open(&path).unwrap();
    let table = "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)";
    first.execute_batch(table).unwrap();
    let writer = Arc::new(SqliteWriter::open(&path).unwrap());
    for id in 0..ROWS {
        let transaction = writer.begin().unwrap();
        // The same ten rows again and again, so that only the log would grow.
        let values = [
            Value::Number(id % 10),
            Value::Text(Some("x".repeat(ROW) + &id.to_string())),
        ];
        let sql =
            "INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text";
        transaction.execute(sql, values).unwrap();
        transaction.commit().unwrap();
    }
    // It never shrinks while it is in use: it has the length of the longest.
    let log = std::fs::metadata(folder.path().join("broker.db-wal"))
        .unwrap()
        .len();
    let pages = log / 1_048;
    assert!(pages < u64::from(2 * LONG_LOG), "{pages} pages");
    writer.close();
    let newest = "SELECT count(*), max(CAST(substr(text, 200001) AS INTEGER)) FROM t";
    let found: (i64, i64) = first
        .query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(found, (10, ROWS - 1));
    let verdict: String = first
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}
