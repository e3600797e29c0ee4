//! The host's resolver: it asks the gateway while a plan is in force.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    HostError,
    record::{Namespace, replace},
};
use crate::tool::Tool;

const FILE: &str = "/etc/resolv.conf";

/// Where `ip netns exec` takes the files from that it puts over those in `/etc`.
const NAMESPACES: &str = "/etc/netns";

/// How our file begins; another one is somebody else's, and stays.
const FIRST_LINE: &str = "# Written by ipsx connect --tun, which changes it back.";

/// What the file of the host points to where systemd-resolved answers for it.
const STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

const RESOLVECTL: Tool = Tool {
    program: "resolvectl",
    package: "systemd-resolved",
};

/// How the resolver is changed, decided before it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Resolver {
    /// Not at all.
    Kept,
    /// systemd-resolved is told about the interface, and forgets with it.
    Resolved,
    /// The file is replaced; the one before, a symbolic link perhaps, waits beside it under another name.
    Replaced { file: PathBuf },
    /// The file is a mount, so it can't be replaced: it is written over.
    Overwritten { file: PathBuf, before: Vec<u8> },
    /// There was no file, and perhaps no folder either.
    Created { file: PathBuf, folder_too: bool },
}

impl Resolver {
    /// Decides for the namespace of this process.
    pub(super) fn plan(namespace: &Namespace) -> Result<Self, HostError> {
        let file = Path::new(FILE);
        let content = fs::read(file).unwrap_or_default();
        if namespace.is_first {
            if Path::new("/run/systemd/resolve").exists() && asks_a_stub(&content) {
                return Ok(Self::Resolved);
            }
            return Self::of_file(file, is_mount(file));
        }
        let Some(name) = &namespace.name else {
            return Err(HostError::ForeignResolver(file.to_owned()));
        };
        // `ip netns exec` has mounted this one over the host's, if it was there.
        let own = Path::new(NAMESPACES).join(name).join("resolv.conf");
        let same = match (fs::metadata(&own), fs::metadata(file)) {
            (Ok(own), Ok(seen)) => (own.dev(), own.ino()) == (seen.dev(), seen.ino()),
            _ => false,
        };
        // Programs that run in the namespace already look at this very file: another one would not be seen.
        Self::of_file(&own, same || own.exists())
    }

    fn of_file(file: &Path, in_place: bool) -> Result<Self, HostError> {
        let owned = file.to_owned();
        match fs::symlink_metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Created {
                folder_too: file.parent().is_some_and(|folder| !folder.exists()),
                file: owned,
            }),
            Err(source) => Err(HostError::file("look at", file, source)),
            Ok(_) if !in_place => Ok(Self::Replaced { file: owned }),
            Ok(_) => Ok(Self::Overwritten {
                before: fs::read(file).map_err(|source| HostError::file("read", file, source))?,
                file: owned,
            }),
        }
    }

    /// Whether the files may be written, before anything depends on it.
    pub(super) fn check(&self) -> Result<(), HostError> {
        let (file, tried) = match self {
            Self::Kept | Self::Resolved => return Ok(()),
            Self::Overwritten { file, .. } => (file, File::options().append(true).open(file)),
            Self::Replaced { file } => (file, File::create_new(waiting(file))),
            // The folder may have to be made, which root alone can do.
            Self::Created { .. } => return Ok(()),
        };
        match tried {
            Ok(_) if matches!(self, Self::Replaced { .. }) => fs::remove_file(waiting(file)),
            // An earlier program's, which is put back first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
        .map_err(|source| HostError::Resolver {
            file: file.clone(),
            source,
        })
    }

    /// Makes the host ask `gateway`.
    pub(super) fn apply(&self, interface: &str, gateway: Ipv4Addr) -> Result<(), HostError> {
        let content = content(gateway);
        let (file, written) = match self {
            Self::Kept => return Ok(()),
            Self::Resolved => return tell_resolved(interface, gateway),
            Self::Replaced { file } => (file, replace_keeping(file, content.as_bytes())),
            Self::Overwritten { file, .. } => (file, overwrite(file, content.as_bytes())),
            Self::Created { file, .. } => (file, create(file, content.as_bytes())),
        };
        written.map_err(|source| HostError::Resolver {
            file: file.clone(),
            source,
        })
    }

    /// Makes the host ask another gateway than the one that it was told, unless somebody else has written the file since.
    pub(super) fn follow(&self, interface: &str, gateway: Ipv4Addr) -> Result<(), HostError> {
        match self {
            Self::Replaced { file }
            | Self::Overwritten { file, .. }
            | Self::Created { file, .. }
                if is_ours(file) =>
            {
                let written = overwrite(file, content(gateway).as_bytes());
                written.map_err(|source| HostError::file("write", file, source))
            }
            Self::Resolved => tell_resolved(interface, gateway),
            _ => Ok(()),
        }
    }

    /// Undoes [`apply`](Self::apply), as far as it came, unless somebody else has written the file since.
    pub(super) fn restore(&self) -> Result<(), HostError> {
        let (file, restored) = match self {
            Self::Kept | Self::Resolved => return Ok(()),
            Self::Replaced { file } => (file, put_back(file).map(drop)),
            Self::Overwritten { file, before } if is_ours(file) => (file, overwrite(file, before)),
            Self::Created { file, folder_too } if is_ours(file) => {
                (file, remove(file, *folder_too))
            }
            Self::Overwritten { .. } | Self::Created { .. } => return Ok(()),
        };
        restored.map_err(|source| HostError::file("restore", file, source))
    }
}

/// Puts the host's file back that waits under another name, though no record tells of it; true if there was one.
pub(super) fn restore_unrecorded() -> Result<bool, HostError> {
    let file = Path::new(FILE);
    let restored = put_back(file).map_err(|source| HostError::file("restore", file, source))?;
    if !restored && is_ours(file) {
        tracing::warn!(
            "{FILE} names a lease's resolver, and nothing tells what it was before: write it anew"
        );
    }
    Ok(restored)
}

fn asks_a_stub(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.map(str::trim).any(|server| STUBS.contains(&server))
}

fn tell_resolved(interface: &str, gateway: Ipv4Addr) -> Result<(), HostError> {
    RESOLVECTL.run(&["dns", interface, &gateway.to_string()], "")?;
    // Every name, before the servers of other interfaces.
    RESOLVECTL.run(&["domain", interface, "~."], "")?;
    RESOLVECTL.run(&["default-route", interface, "true"], "")?;
    Ok(())
}

/// Whether something is mounted at exactly this place.
fn is_mount(file: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    mounts.lines().any(|line| {
        line.split(' ')
            .nth(4)
            .is_some_and(|at| Path::new(at) == file)
    })
}

fn content(gateway: Ipv4Addr) -> String {
    format!("{FIRST_LINE}\nnameserver {gateway}\n")
}

fn is_ours(file: &Path) -> bool {
    // A symbolic link is never ours, wherever it leads.
    fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file())
        && fs::read(file).is_ok_and(|content| content.starts_with(FIRST_LINE.as_bytes()))
}

fn waiting(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".before-ipsx");
    name.into()
}

fn replace_keeping(file: &Path, content: &[u8]) -> io::Result<()> {
    let waiting = waiting(file);
    match fs::remove_file(&waiting) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A second name for it keeps everything: owner, mode, and what it links to.
    fs::hard_link(file, &waiting)?;
    replace(file, content, 0o644)
}

fn put_back(file: &Path) -> io::Result<bool> {
    let waiting = waiting(file);
    if fs::symlink_metadata(&waiting).is_err() {
        return Ok(false);
    }
    if is_ours(file) {
        fs::rename(&waiting, file)?;
    } else {
        fs::remove_file(&waiting)?;
    }
    Ok(true)
}

fn overwrite(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).truncate(true).open(file)?;
    file.write_all(content)?;
    file.sync_all()
}

fn create(file: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    replace(file, content, 0o644)
}

fn remove(file: &Path, folder_too: bool) -> io::Result<()> {
    fs::remove_file(file)?;
    if let (true, Some(folder)) = (folder_too, file.parent()) {
        // Somebody else may have put something there.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
