//! What was changed, on disk before it is changed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{HostError, HostPlan, resolver::Resolver};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// Everything that is needed to undo a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Which boot of the machine: nothing but files outlives it.
    pub(super) boot: String,
    pub(super) namespace: Namespace,
    /// What the sysctl was, if it was changed.
    pub(super) valid_mark: Option<String>,
    pub(super) resolver: Resolver,
    pub(super) pinned: Vec<(String, Vec<IpAddr>)>,
    pub(super) plan: HostPlan,
}

impl Record {
    /// Reads it, if there is one.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, HostError> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HostError::file("read", file, error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| HostError::Record {
                file: file.to_owned(),
                source,
            })
    }

    /// Writes it, for this user alone. On disk when it returns.
    pub(super) fn write(&self, file: &Path) -> Result<(), HostError> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| HostError::Record {
            file: file.to_owned(),
            source,
        })?;
        replace(file, &text, 0o600).map_err(|source| HostError::file("write", file, source))
    }

    /// Removes it; false if there was none.
    pub(super) fn remove(file: &Path) -> Result<bool, HostError> {
        match fs::remove_file(file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(HostError::file("remove", file, error)),
        }
    }

    /// Whether it is about the namespace that this process is in. After a reboot every namespace is a new one, and only
    /// files are left to undo.
    pub(super) fn check_namespace(&self, file: &Path) -> Result<(), HostError> {
        if self.boot != boot_id() || self.namespace.inode == Namespace::of_this_process()?.inode {
            return Ok(());
        }
        let namespace = match &self.namespace.name {
            Some(name) => format!("the network namespace {name}"),
            None => "another network namespace".to_owned(),
        };
        Err(HostError::OtherNamespace {
            file: file.to_owned(),
            namespace,
        })
    }
}

/// Replaces a file whole: after a crash there is the old content or the new.
pub(super) fn replace(file: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".draft");
    let draft = Path::new(&draft);
    // A draft of a killed program, if there is one, may have another mode.
    let _ = fs::remove_file(draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(draft)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(draft, file));
    if let Err(error) = written {
        let _ = fs::remove_file(draft);
        return Err(error);
    }
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Namespace {
    inode: u64,
    /// As `ip netns` knows it.
    pub(super) name: Option<String>,
    /// Whether it is that of the machine's first process, as far as we may know.
    pub(super) is_first: bool,
}

impl Namespace {
    /// The one that this process is in.
    pub(super) fn of_this_process() -> Result<Self, HostError> {
        let path = Path::new("/proc/self/ns/net");
        let own = fs::metadata(path).map_err(|source| HostError::file("look at", path, source))?;
        let is_own = |other: &fs::Metadata| (other.dev(), other.ino()) == (own.dev(), own.ino());
        let name = fs::read_dir(NAMES).ok().and_then(|names| {
            names
                .flatten()
                .find(|entry| fs::metadata(entry.path()).is_ok_and(|other| is_own(&other)))
                .and_then(|entry| entry.file_name().into_string().ok())
        });
        // Without root nobody tells; then the likely thing is assumed.
        let is_first =
            fs::metadata("/proc/1/ns/net").map_or(name.is_none(), |other| is_own(&other));
        Ok(Self {
            inode: own.ino(),
            name,
            is_first,
        })
    }
}

/// Which boot of the machine this is.
pub(super) fn boot_id() -> String {
    // Without it, every boot is taken for the same.
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
