//! What a provider is started with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipsx_agent_core::provider::{ExposureLimits, OfferTerms};
use ipsx_market::IpNet;
use ipsx_market::http::NetworkInfo;
use ipsx_tunnel_core::ExitPolicy;

/// Everything that decides how one provider runs. One data directory serves one provider of one wallet.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// The network as its broker describes it (`GET /v1/network`); contract and operator are checked on chain.
    pub network: NetworkInfo,
    /// Where leases, vouchers, consent and the month's traffic are kept; made if missing.
    pub data: PathBuf,
    /// UDP address of the WireGuard endpoint; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Source address of the QUIC link and of the exit's sockets; `None` lets the system choose.
    pub bind: Option<IpAddr>,
    /// WireGuard endpoint that requesters are told; `None` for what the broker sees, with the listening port.
    pub advertise: Option<SocketAddr>,
    /// What the exit lets through.
    pub policy: ExitPolicy,
    /// Networks of this host that the exit refuses besides those that it finds by itself.
    pub own_networks: Vec<IpNet>,
    /// What is sold.
    pub terms: OfferTerms,
    /// What may stay unclaimed.
    pub exposure: ExposureLimits,
    /// Whether vouchers are claimed at the end of each lease.
    pub claim_at_end: bool,
}
