//! Accounts that probes are made from: customers like any other, none of which a provider meets twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipsx_metering::{Address, Amount};
use ipsx_settlement::{Passphrase, Signer, Wallet};
use tokio::sync::Mutex;

use crate::broker::Broker;
use crate::config::Settings;
use crate::connect::{Requester, end_unfinished};
use crate::deposit::deposit;
use crate::exit_code::Failure;
use crate::network::contract_failure;
use crate::output::Output;
use crate::store::{Store, failure};
use crate::wallet;

/// A deposit that runs low is filled up for so many probes.
const PROBES_AHEAD: u128 = 8;

/// The accounts, and the wallet that deposits for them.
pub(super) struct Accounts {
    main: Arc<Requester>,
    folder: PathBuf,
    passphrase: Arc<Passphrase>,
    /// Opened before: the key of a keystore takes a second to derive.
    wallets: Mutex<HashMap<PathBuf, Arc<Wallet>>>,
}

impl Accounts {
    /// Those in the data folder, paid for by `main`.
    pub(super) fn open(settings: &Settings, main: Arc<Requester>) -> Result<Self, Failure> {
        Ok(Self {
            main,
            folder: settings.data.join("accounts"),
            passphrase: Arc::new(wallet::passphrase(settings, "Passphrase: ")?),
            wallets: Mutex::default(),
        })
    }

    /// An account that has never leased from this provider, with a deposit that covers `budget`, and its data folder.
    pub(super) async fn unknown_to(
        &self,
        provider: Address,
        budget: Amount,
    ) -> Result<(Requester, PathBuf), Failure> {
        let data = self.folder_for(provider)?;
        let wallet = self.wallet(&data).await?;
        let broker = Broker::new(self.main.session.broker().url());
        let account = Requester::new(wallet, self.main.network.clone(), broker, &data);
        end_unfinished(&account, &data, &Output::new(true)).await?;
        self.fill_up(&account, budget).await?;
        Ok((account, data))
    }

    /// The network's operator, whose word an echo is.
    pub(super) fn network(&self) -> &crate::network::Network {
        &self.main.network
    }

    fn folder_for(&self, provider: Address) -> Result<PathBuf, Failure> {
        for number in 0.. {
            let data = self.folder.join(format!("{number}"));
            if !data.exists() {
                std::fs::create_dir_all(&data).map_err(|error| failure("make", &data, error))?;
                return Ok(data);
            }
            let leases = Store::new(&data).leases()?;
            if leases.iter().all(|lease| lease.deal.provider != provider) {
                return Ok(data);
            }
        }
        Err(Failure::internal("there are too many accounts"))
    }

    async fn wallet(&self, data: &Path) -> Result<Arc<Wallet>, Failure> {
        let mut wallets = self.wallets.lock().await;
        if let Some(wallet) = wallets.get(data) {
            return Ok(Arc::clone(wallet));
        }
        let (file, passphrase) = (data.join("wallet.json"), Arc::clone(&self.passphrase));
        let opened = wallet::blocking(move || {
            if file.exists() {
                Wallet::open(&file, &passphrase)
            } else {
                Wallet::create(&file, &passphrase)
            }
        });
        let wallet = Arc::new(opened.await?);
        wallets.insert(data.into(), Arc::clone(&wallet));
        Ok(wallet)
    }

    async fn fill_up(&self, account: &Requester, budget: Amount) -> Result<(), Failure> {
        let (network, owner) = (&account.network, account.wallet.address());
        let known = network.contract.account(network.info.network, owner).await;
        let known = known.map_err(contract_failure)?;
        let free = known.balance.saturating_sub(known.pending);
        // What earlier leases were promised is only free again when they can't be claimed on any more.
        if free >= Amount(budget.0.saturating_mul(PROBES_AHEAD / 2)) {
            return Ok(());
        }
        let wallet = Arc::clone(&self.main.wallet);
        let broker = Broker::new(self.main.session.broker().url());
        let data = &self.folder;
        let payer = Requester::new(wallet, network.clone(), broker, data).paying_from(Some(owner));
        let amount = Amount(budget.0.saturating_mul(PROBES_AHEAD));
        deposit(&payer, amount).await.map(drop)
    }
}
