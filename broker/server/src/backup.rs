//! `ipsx-broker backup` and `restore`: what a broker keeps, copied while it runs, and put back.
//!
//! A backup is a directory with the same files as the data directory, and `manifest.json` with their hashes. It is written
//! beside its place and renamed at the end, so that one that was interrupted is never taken for one. Whoever reads it is
//! the operator, as with the data directory: nobody but its owner may.

mod files;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::clock;
use crate::config::{BrokerConfig, StoreConfig};
use files::{digest, make_private_directory, move_aside, private_copy, sync_directory};

/// SQLite's files: copied by SQLite, so that a broker may go on writing.
const DATABASES: [&str; 2] = ["broker.db", "vouchers.db"];
/// Other files, each of which may be missing. The journal is copied last: it may know more than the databases, which rest
/// on it, and never less.
const PLAIN: [&str; 3] = ["operator.json", "operator.passphrase", "chain.journal"];
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// After the name of a file that is not in its place yet.
const ARRIVING: &str = ".restoring";

/// A backup was not made, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or directory.
    #[error("can't {action} {}: {reason}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// There is something where the backup should go.
    #[error("{} is there already; name another directory", .0.display())]
    Exists(PathBuf),
    /// No broker has ever been there.
    #[error("there is nothing to back up in {}; check data_dir", .0.display())]
    Nothing(PathBuf),
    /// What is no backup.
    #[error("{} is no backup of this program: {reason}", path.display())]
    NotOne {
        /// The directory.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A file that is not as it was when the backup was made.
    #[error("{} is not as it was when the backup was made: {reason}. Take another backup", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is different.
        reason: String,
    },
    /// A data directory with something in it.
    #[error(
        "{} is not empty; with --force, what is in it is moved aside first",
        .0.display()
    )]
    NotEmpty(PathBuf),
}

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The program that made it.
    version: String,
    /// Seconds since 1970.
    made_at: u64,
    /// `sqlite`, or `postgres`, whose database is not in it.
    store: String,
    files: Vec<Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Copies what the broker of this configuration keeps into a new directory, while it may be running. Returns the names of
/// the files.
pub async fn backup(config: &BrokerConfig, to: &Path) -> Result<Vec<String>, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.into()));
    }
    let sqlite = config.store == StoreConfig::Sqlite;
    let needed = if sqlite { "broker.db" } else { "vouchers.db" };
    if !config.data_dir.join(needed).exists() {
        return Err(BackupError::Nothing(config.data_dir.clone()));
    }
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        // Of one that was interrupted.
        fs::remove_dir_all(&unfinished).map_err(failed("remove", &unfinished))?;
    }
    make_private_directory(&unfinished)?;
    let mut files = Vec::new();
    for name in DATABASES {
        let from = config.data_dir.join(name);
        if from.exists() && (sqlite || name != "broker.db") {
            let copy = unfinished.join(name);
            snapshot(&from, &copy).await?;
            files.push(listed(name, &copy)?);
        }
    }
    for name in PLAIN {
        let from = match (name, &config.wallet) {
            ("operator.json", Some(wallet)) => wallet.clone(),
            _ => config.data_dir.join(name),
        };
        if from.exists() {
            let copy = unfinished.join(name);
            private_copy(&from, &copy)?;
            files.push(listed(name, &copy)?);
        }
    }
    let names = files.iter().map(|file| file.name.clone()).collect();
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        made_at: clock::now().0,
        store: if sqlite { "sqlite" } else { "postgres" }.into(),
        files,
    };
    files::write_private(&unfinished.join(MANIFEST), &pretty(&manifest))?;
    sync_directory(&unfinished)?;
    fs::rename(&unfinished, to).map_err(failed("make", to))?;
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_directory(parent)?;
    }
    Ok(names)
}

/// How a backup is put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// What is in the data directory may be moved aside.
    pub force: bool,
    /// No broker has made a promise since the backup: it was stopped before.
    pub was_stopped: bool,
}

/// What was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The files.
    pub files: Vec<String>,
    /// Where what was there before is now.
    pub moved_to: Option<PathBuf>,
}

/// Puts a backup into the data directory of this configuration, whose broker is not running. Nothing is touched before
/// every file of it was read and found as it was.
///
/// Unless the broker was stopped when the backup was made, it may have promised since then what the backup does not know:
/// the database forgets how long it has been there, so that the broker promises nothing until all of that has lapsed.
pub async fn restore(
    config: &BrokerConfig,
    from: &Path,
    options: RestoreOptions,
) -> Result<Restored, BackupError> {
    let manifest = verified(from)?;
    let data_dir = &config.data_dir;
    let not_ready = |error: crate::StartError| BackupError::File {
        action: "use",
        path: data_dir.clone(),
        reason: error.to_string(),
    };
    let _lock = crate::prepare(data_dir).map_err(not_ready)?;
    let there = files::names(data_dir)?;
    let there: Vec<_> = there
        .into_iter()
        .filter(|name| {
            name != "broker.lock" && !name.ends_with(ARRIVING) && !name.starts_with(files::ASIDE)
        })
        .collect();
    if !there.is_empty() && !options.force {
        return Err(BackupError::NotEmpty(data_dir.clone()));
    }
    // Copied and hashed again beside their places first: a full disk leaves what is there as it was.
    for file in &manifest.files {
        let copy = arriving(data_dir, &file.name);
        private_copy(&from.join(&file.name), &copy)?;
        same(&copy, file)?;
    }
    if !options.was_stopped && manifest.files.iter().any(|file| file.name == "broker.db") {
        forget_since_when(&arriving(data_dir, "broker.db")).await?;
    }
    let moved_to = move_aside(data_dir, &there, clock::now())?;
    for file in &manifest.files {
        let place = data_dir.join(&file.name);
        fs::rename(arriving(data_dir, &file.name), &place).map_err(failed("write", &place))?;
    }
    sync_directory(data_dir)?;
    Ok(Restored {
        files: manifest.files.into_iter().map(|file| file.name).collect(),
        moved_to,
    })
}

fn arriving(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(format!("{name}{ARRIVING}"))
}

/// A manifest all of whose files are there and as it says.
fn verified(from: &Path) -> Result<Manifest, BackupError> {
    let not_one = |reason: String| BackupError::NotOne {
        path: from.into(),
        reason,
    };
    let text = fs::read(from.join(MANIFEST)).map_err(|e| not_one(format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| not_one(format!("{MANIFEST}: {e}")))?;
    if manifest.format != FORMAT {
        return Err(not_one(format!(
            "its format is {}, and this program knows {FORMAT}",
            manifest.format
        )));
    }
    for file in &manifest.files {
        // Names of a manifest that somebody else wrote must not lead anywhere.
        if !DATABASES.contains(&file.name.as_str()) && !PLAIN.contains(&file.name.as_str()) {
            return Err(not_one(format!("it names a file {:?}", file.name)));
        }
        same(&from.join(&file.name), file)?;
    }
    Ok(manifest)
}

fn same(path: &Path, file: &Listed) -> Result<(), BackupError> {
    let changed = |reason: String| BackupError::Changed {
        path: path.into(),
        reason,
    };
    let (bytes, sha256) = digest(path).map_err(|error| changed(error.to_string()))?;
    if bytes != file.bytes {
        return Err(changed(format!(
            "it has {bytes} bytes instead of {}",
            file.bytes
        )));
    }
    if sha256 != file.sha256 {
        return Err(changed("its SHA-256 differs".into()));
    }
    Ok(())
}

/// A copy of a database as it is at one moment, whoever writes to it.
async fn snapshot(from: &Path, to: &Path) -> Result<(), BackupError> {
    let copied = async {
        let mut connection = open(from, true).await?;
        let done = sqlx::query("VACUUM INTO $1")
            .bind(to.display().to_string())
            .execute(&mut connection)
            .await;
        connection.close().await?;
        done
    };
    copied.await.map_err(failed("copy", from))?;
    files::make_private(to)
}

/// Makes a database one that has not been there all the time.
async fn forget_since_when(path: &Path) -> Result<(), BackupError> {
    let forgotten = async {
        let mut connection = open(path, false).await?;
        let done = sqlx::query("DELETE FROM meta WHERE key = $1")
            .bind(crate::operator::LEDGER)
            .execute(&mut connection)
            .await;
        connection.close().await?;
        done
    };
    forgotten.await.map(drop).map_err(failed("write", path))
}

async fn open(path: &Path, read_only: bool) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path);
    options.read_only(read_only).connect().await
}

fn listed(name: &str, path: &Path) -> Result<Listed, BackupError> {
    let (bytes, sha256) = digest(path).map_err(failed("read", path))?;
    Ok(Listed {
        name: name.into(),
        bytes,
        sha256,
    })
}

fn pretty(manifest: &Manifest) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    text.push(b'\n');
    text
}

fn failed<E: std::fmt::Display>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> BackupError + use<E> {
    let path = path.to_path_buf();
    move |error| BackupError::File {
        action,
        path,
        reason: error.to_string(),
    }
}
