//! One face for SQLite and PostgreSQL: statements go in with numbered places (`$1`), rows come out as text and numbers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ipsx_metering::Address;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Postgres, Row as _, Sqlite, Transaction};

use super::StoreError;

/// Readers at the same time.
const READERS: u32 = 4;
/// How long a statement waits for a connection, or for another process that has SQLite's file.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is bound to a place of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A text, or none.
    Text(Option<String>),
    /// A number.
    Number(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A row of an answer; columns are counted from 0.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// A column with a text.
    pub(crate) fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    /// A column with a text or NULL.
    pub(crate) fn maybe_text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    /// A column with a number.
    pub(crate) fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    /// A column with a number or NULL.
    pub(crate) fn maybe_number(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A statement with its values, for whichever database runs it.
macro_rules! statement {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        query
    }};
}

/// A transaction: everything that is written goes through one, and counts once it is committed.
pub(crate) struct Tx {
    begun: Begun,
    place: String,
}

enum Begun {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    /// Waits until no other broker writes for these wallets, until the end of the transaction. All are taken at once and
    /// in one order, so that no two brokers wait for each other.
    pub(super) async fn take_turns(
        &mut self,
        wallets: BTreeSet<Address>,
    ) -> Result<(), StoreError> {
        if wallets.is_empty() || matches!(self.begun, Begun::Sqlite(_)) {
            return Ok(());
        }
        let number = |wallet: &Address| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&wallet[..8]);
            i64::from_be_bytes(bytes)
        };
        let numbers: BTreeSet<i64> = wallets.iter().map(number).collect();
        let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
        let sql =
            "SELECT pg_advisory_xact_lock(n) FROM unnest(string_to_array($1, ',')::bigint[]) n";
        self.execute(sql, [numbers.join(",").into()])
            .await
            .map(drop)
    }

    /// Runs a statement; returns how many rows it changed.
    pub(crate) async fn execute(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, StoreError> {
        let done = match &mut self.begun {
            Begun::Sqlite(tx) => {
                let done = statement!(sql, values).execute(&mut **tx).await;
                done.map(|done| done.rows_affected())
            }
            Begun::Postgres(tx) => {
                let done = statement!(sql, values).execute(&mut **tx).await;
                done.map(|done| done.rows_affected())
            }
        };
        done.map_err(|error| StoreError::database(&self.place, &error))
    }

    /// The first row of an answer.
    pub(crate) async fn row(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Option<Row>, StoreError> {
        let row = match &mut self.begun {
            Begun::Sqlite(tx) => {
                let row = statement!(sql, values).fetch_optional(&mut **tx).await;
                row.map(|row| row.map(Row::Sqlite))
            }
            Begun::Postgres(tx) => {
                let row = statement!(sql, values).fetch_optional(&mut **tx).await;
                row.map(|row| row.map(Row::Postgres))
            }
        };
        row.map_err(|error| StoreError::database(&self.place, &error))
    }

    /// A value that can't be read, or not be written.
    pub(crate) fn damaged(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::damaged(&self.place, what, reason)
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let done = match self.begun {
            Begun::Sqlite(tx) => tx.commit().await,
            Begun::Postgres(tx) => tx.commit().await,
        };
        done.map_err(|error| StoreError::database(&self.place, &error))
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        let done = match self.begun {
            Begun::Sqlite(tx) => tx.rollback().await,
            Begun::Postgres(tx) => tx.rollback().await,
        };
        done.map_err(|error| StoreError::database(&self.place, &error))
    }
}

/// A database that is open.
#[derive(Clone, Debug)]
pub(super) enum Database {
    /// One connection writes; the others see what it has committed, and never wait for it.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

impl Database {
    /// Opens the file, making it if there is none, and brings its tables up to date.
    pub(super) async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let failed = |error| StoreError::database(&place, &error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .foreign_keys(true);
        // A file does not go away as a server may, and to ask for it each time is another turn of the connection's thread.
        let writer = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        // A bad page is found now, and not when what is on it is needed.
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&writer)
            .await
            .map_err(failed)?;
        if verdict != "ok" {
            let reason = verdict;
            return Err(StoreError::Corrupt { place, reason });
        }
        let migrated = sqlx::migrate!("./migrations/sqlite").run(&writer).await;
        migrated.map_err(|error| StoreError::migration(&place, &error))?;
        let readers = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(failed)?;
        Ok(Self::Sqlite { writer, readers })
    }

    /// Connects to the server, and brings the database's tables up to date, one broker after the other.
    pub(super) async fn open_postgres(
        url: &str,
        place: &str,
        left_alone: Option<&str>,
    ) -> Result<Self, StoreError> {
        let failed = |error| StoreError::database(place, &error);
        let pool = postgres_pool(url, READERS + 1, left_alone)
            .await
            .map_err(failed)?;
        let migrated = sqlx::migrate!("./migrations/postgres").run(&pool).await;
        migrated.map_err(|error| StoreError::migration(place, &error))?;
        let durable: String = sqlx::query_scalar("SHOW synchronous_commit")
            .fetch_one(&pool)
            .await
            .map_err(failed)?;
        if durable == "off" {
            return Err(StoreError::NotDurable(place.into()));
        }
        Ok(Self::Postgres(pool))
    }

    /// More connections to a database whose tables are up to date.
    pub(super) async fn connect_postgres(
        url: &str,
        place: &str,
        connections: u32,
        left_alone: Option<&str>,
    ) -> Result<Self, StoreError> {
        let pool = postgres_pool(url, connections, left_alone).await;
        pool.map(Self::Postgres)
            .map_err(|error| StoreError::database(place, &error))
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// After a write that found no room. SQLite may have left its transaction open, and the next one would then only seem to
    /// be written, so that connection is never used again; and its log gives back what it takes, if it can.
    pub(super) async fn start_afresh(&self) {
        let Self::Sqlite { writer, .. } = self else {
            return;
        };
        if let Ok(connection) = writer.acquire().await {
            let _ = connection.close().await;
        }
        // If there is no room for that either, the next write says so.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(writer)
            .await;
    }

    pub(super) async fn begin(&self, place: &str) -> Result<Tx, StoreError> {
        let begun = match self {
            Self::Sqlite { writer, .. } => writer.begin().await.map(Begun::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(Begun::Postgres),
        };
        let begun = begun.map_err(|error| StoreError::database(place, &error))?;
        Ok(Tx {
            begun,
            place: place.into(),
        })
    }

    /// All rows of an answer.
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { readers, .. } => {
                let rows = statement!(sql, values).fetch_all(readers).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(pool) => {
                let rows = statement!(sql, values).fetch_all(pool).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row of an answer.
    pub(super) async fn row(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { readers, .. } => {
                let row = statement!(sql, values).fetch_optional(readers).await?;
                row.map(Row::Sqlite)
            }
            Self::Postgres(pool) => {
                let row = statement!(sql, values).fetch_optional(pool).await?;
                row.map(Row::Postgres)
            }
        })
    }
}

/// A transaction in which nothing is asked for is taken back after `left_alone`: a broker that is cut off in the middle of
/// one must not keep others waiting for what it has locked.
async fn postgres_pool(
    url: &str,
    connections: u32,
    left_alone: Option<&str>,
) -> Result<PgPool, sqlx::Error> {
    let mut options: PgConnectOptions = url.parse()?;
    if let Some(time) = left_alone {
        options = options.options([("idle_in_transaction_session_timeout", time)]);
    }
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .connect_with(options.application_name("ipsx-broker"))
        .await
}
