//! The databases' files, and when one has been replaced.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use ipsx_market::evidence::{DatabaseBuild, DatabaseKind};
use ipsx_metering::UnixSeconds;
use maxminddb::Reader;
use serde::Deserialize;

use super::{Databases, PlacerError};

/// Most characters of a database's name for itself.
const LONGEST_NAME: usize = 80;

/// A database in memory.
#[derive(Debug)]
pub(super) struct Database {
    reader: Reader<Vec<u8>>,
    pub(super) build: DatabaseBuild,
}

impl Database {
    /// What it says of an address; one of a version that it does not hold is an unknown one.
    pub(super) fn row<'d, T: Deserialize<'d>>(&'d self, address: IpAddr) -> Option<T> {
        self.reader.lookup(address).ok()?.decode().ok()?
    }
}

/// By what a file is told from the one that replaced it, or was written over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

#[derive(Debug)]
struct Watched {
    kind: DatabaseKind,
    key: &'static str,
    path: PathBuf,
    /// Of the file that was read last, whether it could be used or not.
    seen: Option<Mark>,
}

/// The files that are watched.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<Watched>);

impl Files {
    pub(super) fn new(databases: &Databases<'_>) -> Self {
        let named = [
            (DatabaseKind::Country, "country_db", databases.country),
            (DatabaseKind::City, "city_db", databases.city),
            (DatabaseKind::Asn, "asn_db", databases.asn),
        ];
        let watched = named.into_iter().filter_map(|(kind, key, path)| {
            Some(Watched {
                kind,
                key,
                path: path?.into(),
                seen: None,
            })
        });
        Self(watched.collect())
    }

    /// Reads each file that is not the one that was read last. One that is missing for a moment, as while it is replaced,
    /// is left for the next time, unless it has never been there.
    pub(super) fn changed(
        &mut self,
    ) -> impl Iterator<Item = (DatabaseKind, Result<Database, PlacerError>)> {
        self.0.iter_mut().filter_map(|file| {
            let mark = mark(&file.path);
            if file.seen.is_some() && (mark.is_none() || mark == file.seen) {
                return None;
            }
            file.seen = mark;
            Some((file.kind, file.read()))
        })
    }
}

impl Watched {
    fn read(&self) -> Result<Database, PlacerError> {
        let failed = |reason: String| PlacerError {
            key: self.key,
            path: self.path.clone(),
            reason,
        };
        let reader =
            Reader::open_readfile(&self.path).map_err(|error| failed(error.to_string()))?;
        let metadata = reader.metadata();
        // Its end may be whole, where it describes itself, and the rest not.
        let any = if metadata.ip_version == 6 {
            IpAddr::from([0u16; 8])
        } else {
            IpAddr::from([0u8; 4])
        };
        reader
            .lookup(any)
            .map_err(|error| failed(error.to_string()))?;
        let build = DatabaseBuild {
            database: self.kind,
            name: plain(&metadata.database_type),
            built_at: UnixSeconds(metadata.build_epoch),
        };
        Ok(Database { reader, build })
    }
}

/// What goes into pages and logs as it is.
fn plain(name: &str) -> String {
    let usual = |c: &char| c.is_ascii_alphanumeric() || "-_. ".contains(*c);
    name.chars().filter(usual).take(LONGEST_NAME).collect()
}

fn mark(path: &PathBuf) -> Option<Mark> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Mark {
        inode,
        bytes: metadata.len(),
        modified: metadata.modified().ok(),
    })
}
