//! What becomes of the log, under a writer that makes no pause and after one that does.
#![allow(clippy::unwrap_used)]

use super::*;

/// Bytes of a row: more than a hundred pages of the log.
const ROW: usize = 200_000;
/// Rows that make more than twice as many pages as let the log begin anew.
const ROWS: i64 = 1_600;

#[test]
fn the_log_begins_anew_under_a_writer_that_makes_no_pause() {
    let folder = tempfile::tempdir().unwrap();
    let (path, first) = database(&folder);
    let writer = Arc::new(SqliteWriter::open(&path).unwrap());
    for number in 0..ROWS {
        // The same ten rows again and again, so that only the log would grow.
        put(
            &writer,
            number % 10,
            &("x".repeat(ROW) + &number.to_string()),
        );
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

#[test]
fn what_is_committed_after_a_snapshot_is_not_moved() {
    let folder = tempfile::tempdir().unwrap();
    let (path, first) = database(&folder);
    let (reader, mover) = (connect(&path).unwrap(), connect(&path).unwrap());
    let row = "INSERT INTO t (text) VALUES ('x')";
    first.execute_batch(row).unwrap();
    let snapshot = snapshot(&reader).unwrap();
    first.execute_batch(row).unwrap();
    let (pages, moved) = checkpoint(&mover);
    assert!(moved < pages, "{moved} of {pages} moved");
    drop(snapshot);
    let (pages, moved) = checkpoint(&mover);
    assert_eq!(moved, pages);
}

#[test]
fn the_system_is_told_to_write_the_file_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.db");
    std::fs::write(&path, [1; 4_096]).unwrap();
    write_back(&File::open(&path).unwrap()).unwrap();
    // A pipe has nothing to write back, and says so.
    #[cfg(target_os = "linux")]
    {
        let (_reader, writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(writer));
        assert!(write_back(&pipe).is_err());
    }
}

#[test]
fn all_of_the_log_is_moved_in_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _first) = database(&folder);
    let writer = Arc::new(SqliteWriter::open(&path).unwrap());
    for id in 0..10 {
        put(&writer, id, "x");
    }
    // The file without its log has all rows.
    let alone = folder.path().join("alone.db");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        std::fs::copy(&path, &alone).unwrap();
        let copy = Connection::open(&alone).unwrap();
        let rows = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
        if rows == Ok(10) {
            return;
        }
        assert!(Instant::now() < until, "{rows:?} rows in the file");
        std::thread::sleep(TIDY);
    }
}

fn database(folder: &tempfile::TempDir) -> (PathBuf, Connection) {
    let path = folder.path().join("broker.db");
    let connection = Connection::open(&path).unwrap();
    let table = "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)";
    connection.execute_batch(table).unwrap();
    (path, connection)
}

fn put(writer: &Arc<SqliteWriter>, id: i64, text: &str) {
    let transaction = writer.begin().unwrap();
    let values = [Value::Number(id), Value::Text(Some(text.into()))];
    let sql = "INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text";
    transaction.execute(sql, values).unwrap();
    transaction.commit().unwrap();
}

/// Pages of the log, and those of them that have been moved by now.
fn checkpoint(mover: &Connection) -> (u32, u32) {
    let pragma = "PRAGMA wal_checkpoint(PASSIVE)";
    let counts = mover.query_row(pragma, [], |row| Ok((row.get(1)?, row.get(2)?)));
    counts.unwrap()
}
