//! What a provider has been promised, in the store of its vouchers, and the keys that the payments go to.

use ipsx_settlement::{Signer, StoreError, VoucherStore, Wallet};

use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::provider::{payout_wallet, payout_wallets, vouchers_path};

/// The store of vouchers in the data folder, also while a provider runs; `None` if there never was a provider.
pub(crate) async fn vouchers(
    settings: &Settings,
    network: &Network,
) -> Result<Option<VoucherStore>, Failure> {
    let path = vouchers_path(&settings.data, network.info.domain);
    if !path.exists() {
        return Ok(None);
    }
    VoucherStore::join(&path, network.info.domain)
        .await
        .map(Some)
        .map_err(store_failure)
}

/// The wallets of all payout addresses: those of the deals on record, and, should the records be lost, those of
/// channels whose payer was the requester.
pub(crate) async fn payout_keys(
    wallet: &Wallet,
    settings: &Settings,
    network: &Network,
) -> Result<Vec<Wallet>, Failure> {
    let mut keys = payout_wallets(wallet, &settings.data, network.info.network).await?;
    let Some(store) = vouchers(settings, network).await? else {
        return Ok(keys);
    };
    let channels = store.channels().await.map_err(store_failure)?;
    store.close().await;
    for stored in channels {
        let channel = stored.channel;
        let key = payout_wallet(wallet, channel.network, channel.payer);
        let known = keys.iter().any(|other| other.address() == key.address());
        if key.address() == channel.provider && !known {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// A voucher store's error with its exit code.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    Failure::new(ExitCode::Storage, error.to_string())
}
