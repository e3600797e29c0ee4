//! What the requester keeps on disk: one file per lease and one per payment channel, each replaced whole.
//!
//! Layout of the data folder: `leases/DEAL.json` ([`LeaseRecord`]), `channels/CHANNEL.json` (the meter's
//! [`ChannelState`]), `sessions/N.lock` (taken by the process that uses session key N).

mod durable;
mod lease;
mod slot;

use std::path::{Path, PathBuf};

use ipsx_metering::{ChannelId, ChannelState, DealId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit_code::{ExitCode, Failure};

pub use lease::{Ended, LeaseRecord, Stage};
pub use slot::Slot;
pub(crate) use slot::{SLOTS, session_key};

/// The requester's records in one data folder.
#[derive(Clone, Debug)]
pub struct Store {
    data: PathBuf,
}

impl Store {
    /// The records in `data`; made when something is first written.
    pub fn new(data: &Path) -> Self {
        Self { data: data.into() }
    }

    /// Writes a lease's record. Durable when it returns.
    pub fn put_lease(&self, record: &LeaseRecord) -> Result<(), Failure> {
        self.put("leases", &record.deal.id().to_string(), record)
    }

    /// Every lease, the newest first. A file that cannot be read is an error: it may be money.
    pub fn leases(&self) -> Result<Vec<LeaseRecord>, Failure> {
        let mut records = Vec::new();
        for path in self.files("leases")? {
            records.push(read::<LeaseRecord>(&path)?);
        }
        records.sort_by_key(|record| std::cmp::Reverse((record.signed_at, record.deal.id())));
        Ok(records)
    }

    /// One lease.
    pub fn lease(&self, deal: DealId) -> Result<Option<LeaseRecord>, Failure> {
        let path = self.path("leases", &deal.to_string());
        if path.exists() {
            read(&path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Writes what a channel's next voucher depends on. Durable when it returns.
    pub fn put_channel(&self, channel: ChannelId, state: &ChannelState) -> Result<(), Failure> {
        self.put("channels", &channel.to_string(), state)
    }

    /// What is known of a channel; a fresh state for a new one.
    pub fn channel(&self, channel: ChannelId) -> Result<ChannelState, Failure> {
        let path = self.path("channels", &channel.to_string());
        if path.exists() {
            read(&path)
        } else {
            Ok(ChannelState::default())
        }
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.data.join(kind).join(format!("{name}.json"))
    }

    fn files(&self, kind: &str) -> Result<Vec<PathBuf>, Failure> {
        let folder = self.data.join(kind);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failure("list", &folder, error)),
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        Ok(paths
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect())
    }

    fn put(&self, kind: &str, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let path = self.path(kind, name);
        let content =
            serde_json::to_vec_pretty(value).map_err(|error| failure("write", &path, error))?;
        durable::replace(&path, &content).map_err(|error| failure("write", &path, error))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let content = std::fs::read(path).map_err(|error| failure("read", path, error))?;
    serde_json::from_slice(&content).map_err(|error| {
        failure(
            "understand",
            path,
            format!("{error}; move the file away if it is not worth a repair"),
        )
    })
}

/// A file that cannot be used, with what to look at.
pub(crate) fn failure(action: &str, path: &Path, reason: impl std::fmt::Display) -> Failure {
    Failure::new(
        ExitCode::Storage,
        format!("can't {action} {}: {reason}", path.display()),
    )
}

/// Makes the folder of the records, open to the user alone, if it is missing.
pub fn make_folder(data: &Path) -> Result<(), Failure> {
    durable::make_private(data).map_err(|error| failure("make", data, error))
}

/// Writes a file that only the user can read, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Failure> {
    durable::replace(path, content).map_err(|error| failure("write", path, error))
}
