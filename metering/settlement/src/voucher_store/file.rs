//! The store's file: who may open it, and what can be wrong with it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ipsx_metering::{ChannelId, VerifyError};

/// The store could not do what was asked; what it held before it still holds.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use by another process. Stop that one first", .0.display())]
    InUse(PathBuf),
    /// Not a database, or a damaged one.
    #[error("{} is damaged: {reason}. It is left as it is: restore it from a copy", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No space for one more voucher.
    #[error("the disk is full: {} was not changed. Free some space", .0.display())]
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
        source: io::Error,
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

pub(super) fn database_error(path: &Path, error: sqlx::Error) -> StoreError {
    // SQLite's primary result code is the low byte of the extended one.
    let code = error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|code| code.parse::<u32>().ok())
        .map(|code| code & 0xff);
    let path = path.to_path_buf();
    match code {
        Some(11 | 26) => StoreError::Corrupt {
            path,
            reason: error.to_string(),
        },
        Some(13) => StoreError::Full(path),
        _ => StoreError::Database {
            path,
            reason: error.to_string(),
        },
    }
}

/// Locks a file beside the database: SQLite's own locks would let a second process in between two vouchers.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = private_options()
        .open(&name)
        .map_err(io_error("open", &name))?;
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => StoreError::InUse(path.to_path_buf()),
        TryLockError::Error(e) => io_error("lock", &name)(e),
    })?;
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
        source,
    }
}
