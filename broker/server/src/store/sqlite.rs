//! The one connection that writes to SQLite's file.
//!
//! A statement takes microseconds, and to have another thread run it takes more: each runs where it is asked for, which is
//! the [writer](super::writer)'s own thread. Reads have connections of their own, and so has what moves the log into the file:
//! that takes milliseconds, and nobody should have to wait for it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, ToSql, Transaction, TransactionBehavior};

use super::database::PATIENCE;
use super::row::Value;

/// Statements that are kept ready: all that there are.
const STATEMENTS: usize = 64;
/// Kibibytes of pages that the writer keeps in memory: the inner pages of all tables and indexes, and what is new.
const CACHE: i32 = 256;
/// How long what is written stays in the log alone. What is written twice in this time is moved once.
const TIDY: Duration = Duration::from_millis(50);
/// How long nothing must have been written for all of the log to be moved.
const QUIET: Duration = Duration::from_millis(250);
/// Pages from which on the log is made to begin anew, which it can't by itself while somebody goes on writing.
const LONG_LOG: u32 = 128_000;
/// How long that may keep the writer waiting for those who read what was before.
const RESTART_PATIENCE: Duration = Duration::from_millis(10);
/// Pages from which on the writer moves the rest itself, should that not have succeeded.
const LONGEST_LOG: u32 = 4 * LONG_LOG;

/// The connection, which is made anew after a failure.
#[derive(Debug)]
pub(super) struct SqliteWriter {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
    tidying: Mutex<Option<Tidying>>,
    /// Closed after all connections: a process that closes a file gives up its locks on it, SQLite's as well.
    _file: Arc<File>,
}

/// The thread that moves the log into the file; it is told of each commit, and ends when it can be told no more.
#[derive(Debug)]
struct Tidying {
    committed: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl SqliteWriter {
    /// Opens the file, which has its tables.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let (committed, commits) = sync_channel(1);
        let connection = connect(path)?;
        let mover = connect(path)?;
        mover.busy_timeout(RESTART_PATIENCE)?;
        let reader = connect(path)?;
        let file = OpenOptions::new().write(true).open(path);
        let file = Arc::new(file.map_err(|_| rusqlite::Error::InvalidPath(path.into()))?);
        let thread = std::thread::spawn({
            let file = Arc::clone(&file);
            move || tidy(&mover, &reader, &file, &commits)
        });
        Ok(Self {
            path: path.into(),
            connection: Mutex::new(Some(connection)),
            tidying: Mutex::new(Some(Tidying { committed, thread })),
            _file: file,
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> rusqlite::Result<SqliteTx> {
        self.execute("BEGIN IMMEDIATE", [])?;
        Ok(SqliteTx(Arc::clone(self)))
    }

    /// Closes the connection, and has the log give back what it takes, if it can.
    pub(super) fn start_afresh(&self) {
        self.disconnect();
        // If there is no room for that either, the next write says so.
        let _ = self.row("PRAGMA wal_checkpoint(TRUNCATE)", []);
    }

    /// Closes the file.
    pub(super) fn close(&self) {
        let tidying = self.tidying().take();
        if let Some(Tidying { committed, thread }) = tidying {
            drop(committed);
            // It fails only if it panicked, and then its connection is closed, too.
            let _ = thread.join();
        }
        self.disconnect();
    }

    fn disconnect(&self) {
        self.lock().take();
    }

    fn commit(&self) -> rusqlite::Result<()> {
        self.execute("COMMIT", [])?;
        if let Some(tidying) = &*self.tidying() {
            // It is full when the thread knows already.
            let _ = tidying.committed.try_send(());
        }
        Ok(())
    }

    fn tidying(&self) -> MutexGuard<'_, Option<Tidying>> {
        self.tidying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> rusqlite::Result<usize> {
        self.run(sql, |statement| {
            bind(statement, values)?;
            statement.raw_execute()
        })
    }

    fn row(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> rusqlite::Result<Option<Vec<Value>>> {
        self.run(sql, |statement| {
            bind(statement, values)?;
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let value = |column| match row.get_ref(column)? {
                ValueRef::Null => Ok(Value::Text(None)),
                ValueRef::Integer(number) => Ok(Value::Number(number)),
                other => Ok(Value::Text(Some(other.as_str()?.into()))),
            };
            (0..columns).map(value).collect::<Result<_, _>>().map(Some)
        })
    }

    fn run<T>(
        &self,
        sql: &str,
        work: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut connection = self.lock();
        let connection = match &mut *connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.path)?),
        };
        let mut statement = connection.prepare_cached(sql)?;
        work(&mut statement)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        // What a transaction has done when somebody panics is taken back.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction; taken back when it is dropped without having been committed.
pub(super) struct SqliteTx(Arc<SqliteWriter>);

impl SqliteTx {
    /// Runs a statement; returns how many rows it changed.
    pub(super) fn execute(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> rusqlite::Result<usize> {
        self.0.execute(sql, values)
    }

    /// The first row of an answer.
    pub(super) fn row(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> rusqlite::Result<Option<Vec<Value>>> {
        self.0.row(sql, values)
    }

    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.0.commit()
    }

    pub(super) fn rollback(self) -> rusqlite::Result<()> {
        self.take_back()
    }

    fn take_back(&self) -> rusqlite::Result<()> {
        match &*self.0.lock() {
            Some(connection) if !connection.is_autocommit() => connection.execute_batch("ROLLBACK"),
            _ => Ok(()),
        }
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        // If it can't be taken back, the next one can't begin, and says so.
        let _ = self.take_back();
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", LONGEST_LOG)?;
    connection.pragma_update(None, "cache_size", -CACHE)?;
    Ok(connection)
}

/// Moves the log into the file while there are commits, and what is left once there has been none for a while.
fn tidy(mover: &Connection, reader: &Connection, file: &File, commits: &Receiver<()>) {
    loop {
        match commits.recv_timeout(QUIET) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                move_log(mover, "PASSIVE");
                if commits.recv().is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // What is committed from here on is not moved this time: when nothing is left in the log SQLite syncs the file,
        // and those who wait for the log's own sync wait for that as well.
        let snapshot = snapshot(reader);
        let until = Instant::now() + TIDY;
        loop {
            match commits.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let pages = move_log(mover, "PASSIVE");
        drop(snapshot);
        // What can't be written is said by the sync before the log begins anew.
        let _ = write_back(file);
        if pages.is_some_and(|pages| pages >= LONG_LOG) {
            // Nobody can write while the log begins anew; so that there is little left to do by then, all is moved and on
            // disk before, while others write.
            let _ = file.sync_data();
            move_log(mover, "PASSIVE");
            move_log(mover, "RESTART");
        }
    }
}

/// Reads what is committed by now, until it is dropped. Nothing later is moved meanwhile.
fn snapshot(reader: &Connection) -> rusqlite::Result<Transaction<'_>> {
    let snapshot = Transaction::new_unchecked(reader, TransactionBehavior::Deferred)?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(snapshot)
}

/// Has the system begin to write what was moved, and waits for nothing. By itself it begins half a minute later, with
/// everything that has come together by then, and the log's syncs stand in one queue with that.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "std has no such call, nor has a safe crate")]
fn write_back(file: &File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and no memory is passed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
fn write_back(_file: &File) -> std::io::Result<()> {
    Ok(())
}

/// Moves what is in the log; the pages that it has. What can't be moved now, for want of room or because somebody reads
/// what was before, is moved later.
fn move_log(mover: &Connection, mode: &str) -> Option<u32> {
    let pragma = format!("PRAGMA wal_checkpoint({mode})");
    let pages = mover.query_row(&pragma, [], |row| row.get(1));
    pages.ok()
}

/// A place that is named `$3` has the third value, wherever in the statement it is.
fn bind(
    statement: &mut Statement<'_>,
    values: impl IntoIterator<Item = Value>,
) -> rusqlite::Result<()> {
    let values: Vec<_> = values.into_iter().collect();
    for place in 1..=statement.parameter_count() {
        let name = statement.parameter_name(place).unwrap_or_default();
        let value = name
            .trim_start_matches('$')
            .parse()
            .ok()
            .and_then(|n: usize| values.get(n.checked_sub(1)?));
        let value = value.ok_or_else(|| rusqlite::Error::InvalidParameterName(name.into()))?;
        statement.raw_bind_parameter(place, value)?;
    }
    Ok(())
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(Some(text)) => text.as_str().into(),
            Self::Text(None) => Null.into(),
            Self::Number(number) => (*number).into(),
        })
    }
}

#[cfg(test)]
mod tests;
