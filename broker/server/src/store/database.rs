//! One face for SQLite and PostgreSQL: statements go in with numbered places (`$1`), rows come out as text and numbers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::StoreError;
use super::row::{Row, Value};
use super::sqlite::SqliteWriter;
use super::transaction::{Begun, Tx};

/// Readers at the same time.
const READERS: u32 = 4;
/// Bytes of a page of SQLite's file, if it is made now. A lease changes some thirty pages, most of them in one place, since ids are
/// hashes; each is written whole, twice, and at the usual 4 KiB the disk is what ends first.
const PAGE: u32 = 1_024;
/// How long a statement waits for a connection, or for another process that has SQLite's file.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

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
pub(super) use statement;

/// A database that is open.
#[derive(Clone, Debug)]
pub(super) enum Database {
    /// One connection writes; the others see what it has committed, and never wait for it.
    Sqlite {
        writer: Arc<SqliteWriter>,
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
            .page_size(PAGE)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .foreign_keys(true);
        let mut first = options.clone().connect().await.map_err(failed)?;
        // A bad page is found now, and not when what is on it is needed.
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut first)
            .await
            .map_err(failed)?;
        if verdict != "ok" {
            let reason = verdict;
            return Err(StoreError::Corrupt { place, reason });
        }
        let migrated = sqlx::migrate!("./migrations/sqlite").run(&mut first).await;
        migrated.map_err(|error| StoreError::migration(&place, &error))?;
        // A file does not go away as a server may, and to ask for it each time is another turn of the connection's thread.
        let readers = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(failed)?;
        let writer = SqliteWriter::open(path);
        let writer = Arc::new(writer.map_err(|error| StoreError::sqlite(&place, &error))?);
        first.close().await.map_err(failed)?;
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
                writer.close();
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// Whether what is written keeps the thread that does it from anything else.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }

    /// After a write that found no room. SQLite may have left its transaction open, and the next one would then only seem to
    /// be written, so that connection is never used again; and its log gives back what it takes, if it can.
    pub(super) fn start_afresh(&self) {
        if let Self::Sqlite { writer, .. } = self {
            writer.start_afresh();
        }
    }

    /// Begins a transaction; on a thread that may be kept, if it [blocks](Self::blocks).
    pub(super) async fn begin(&self, place: &str) -> Result<Tx, StoreError> {
        let begun = match self {
            Self::Sqlite { writer, .. } => {
                let begun = writer.begin().map(Begun::Sqlite);
                begun.map_err(|error| StoreError::sqlite(place, &error))?
            }
            Self::Postgres(pool) => {
                let begun = pool.begin().await.map(Begun::Postgres);
                begun.map_err(|error| StoreError::database(place, &error))?
            }
        };
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
