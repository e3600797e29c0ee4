//! Why a broker does not start, each with the exit code of the program.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipsx_settlement::{ContractError, KeystoreError};

use crate::config::ConfigError;
use crate::store::StoreError;

/// The broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Somebody else listens there, or the address is not this machine's.
    #[error(
        "can't listen on {address} for {purpose}: {reason}. Free it, or set {key} to another address"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For whom.
        purpose: &'static str,
        /// The key that names it.
        key: &'static str,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The data directory or the database in it.
    #[error("can't use the store {}: {reason}", path.display())]
    Store {
        /// File or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store itself is fine, but not to be used as it is.
    #[error("{0}")]
    StoreUnusable(String),
    /// The operator's wallet.
    #[error("the operator's wallet: {0}")]
    Wallet(#[from] KeystoreError),
    /// The chain does not answer, or has no such contract or network.
    #[error("the chain: {0}")]
    Chain(String),
    /// A MaxMind database.
    #[error("can't use {key} = {}: {reason}", path.display())]
    Database {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refused its own certificate or key.
    #[error("can't set up TLS for agents: {0}")]
    Tls(String),
    /// The servers that brokers reach each other by.
    #[error("can't reach the other brokers by NATS: {0}; check nats")]
    Nats(String),
    /// The others take this broker for dead.
    #[error("this broker was cut off from the others (see the log)")]
    CutOff,
    /// Something that should not happen.
    #[error("internal failure: {0}")]
    Internal(String),
}

impl StartError {
    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Listen { .. } => 3,
            Self::Store { .. } | Self::StoreUnusable(_) => 4,
            Self::Chain(_) => 5,
            Self::Wallet(_) => 6,
            Self::Database { .. } => 7,
            Self::Nats(_) | Self::CutOff => 10,
            Self::Tls(_) | Self::Internal(_) => 1,
        }
    }
}

/// What to do about a damaged store.
const RESTORE: &str = "Nothing was changed. `ipsx-broker check` says what else is wrong, and `ipsx-broker restore BACKUP --force` puts a backup in its place (docs/operating.md)";

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database { place, reason } | StoreError::Version { place, reason } => {
                Self::Store {
                    path: place.into(),
                    reason,
                }
            }
            StoreError::Damaged {
                place,
                what,
                reason,
            } => Self::Store {
                path: place.into(),
                reason: format!("a row in it ({what}) can't be read: {reason}. {RESTORE}"),
            },
            StoreError::Corrupt { place, reason } => Self::Store {
                path: place.into(),
                reason: format!("it is damaged: {reason}. {RESTORE}"),
            },
            other => Self::StoreUnusable(other.to_string()),
        }
    }
}

/// A grant was not paid.
#[derive(Debug, thiserror::Error)]
#[error("the grant was not paid: {0}")]
pub struct GrantError(#[from] pub ContractError);
