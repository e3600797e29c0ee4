//! `ipsx wallet revoke`: no session key of this wallet may sign any more.

use ipsx_metering::UnixSeconds;
use ipsx_settlement::Signer;
use serde_json::json;

use crate::broker::Broker;
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::network::{Network, chain_failure, contract_failure};
use crate::output::Output;
use crate::store::{SLOTS, session_key};

/// A key that is revoked may be claimed on for this long, for the reservations that it was good for.
const NOTICE: u64 = 24 * 3_600;

/// Runs it: one transaction for each key that would last longer than a revoked one does.
pub(super) async fn run(settings: &Settings, output: &Output) -> Result<(), Failure> {
    let network = Network::join(settings, &Broker::new(&settings.broker)).await?;
    let wallet = super::open(settings).await?;
    let (id, contract) = (network.info.network, &network.contract);
    let now = contract
        .chain()
        .head()
        .await
        .map_err(chain_failure)?
        .timestamp;
    let mut revoked = Vec::new();
    for number in 0..SLOTS {
        let key = session_key(&wallet, id, number).address();
        let valid_to = contract
            .signer_valid_to(id, wallet.address(), key)
            .await
            .map_err(contract_failure)?;
        // Slots are taken in order: the first that was never authorised is the last.
        if valid_to == UnixSeconds(0) {
            break;
        }
        if valid_to <= now.after(NOTICE) {
            continue;
        }
        let receipt = contract
            .revoke(wallet.as_ref(), id, key)
            .await
            .map_err(contract_failure)?;
        output.line(format!(
            "revoked  {key} in transaction {:#x}",
            receipt.transaction_hash
        ));
        revoked.push(json!({ "signer": key, "transaction": receipt.transaction_hash }));
    }
    output.json(&json!({ "revoked": revoked }));
    if revoked.is_empty() {
        output.line("no session key of this wallet lasts longer than 24 h");
    } else {
        output.line("What was promised before stays claimable; nothing is good for longer than 24 h from now.");
    }
    Ok(())
}
