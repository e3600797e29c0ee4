//! The provider's sub-keys, derived from its wallet.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ipsx_agent_core::provider::ProviderKeys;
use ipsx_market::request::TunnelKey;
use ipsx_metering::{Address, B256, NetworkId, SecretKey};
use ipsx_settlement::Wallet;
use ipsx_tunnel_core::PrivateKey;

use super::error::ProviderError;
use super::records::Records;

const PAYOUT: &[u8] = b"provider payout";
const AGENT: &[u8] = b"provider agent";
const TUNNEL: &[u8] = b"provider tunnel";

/// The wallet that receives one payer's payments on one network.
pub fn payout_wallet(wallet: &Wallet, network: NetworkId, payer: Address) -> Wallet {
    wallet.derive(&label(PAYOUT, network, payer))
}

/// The wallets of every payout address that deals of this data folder name on one network.
pub async fn payout_wallets(
    wallet: &Wallet,
    data: &Path,
    network: NetworkId,
) -> Result<Vec<Wallet>, ProviderError> {
    let Some(records) = Records::read(data).await? else {
        return Ok(Vec::new());
    };
    let leases = records.leases().await?;
    let deals = leases.iter().map(|lease| &lease.record.deal);
    let payers: BTreeSet<Address> = deals
        .filter(|deal| deal.network == network)
        .map(|deal| deal.payer)
        .collect();
    let payout = |payer| payout_wallet(wallet, network, payer);
    Ok(payers.into_iter().map(payout).collect())
}

/// The WireGuard key of the wallet's endpoint.
pub(super) fn tunnel_key(wallet: &Wallet) -> PrivateKey {
    PrivateKey::from_bytes(*wallet.derive(TUNNEL).secret())
}

/// Derives on demand what the state machine asks for.
pub(super) struct WalletKeys {
    pub(super) wallet: Arc<Wallet>,
    pub(super) tunnel_key: TunnelKey,
}

impl WalletKeys {
    fn derive(&self, kind: &[u8], network: NetworkId, other: Address) -> SecretKey {
        let derived = self.wallet.derive(&label(kind, network, other));
        SecretKey::from_bytes(&derived.secret()).expect("a wallet's secret is a valid key")
    }
}

impl ProviderKeys for WalletKeys {
    fn payout_key(&self, network: NetworkId, payer: Address) -> SecretKey {
        self.derive(PAYOUT, network, payer)
    }

    fn agent_key(&self, network: NetworkId, requester: Address) -> SecretKey {
        self.derive(AGENT, network, requester)
    }

    fn tunnel_key(&self) -> TunnelKey {
        self.tunnel_key
    }
}

/// A public WireGuard key as the market writes it.
pub(super) fn market_key(key: &ipsx_tunnel_core::PublicKey) -> TunnelKey {
    TunnelKey(B256::new(*key.as_bytes()))
}

fn label(kind: &[u8], network: NetworkId, other: Address) -> Vec<u8> {
    [kind, network.0.as_slice(), other.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_settlement::Signer;

    #[test]
    fn payouts_differ_by_payer_and_network_and_come_back() {
        let wallet = Arc::new(Wallet::from_secret(&[7; 32]).unwrap());
        let keys = WalletKeys {
            wallet: wallet.clone(),
            tunnel_key: TunnelKey(B256::ZERO),
        };
        let (network, other) = (NetworkId(B256::ZERO), NetworkId(B256::repeat_byte(1)));
        let (alice, bob) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let payout = keys.payout_key(network, alice).address();
        assert_eq!(payout, payout_wallet(&wallet, network, alice).address());
        assert_ne!(payout, keys.payout_key(network, bob).address());
        assert_ne!(payout, keys.payout_key(other, alice).address());
        assert_ne!(payout, keys.agent_key(network, alice).address());
        assert_ne!(payout, wallet.address());
    }

    #[test]
    fn the_tunnel_key_is_the_wallets() {
        let wallet = Wallet::from_secret(&[7; 32]).unwrap();
        let again = Wallet::from_secret(&[7; 32]).unwrap();
        assert_eq!(
            tunnel_key(&wallet).public_key(),
            tunnel_key(&again).public_key()
        );
    }
}
