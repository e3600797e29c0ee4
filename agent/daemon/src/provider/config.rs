//! What a provider is started with.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipsx_agent_core::provider::{ExposureLimits, OfferTerms};
use ipsx_metering::Domain;
use ipsx_tunnel_core::ExitPolicy;

use super::ExitArgs;
use super::claimer::ClaimSettings;
use super::domains::DomainFiles;
use crate::connections::RecordKey;
use crate::network::Network;

/// Everything that decides how one provider runs. One data folder serves one wallet, and at any time one running
/// provider for each contract.
#[derive(Clone)]
pub struct ProviderConfig {
    /// The network, checked on the chain.
    pub network: Network,
    /// Where leases, vouchers, consent and the month's traffic are kept; made if missing.
    pub data: PathBuf,
    /// UDP address of the WireGuard endpoint; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Source address of the QUIC link and of the exit's sockets; `None` lets the system choose.
    pub bind: Option<IpAddr>,
    /// WireGuard endpoint that requesters are told; `None` for what the broker sees, with the listening port.
    pub advertise: Option<SocketAddr>,
    /// What the exit lets through, with the domains that the files have.
    pub policy: ExitPolicy,
    /// The files with domains, which are read again when they change.
    pub domains: DomainFiles,
    /// How traffic leaves.
    pub exit: ExitArgs,
    /// What is sold. Prefixes, if any, hold the addresses that traffic leaves from.
    pub terms: OfferTerms,
    /// What may stay unclaimed.
    pub exposure: ExposureLimits,
    /// Whether vouchers are claimed at the end of each lease.
    pub claim_at_end: bool,
    /// When vouchers are claimed besides.
    pub claims: ClaimSettings,
    /// Name of the control socket by which `wg show` watches the leases, if there is to be one.
    pub uapi: Option<String>,
    /// Where metrics are shown by HTTP, if they are to be.
    pub metrics: Option<SocketAddr>,
    /// How long the connection record is kept, in seconds; 0 keeps none.
    pub record_retention: u64,
    /// What the connection record is sealed to; the wallet's own key when there is none.
    pub record_key: Option<RecordKey>,
}

/// The file with a provider's records: leases, consent, the month's traffic.
pub fn records_path(data: &Path) -> PathBuf {
    data.join("provider.db")
}

/// The file with a provider's vouchers for one contract, as [`ipsx_settlement::VoucherStore`] opens it.
pub fn vouchers_path(data: &Path, domain: Domain) -> PathBuf {
    let contract = domain.contract.to_string().to_lowercase();
    let short = contract.get(2..10).unwrap_or(&contract);
    data.join(format!("vouchers-{}-{short}.db", domain.chain_id))
}
