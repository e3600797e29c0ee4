//! Files that nobody else may read, on disk before anything rests on them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ipsx_metering::UnixSeconds;
use sha2::{Digest, Sha256};

use super::{BackupError, failed};

/// Before the time, the name of a directory with what a backup took the place of.
pub(super) const ASIDE: &str = "before-restore-";

pub(super) fn make_private_directory(path: &Path) -> Result<(), BackupError> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(failed("make", path))
}

/// Takes a file from everybody else, and syncs it.
pub(super) fn make_private(path: &Path) -> Result<(), BackupError> {
    let file = File::open(path).map_err(failed("read", path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let private = fs::Permissions::from_mode(0o600);
        file.set_permissions(private)
            .map_err(failed("protect", path))?;
    }
    file.sync_all().map_err(failed("write", path))
}

pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let written = create(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(failed("write", path))
}

/// Copies a file; one that is there is replaced.
pub(super) fn private_copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut source = File::open(from).map_err(failed("read", from))?;
    let copied = create(to).and_then(|mut copy| {
        io::copy(&mut source, &mut copy)?;
        copy.sync_all()
    });
    copied.map_err(failed("write", to))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Length and SHA-256 of a file.
pub(super) fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<(), BackupError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed("write", path))
}

/// Names in a directory.
pub(super) fn names(path: &Path) -> Result<Vec<String>, BackupError> {
    let read = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path)?;
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into());
        entries.map(name).collect()
    };
    read().map_err(failed("read", path))
}

/// Moves what is in a directory into a new one inside it, which is returned; `None` if there is nothing.
pub(super) fn move_aside(
    directory: &Path,
    names: &[String],
    now: UnixSeconds,
) -> Result<Option<PathBuf>, BackupError> {
    if names.is_empty() {
        return Ok(None);
    }
    let aside = directory.join(format!("{ASIDE}{}", now.0));
    make_private_directory(&aside)?;
    for name in names {
        let from = directory.join(name);
        fs::rename(&from, aside.join(name)).map_err(failed("move", &from))?;
    }
    Ok(Some(aside))
}
