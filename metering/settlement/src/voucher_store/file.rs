//! The store's file: who may open it, and what can be wrong with it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipsx_metering::{ChannelId, VerifyError};
use rusqlite::Connection;

/// The store could not do what was asked; what it held before it still holds.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process ({}). Stop that one first", path.display(), process(pid))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process, if it could be read who it is.
        pid: Option<u32>,
    },
    /// Not a database, or a damaged one.
    #[error("{} is damaged: {reason}. It is left as it is: restore it from a copy", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No space for one more voucher.
    #[error("no room to write: {} was not changed. Free some space, or raise the limit on files", .0.display())]
    Full(PathBuf),
    /// The vouchers in it are for another contract.
    #[error("{} holds vouchers of another contract or chain. Use one store for each", .0.display())]
    OtherContract(PathBuf),
    /// A voucher or reservation came before its channel.
    #[error("channel {0} is not known here")]
    UnknownChannel(ChannelId),
    /// The voucher is not from the channel's session key.
    #[error("the voucher for channel {channel} is not valid: {reason}")]
    NotTheirs {
        /// The channel.
        channel: ChannelId,
        /// What is wrong with the signature.
        reason: VerifyError,
    },
    /// The file system failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The database failed in another way.
    #[error("the voucher store {} failed: {reason}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
}

/// A write waits this long for that of another process.
pub(super) const BUSY: Duration = Duration::from_secs(10);
/// Pages of 4 KiB that the log grows by before they are moved into the database, and kibibytes of pages in memory: the
/// vouchers of a hundred thousand channels.
const SETTINGS: &str =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
     PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -32768";

/// Result codes of SQLite.
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;
/// A write stopped short: over a limit on the size of files, which SQLite tells apart from a full disk.
const IOERR_WRITE: i32 = 10 | 3 << 8;
/// No room for the index of the log.
const IOERR_SHMSIZE: i32 = 10 | 19 << 8;

/// A connection that writes.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch(SETTINGS)?;
    Ok(connection)
}

pub(super) fn database_error(path: &Path, error: sqlx::Error) -> StoreError {
    let code = error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|code| code.parse().ok());
    coded(path, code.unwrap_or_default(), &error)
}

pub(super) fn sqlite_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    let code = error.sqlite_error().map(|error| error.extended_code);
    coded(path, code.unwrap_or_default(), error)
}

fn coded(path: &Path, code: i32, error: &impl ToString) -> StoreError {
    let path = path.to_path_buf();
    // SQLite's primary result code is the low byte of the extended one.
    match (code, code & 0xff) {
        (_, CORRUPT | NOT_A_DATABASE) => StoreError::Corrupt {
            path,
            reason: error.to_string(),
        },
        (IOERR_WRITE | IOERR_SHMSIZE, _) | (_, FULL) => StoreError::Full(path),
        _ => StoreError::Database {
            path,
            reason: error.to_string(),
        },
    }
}

fn process(pid: &Option<u32>) -> String {
    pid.map_or("which one is not known".into(), |pid| format!("pid {pid}"))
}

/// Locks a file beside the database, and writes into it who did: SQLite's own locks would let a second process in
/// between two vouchers.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let mut file = private_options()
        .open(&name)
        .map_err(io_error("open", &name))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The lock is what counts; without a readable name it is refused all the same.
            let _ = file.read_to_string(&mut owner);
            return Err(StoreError::InUse {
                path: path.to_path_buf(),
                pid: owner.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &name)(error)),
    }
    let owner = format!("{:<10}\n", std::process::id());
    // A full disk must not keep the store closed: its vouchers can still be claimed.
    if let Err(error) = file.write_all(owner.as_bytes()) {
        tracing::warn!(file = %name.display(), %error, "who has the vouchers open could not be noted");
    }
    Ok(file)
}

/// Makes the database file readable by its user alone; SQLite gives its other files the same mode.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    private_options()
        .open(path)
        .map(drop)
        .map_err(io_error("open", path))
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        action,
        path: path.to_path_buf(),
        source: Arc::new(source),
    }
}
