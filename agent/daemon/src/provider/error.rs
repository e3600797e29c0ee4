//! Why a provider can't start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipsx_agent_core::provider::TermsError;
use ipsx_metering::{Address, NetworkId};
use ipsx_settlement::ChainError;

/// A provider could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The offer's terms are out of range.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The consent text was not accepted for this data directory and exit policy.
    #[error(
        "sharing this address needs your consent, which was not given for this exit policy in {}. Read the text and pass --accept-consent to accept it", data.display()
    )]
    ConsentMissing {
        /// The data directory.
        data: PathBuf,
        /// The text to accept.
        text: String,
    },
    /// What the broker says does not agree with the chain.
    #[error(
        "the broker's network can't be trusted: {what} is {announced} by its own word, {on_chain} on the chain. Check --broker and the chain's URL"
    )]
    NotOnChain {
        /// Which value.
        what: &'static str,
        /// By the broker.
        announced: String,
        /// By the chain.
        on_chain: String,
    },
    /// The network does not exist in the contract.
    #[error("network {network} is not registered in the contract {contract}. Check --broker")]
    UnknownNetwork {
        /// The network.
        network: NetworkId,
        /// The contract.
        contract: Address,
    },
    /// The chain does not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A UDP address is taken or not this host's.
    #[error(
        "can't listen on UDP {address}: {source}. Choose another address with --listen, such as 0.0.0.0:51820"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The source address for the broker link can't be used.
    #[error("can't use {address} as source address: {source}. Check --bind")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The data directory is in use by another provider.
    #[error(
        "another provider uses {}: stop it, or choose another directory with --data", .0.display()
    )]
    DataInUse(PathBuf),
    /// The data directory can't be used.
    #[error("can't {action} {}: {reason}", path.display())]
    Data {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The broker does not answer, or not as one.
    #[error("no network at {url}: {reason}. Check --broker and that the broker runs")]
    Broker {
        /// The URL.
        url: String,
        /// What happened.
        reason: String,
    },
}
