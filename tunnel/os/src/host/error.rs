//! What can go wrong with changing the host's network.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::tool::ToolError;

/// Why the host's traffic could not be led into a tunnel, or back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another program has it.
    #[error(
        "another ipsx leads this host's traffic through a lease already; end that one first, or use the proxy instead of --tun"
    )]
    Claimed,
    /// The right to it could not be taken.
    #[error("cannot make sure that no other ipsx leads this host's traffic: {0}")]
    Claim(#[source] io::Error),
    /// No interface can be made.
    #[error(
        "cannot open /dev/net/tun: {0}; run this as root, or let this user open the file (most systems let everybody)"
    )]
    Tun(#[source] io::Error),
    /// Something is left that no record tells about.
    #[error(
        "an ipsx that was killed left its routes or its kill switch behind, and {0} does not know of it; \
         run `ipsx connect --restore`, with the --data folder of that program if it had another one"
    )]
    Unrecorded(PathBuf),
    /// The record is about another network namespace.
    #[error(
        "{file} tells what was changed in {namespace}: run the command there, or delete the file if that namespace is gone"
    )]
    OtherNamespace {
        /// The record.
        file: PathBuf,
        /// The namespace, in words.
        namespace: String,
    },
    /// The record can't be read.
    #[error(
        "cannot understand {file}, which tells what was changed: {source}; delete it and run `ipsx connect --restore`"
    )]
    Record {
        /// The record.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file could not be used.
    #[error("cannot {action} {file}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The resolver's file may not be replaced.
    #[error(
        "cannot replace {file}: {source}; run this as root, or leave the host's resolver alone with --keep-dns"
    )]
    Resolver {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace has no resolver file of its own.
    #[error(
        "this network namespace has no name, so {0} is not its own and stays as it is; name it by `ip netns attach`, or use --keep-dns"
    )]
    ForeignResolver(PathBuf),
    /// One of the system's programs failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl HostError {
    pub(super) fn file(action: &'static str, file: &Path, source: io::Error) -> Self {
        Self::File {
            action,
            file: file.to_owned(),
            source,
        }
    }
}
