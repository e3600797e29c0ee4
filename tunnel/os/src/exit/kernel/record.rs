//! What a kernel exit changed on this host, on disk before it is changed, so that it can be undone after any death.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::KernelExitError;

/// How the files' names begin; the interface's name and an ending follow.
const FILE: &str = "kernel-exit-";

/// One setting below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sysctl {
    pub(super) path: PathBuf,
    /// What it was.
    pub(super) was: String,
    /// What it became.
    pub(super) set: String,
}

/// A routing rule with a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoutingTable {
    /// Mark of the packets that take it.
    pub(super) mark: u32,
    /// The table's number.
    pub(super) table: u32,
    /// Whether it is for IPv6.
    pub(super) v6: bool,
}

/// Everything to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    /// The boot that it was done in: no change outlives a restart of the host.
    pub(super) boot: String,
    /// The network namespace that it was done in.
    pub(super) namespace: String,
    /// The table of the packet filter.
    pub(super) table: String,
    /// Marks of the leases' flows begin with these 16 bits.
    pub(super) marks: u32,
    /// Addresses added, each with its interface.
    pub(super) addresses: Vec<(String, ipsx_tunnel_core::IpNet)>,
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) routing: Vec<RoutingTable>,
}

impl Changes {
    /// No changes yet, in this boot and namespace.
    pub(super) fn none(table: String, marks: u32) -> Result<Self, KernelExitError> {
        Ok(Self {
            boot: boot()?,
            namespace: namespace()?,
            table,
            marks,
            addresses: Vec::new(),
            sysctls: Vec::new(),
            routing: Vec::new(),
        })
    }

    /// Whether they were made since the host was started.
    pub(super) fn of_this_boot(&self) -> Result<bool, KernelExitError> {
        Ok(self.boot == boot()?)
    }

    /// Whether they were made in this process's network namespace.
    pub(super) fn of_this_namespace(&self) -> Result<bool, KernelExitError> {
        Ok(self.namespace == namespace()?)
    }
}

/// The record of one interface, held by one process at a time.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    /// Locked for as long as this lives; the lock goes with the process.
    _lock: File,
}

impl Record {
    /// Takes the record of an interface; none if another process has it.
    pub(super) fn take(folder: &Path, interface: &str) -> Result<Option<Self>, KernelExitError> {
        let lock_path = folder.join(format!("{FILE}{interface}.lock"));
        let failed = |source| KernelExitError::File {
            path: lock_path.clone(),
            source,
        };
        let lock = private().open(&lock_path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever held it before may have removed the file between our opening and locking it.
        let same = fs::metadata(&lock_path)
            .and_then(|there| lock.metadata().map(|held| there.ino() == held.ino()));
        let path = folder.join(format!("{FILE}{interface}.json"));
        Ok(same.unwrap_or(false).then_some(Self { path, _lock: lock }))
    }

    /// The interfaces that have a record in a folder.
    pub(super) fn interfaces(folder: &Path) -> Result<Vec<String>, KernelExitError> {
        let failed = |source| KernelExitError::File {
            path: folder.to_owned(),
            source,
        };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut interfaces = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let interface = name
                .to_str()
                .and_then(|name| name.strip_prefix(FILE)?.strip_suffix(".json"));
            interfaces.extend(interface.map(str::to_owned));
        }
        interfaces.sort_unstable();
        Ok(interfaces)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was recorded; none if nothing was.
    pub(super) fn read(&self) -> Result<Option<Changes>, KernelExitError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| self.failed(source))?,
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| KernelExitError::Record {
                path: self.path.clone(),
                source,
            })
    }

    /// Records changes. They are on disk when this returns.
    pub(super) fn write(&self, changes: &Changes) -> Result<(), KernelExitError> {
        let text = serde_json::to_vec(changes).map_err(|source| KernelExitError::Record {
            path: self.path.clone(),
            source,
        })?;
        let new = self.path.with_extension("new");
        let written = || -> io::Result<()> {
            let mut file = private().truncate(true).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            if let Some(folder) = self.path.parent() {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        written().map_err(|source| self.failed(source))
    }

    /// Removes the record: everything has been undone.
    pub(super) fn remove(&self) -> Result<(), KernelExitError> {
        for path in [&self.path, &self.path.with_extension("lock")] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> KernelExitError {
        KernelExitError::File {
            path: self.path.clone(),
            source,
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o600);
    options
}

fn boot() -> Result<String, KernelExitError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|source| KernelExitError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

fn namespace() -> Result<String, KernelExitError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let link = fs::read_link(path).map_err(|source| KernelExitError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(link.to_string_lossy().into_owned())
}
