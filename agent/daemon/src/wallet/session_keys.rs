//! `ipsx wallet authorize` and `revoke`: which session keys may spend a deposit. The wallet's own deposit is dealt with at
//! once; for another payer, a contract wallet most often, the transactions are printed for it to execute.

use std::sync::Arc;

use ipsx_metering::{Address, UnixSeconds};
use ipsx_settlement::{Signer, Transaction, Wallet};
use serde_json::{Value, json};

use super::hand_over::HandOver;
use crate::broker::Broker;
use crate::cli::{AuthorizeArgs, RevokeArgs, duration};
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::network::{Network, chain_failure, contract_failure};
use crate::output::Output;
use crate::store::{SLOTS, session_key};

/// A key that is revoked may be claimed on for this long, for the reservations that it was good for.
const NOTICE: u64 = 24 * 3_600;

/// Runs `ipsx wallet authorize`.
pub(super) async fn authorize(
    args: AuthorizeArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let payer = Payer::open(args.payer, !args.keys.is_empty(), settings).await?;
    let valid_to = payer.now().await?.after(args.seconds.into());
    let keys = match args.keys.is_empty() {
        true => payer.own_keys(args.leases),
        false => args.keys,
    };
    let (id, contract) = (payer.network.info.network, &payer.network.contract);
    let (mut done, mut calls) = (Vec::new(), Vec::new());
    for key in &keys {
        let Some(wallet) = &payer.executes else {
            let what = format!("authorise session key {key} until {valid_to}");
            calls.push((what, contract.grant_transaction(id, *key, valid_to)));
            continue;
        };
        let receipt = contract
            .grant(wallet.as_ref(), id, *key, valid_to)
            .await
            .map_err(contract_failure)?;
        let hash = receipt.transaction_hash;
        output.line(format!("authorised  {key} in transaction {hash:#x}"));
        done.push(json!({ "signer": key, "transaction": hash }));
    }
    let lasts = format!(
        "They may spend the deposit of {} for {}; one of them begins no lease in its last day.",
        payer.address,
        duration::format(args.seconds.into())
    );
    payer.report("authorized", done, calls, &lasts, output);
    Ok(())
}

/// Runs `ipsx wallet revoke`: one transaction for each key that would last longer than a revoked one does.
pub(super) async fn revoke(
    args: RevokeArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let payer = Payer::open(args.payer, !args.keys.is_empty(), settings).await?;
    let (id, contract) = (payer.network.info.network, &payer.network.contract);
    let (named, now) = (!args.keys.is_empty(), payer.now().await?);
    let candidates = match named {
        true => args.keys,
        false => payer.own_keys(SLOTS),
    };
    let (mut done, mut calls) = (Vec::new(), Vec::new());
    for key in candidates {
        let valid_to = contract
            .signer_valid_to(id, payer.address, key)
            .await
            .map_err(contract_failure)?;
        // Slots are taken in order: the first that was never authorised is the last.
        if valid_to == UnixSeconds(0) && !named {
            break;
        }
        if valid_to <= now.after(NOTICE) {
            continue;
        }
        let Some(wallet) = &payer.executes else {
            let what = format!("revoke session key {key}");
            calls.push((what, contract.revoke_transaction(id, key)));
            continue;
        };
        let receipt = contract
            .revoke(wallet.as_ref(), id, key)
            .await
            .map_err(contract_failure)?;
        let hash = receipt.transaction_hash;
        output.line(format!("revoked  {key} in transaction {hash:#x}"));
        done.push(json!({ "signer": key, "transaction": hash }));
    }
    let lasts = match done.is_empty() && calls.is_empty() {
        true => "No such session key lasts longer than 24 h.",
        false => {
            "What was promised before stays claimable; nothing is good for longer than 24 h from now."
        }
    };
    payer.report("revoked", done, calls, lasts, output);
    Ok(())
}

/// Whose deposit it is about.
struct Payer {
    network: Network,
    address: Address,
    /// This wallet, where its keys are needed.
    wallet: Option<Arc<Wallet>>,
    /// The same, if it is the payer itself.
    executes: Option<Arc<Wallet>>,
}

impl Payer {
    /// Opens the wallet only if it pays or the keys are its own.
    async fn open(
        payer: Option<Address>,
        keys_named: bool,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let network = Network::join(settings, &Broker::new(&settings.broker)).await?;
        if let Some(address) = payer.filter(|_| keys_named && !settings.wallet_file().exists()) {
            return Ok(Self {
                network,
                address,
                wallet: None,
                executes: None,
            });
        }
        let wallet = super::open(settings).await?;
        let address = payer.unwrap_or(wallet.address());
        let executes = (address == wallet.address()).then(|| wallet.clone());
        Ok(Self {
            network,
            address,
            wallet: Some(wallet),
            executes,
        })
    }

    /// The first session keys of this wallet.
    fn own_keys(&self, count: u32) -> Vec<Address> {
        let id = self.network.info.network;
        let key = |wallet: &Arc<Wallet>, number| session_key(wallet, id, number).address();
        let wallet = self.wallet.iter();
        wallet
            .flat_map(|wallet| (0..count).map(move |number| key(wallet, number)))
            .collect()
    }

    async fn now(&self) -> Result<UnixSeconds, Failure> {
        let head = self.network.contract.chain().head().await;
        Ok(head.map_err(chain_failure)?.timestamp)
    }

    /// Says what was done, or hands over what is to be done.
    fn report(
        &self,
        done: &str,
        each: Vec<Value>,
        calls: Vec<(String, Transaction)>,
        lasts: &str,
        output: &Output,
    ) {
        if calls.is_empty() {
            output.json(&json!({ "payer": self.address, done: each }));
        } else {
            let payer = self.address;
            HandOver { payer, calls }.show(&self.network, output);
        }
        output.line(lasts);
    }
}
