//! Why a provider can't start or go on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipsx_agent_core::provider::TermsError;
use ipsx_metering::Address;
use ipsx_settlement::{ContractError, StoreError};
use ipsx_tunnel_os::TunnelError;

use super::domains::DomainFileError;
use crate::exit_code::{ExitCode, Failure};
use crate::network::contract_failure;

/// A provider could not be started, or its records not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The offer's terms are out of range.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// Addresses are offered that traffic does not leave from.
    #[error(
        "the offer names other addresses than traffic leaves from: name them with --egress, or one with --bind"
    )]
    Prefixes,
    /// An address that leases are to leave from is not this host's, and a userspace exit can't add it.
    #[error(
        "{0} of --egress is no address of this host: give it one with `ip address add`, leave it out, or use --exit kernel, which adds addresses by itself"
    )]
    Egress(IpAddr),
    /// An interface was chosen for a userspace exit.
    #[error("a userspace exit can't choose the interface {0}: leave it out, or use --exit kernel")]
    EgressInterface(String),
    /// The WireGuard endpoint is of another IP version than the source address, or names no port.
    #[error(
        "{0} can't be told to requesters: --advertise needs an address and a port that they can reach. Example: --advertise 203.0.113.7:51820"
    )]
    Advertise(SocketAddr),
    /// A file with domains can't be used.
    #[error(transparent)]
    Domains(#[from] DomainFileError),
    /// The consent text was not accepted for this data folder and exit policy.
    #[error(
        "sharing this address needs your consent: read the text with `ipsx provide` on a terminal, or pass --accept-consent to accept it. Nothing was started"
    )]
    ConsentMissing,
    /// The data folder belongs to another wallet.
    #[error(
        "{} holds the records of wallet {found}, not of {wallet}: choose another folder with --data", path.display()
    )]
    OtherWallet {
        /// The records.
        path: PathBuf,
        /// Whose they are.
        found: Address,
        /// Who wants them.
        wallet: Address,
    },
    /// The WireGuard endpoint can't be opened.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The socket for `wg show` can't be made.
    #[cfg(target_os = "linux")]
    #[error("--uapi: {0}")]
    Watch(#[from] ipsx_tunnel_os::UapiSocketError),
    /// There is no `wg show` for userspace programs here.
    #[cfg(not(target_os = "linux"))]
    #[error("--uapi works on Linux only; leave it out")]
    NoWatch,
    /// The metrics can't be shown.
    #[error("--metrics: can't listen on {address}: {source}; name a free address and port")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The metrics can't be made.
    #[error("the metrics can't be set up: {0}")]
    Collectors(#[from] prometheus::Error),
    /// The source address for the broker link can't be used.
    #[error(
        "can't use {address} as source address: {source}. --bind takes an address of this host"
    )]
    Bind {
        /// The address.
        address: IpAddr,
        /// What the system says.
        source: io::Error,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {reason}")]
    Tls {
        /// Why.
        reason: String,
    },
    /// The vouchers can't be opened.
    #[error(transparent)]
    Vouchers(#[from] StoreError),
    /// The records can't be read or written.
    #[error("can't {action} {}: {reason}", path.display())]
    Records {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system or the database says.
        reason: String,
    },
    /// The chain or contract does not answer.
    #[error(transparent)]
    Contract(#[from] ContractError),
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::Terms(_)
            | ProviderError::Prefixes
            | ProviderError::Egress(_)
            | ProviderError::EgressInterface(_)
            | ProviderError::Advertise(_)
            | ProviderError::Domains(_)
            | ProviderError::ConsentMissing => ExitCode::Usage,
            #[cfg(target_os = "linux")]
            ProviderError::Tunnel(TunnelError::KernelExit(_)) => ExitCode::Usage,
            ProviderError::Tunnel(_)
            | ProviderError::Bind { .. }
            | ProviderError::Metrics { .. } => ExitCode::PortInUse,
            #[cfg(target_os = "linux")]
            ProviderError::Watch(_) => ExitCode::Usage,
            #[cfg(not(target_os = "linux"))]
            ProviderError::NoWatch => ExitCode::Usage,
            ProviderError::Tls { .. } | ProviderError::Collectors(_) => ExitCode::Internal,
            ProviderError::OtherWallet { .. } => ExitCode::Wallet,
            ProviderError::Vouchers(_) | ProviderError::Records { .. } => ExitCode::Storage,
            ProviderError::Contract(_) => ExitCode::Unreachable,
        };
        match error {
            ProviderError::Contract(error) => contract_failure(error),
            error => Self::new(code, error.to_string()),
        }
    }
}
