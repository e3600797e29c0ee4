//! What can be wrong with the store.

use ipsx_market::fleet::ShardId;
use ipsx_metering::{Address, DealId, RequestId};
use sqlx::migrate::MigrateError;

/// Codes of a damaged database: SQLite's SQLITE_CORRUPT (with its details) and SQLITE_NOTADB, PostgreSQL's data_corrupted
/// and index_corrupted.
const CORRUPT: [&str; 6] = ["11", "267", "523", "26", "XX001", "XX002"];

/// Codes of a full disk: SQLite's SQLITE_FULL, and what it says where a file may not grow or its log's index has no room;
/// PostgreSQL's disk_full.
const FULL: [&str; 4] = ["13", "778", "4874", "53100"];

/// The store failed, or holds what it should not.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database said no.
    #[error("the store {place}: {reason}")]
    Database {
        /// The file, or the server without user and password.
        place: String,
        /// What it said.
        reason: String,
    },
    /// A row can't be read, or a value not be written.
    #[error(
        "the store {place} holds a {what} that can't be read: {reason}. Restore it from a copy"
    )]
    Damaged {
        /// The file, or the server.
        place: String,
        /// Which kind of row.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// What is no database, or a damaged one.
    #[error("the store {place} is damaged: {reason}")]
    Corrupt {
        /// The file, or the server.
        place: String,
        /// What it said.
        reason: String,
    },
    /// No room for what was to be written; nothing of it was.
    #[error("the store {place} has no room: {reason}. Free space on its disk")]
    Full {
        /// The file, or the server.
        place: String,
        /// What it said.
        reason: String,
    },
    /// The tables are of another version of the program.
    #[error("the store {place}: {reason}")]
    Version {
        /// The file, or the server.
        place: String,
        /// Which, and what to do.
        reason: String,
    },
    /// PostgreSQL would answer before it has written.
    #[error(
        "the store {0}: synchronous_commit is off, so that a crash of the server would lose deals that are signed; set it to on, or to what waits for a standby"
    )]
    NotDurable(String),
    /// It was closed.
    #[error("the store {0} is closed")]
    Closed(String),
    /// Another broker has the shard, or has had it since.
    #[error("shard {0} is another broker's now; what this one holds for true of it may be wrong")]
    Fenced(ShardId),
    /// Another broker wrote a payer's account meanwhile.
    #[error("the account of payer {0} is not what this broker took it for")]
    Stale(Address),
    /// Another broker decided on a request meanwhile.
    #[error("request {0} rests no more")]
    RequestOver(RequestId),
    /// A second, different outcome of one deal.
    #[error("deal {0} has another outcome already; an outcome is never changed")]
    OtherOutcome(DealId),
}

impl StoreError {
    pub(super) fn database(place: &str, error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        Self::coded(place, code.as_deref().unwrap_or_default(), error)
    }

    pub(super) fn sqlite(place: &str, error: &rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        let code = code.map(|code| code.to_string());
        Self::coded(place, code.as_deref().unwrap_or_default(), error)
    }

    fn coded(place: &str, code: &str, error: &impl ToString) -> Self {
        let (place, reason) = (place.into(), error.to_string());
        match code {
            code if CORRUPT.contains(&code) => Self::Corrupt { place, reason },
            code if FULL.contains(&code) => Self::Full { place, reason },
            _ => Self::Database { place, reason },
        }
    }

    pub(super) fn damaged(place: &str, what: &'static str, reason: impl ToString) -> Self {
        Self::Damaged {
            place: place.into(),
            what,
            reason: reason.to_string(),
        }
    }

    pub(super) fn migration(place: &str, error: &MigrateError) -> Self {
        let version = |reason| Self::Version {
            place: place.into(),
            reason,
        };
        match error {
            MigrateError::VersionMissing(number) => version(format!(
                "a newer program made its tables (number {number} is unknown to this one); start that one"
            )),
            MigrateError::VersionMismatch(number) => version(format!(
                "another program made its tables (number {number} differs); start that one, or restore a copy"
            )),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::database(place, error)
            }
            error => Self::Database {
                place: place.into(),
                reason: error.to_string(),
            },
        }
    }
}
