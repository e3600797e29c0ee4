//! The provider's sub-keys, as far as decisions need them.

use ipsx_market::request::TunnelKey;
use ipsx_metering::{Address, NetworkId, SecretKey};

/// Keys that the shell derives from the wallet, always the same for the same wallet and arguments.
pub trait ProviderKeys: Send {
    /// Receives this payer's payments on this network: no two payers see the same address.
    fn payout_key(&self, network: NetworkId, payer: Address) -> SecretKey;
    /// Signs the receipts of this requester's leases on this network.
    fn agent_key(&self, network: NetworkId, requester: Address) -> SecretKey;
    /// WireGuard key of the endpoint.
    fn tunnel_key(&self) -> TunnelKey;
}
