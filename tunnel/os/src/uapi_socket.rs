//! The socket by which `wg` finds an interface.

use std::{
    fs, io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use crate::tun::{TunError, check_name};

/// Where control sockets are, by convention.
const FOLDER: &str = "/var/run/wireguard";

/// The path of a listening socket; it is removed when this is dropped.
pub(crate) struct SocketPath(PathBuf);

/// Why a control socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UapiSocketError {
    /// The name is none that an interface can have.
    #[error(transparent)]
    Name(#[from] TunError),
    /// Another process serves it.
    #[error("another process serves {0}; stop it, or choose another interface name")]
    InUse(PathBuf),
    /// It could not be made.
    #[error(
        "cannot make the control socket {path}: {source}; run this as root, or give this user the folder {FOLDER}"
    )]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens for those who configure or watch the interface `name`, without blocking; only this user may connect.
pub(crate) fn listen(name: &str) -> Result<(UnixListener, SocketPath), UapiSocketError> {
    check_name(name)?;
    let path = Path::new(FOLDER).join(format!("{name}.sock"));
    if UnixStream::connect(&path).is_ok() {
        return Err(UapiSocketError::InUse(path));
    }
    match bind(&path) {
        Ok(listener) => Ok((listener, SocketPath(path))),
        Err(source) => Err(UapiSocketError::Make { path, source }),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(FOLDER)?;
    // Nobody answers there: it is left over from a process that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl std::ops::Deref for SocketPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Gone already, if somebody was faster.
        let _ = fs::remove_file(&self.0);
    }
}
