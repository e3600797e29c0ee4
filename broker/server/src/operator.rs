//! The network's operator: its wallet, its chain and its network on it.

mod wallet;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ipsx_market::deal::{Binding, Outcome};
use ipsx_metering::{
    Address, Amount, B256, CLAIM_WINDOW, DealId, Domain, NetworkId, RESERVATION_LIFETIME, Signed,
    TypedData, UnixSeconds, keccak256,
};
use ipsx_settlement::{
    Call, Centralizer, Chain, ContractError, Deployment, EmbeddedChain, Genesis, NetworkState,
    NewNetwork, Outbox, RpcChain, Signer, Wallet, deploy,
};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::{BrokerConfig, ChainConfig};
use crate::error::StartError;
use crate::store::Store;

use wallet::open_wallet;

const DEPLOYMENT: &str = "deployment";
const NETWORK: &str = "network";
const FUNDED: &str = "funded";
pub(crate) const LEDGER: &str = "ledger";

/// The operator's wallet, once it is open: that takes a good part of a second, which a broker that begins anew need not
/// spend again.
pub type Unsealed = OnceLock<Arc<Wallet>>;

/// Whoever signs for the network.
pub(crate) struct Operator {
    wallet: Arc<Wallet>,
    centralizer: Centralizer,
    embedded: Option<EmbeddedChain>,
    network: NetworkId,
    state: NetworkState,
    promises_from: UnixSeconds,
}

/// A network that this broker created, as the store remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// Where; a network id says nothing on another contract.
    deployment: Deployment,
    id: NetworkId,
}

/// Since when a store has the promises of a network.
#[derive(Serialize, Deserialize)]
struct Ledger {
    deployment: Deployment,
    network: NetworkId,
    from: UnixSeconds,
}

impl Operator {
    /// Opens wallet and chain; on the first start makes what is missing.
    pub(crate) async fn open(
        config: &BrokerConfig,
        store: &Store,
        unsealed: &Unsealed,
    ) -> Result<Self, StartError> {
        let wallet = match unsealed.get() {
            Some(wallet) => Arc::clone(wallet),
            None => {
                let opened = Arc::new(open_wallet(config).await?);
                Arc::clone(unsealed.get_or_init(|| opened))
            }
        };
        let (centralizer, embedded) = match &config.chain {
            ChainConfig::Embedded => {
                let (centralizer, chain) = open_embedded(config, store, &wallet).await?;
                (centralizer, Some(chain))
            }
            ChainConfig::Rpc {
                url,
                centralizer,
                finality,
                ..
            } => (connect(url, *centralizer, *finality).await?, None),
        };
        let centralizer =
            centralizer.with_outbox(Outbox::in_folder(config.data_dir.join("outbox")));
        hand_out(config, store, &wallet, &centralizer).await?;
        let network = open_network(config, store, &wallet, &centralizer).await?;
        let state = centralizer.network(network).await.map_err(chain_error)?;
        if !state.exists() {
            let place = centralizer.deployment().centralizer;
            return Err(StartError::Chain(format!(
                "there is no network {network} at {place}; check network and centralizer"
            )));
        }
        if state.operator != wallet.address() {
            return Err(StartError::Chain(format!(
                "network {network} is run by the key {}, and the wallet is {}: open that key's wallet, or rotate the operator",
                state.operator,
                wallet.address()
            )));
        }
        let promises_from = promises_from(store, &centralizer, network).await?;
        Ok(Self {
            wallet,
            centralizer,
            embedded,
            network,
            state,
            promises_from,
        })
    }

    /// The chain's time from which on deposits may be promised on: see [`promises_from`].
    pub(crate) fn promises_from(&self) -> UnixSeconds {
        self.promises_from
    }

    /// The operator's wallet.
    pub(crate) fn wallet(&self) -> &Arc<Wallet> {
        &self.wallet
    }

    /// The contract.
    pub(crate) fn centralizer(&self) -> &Centralizer {
        &self.centralizer
    }

    /// The embedded chain, if it is one.
    pub(crate) fn embedded(&self) -> Option<&EmbeddedChain> {
        self.embedded.as_ref()
    }

    /// The network's id.
    pub(crate) fn network(&self) -> NetworkId {
        self.network
    }

    /// The network as the contract had it at the start; fee and treasury never change.
    pub(crate) fn state(&self) -> &NetworkState {
        &self.state
    }

    /// What everything is signed for.
    pub(crate) fn domain(&self) -> Domain {
        self.centralizer.domain()
    }

    /// Signs with the operator's key.
    pub(crate) fn sign<T: TypedData>(&self, message: T) -> Signed<T> {
        Signed::sign(message, &self.domain(), self.wallet.key())
    }

    /// The network's word on a deal, signed.
    pub(crate) fn outcome(&self, deal_id: DealId, outcome: Binding) -> Signed<Outcome> {
        self.sign(Outcome { deal_id, outcome })
    }

    /// Time of the newest block.
    pub(crate) async fn block_time(&self) -> Result<UnixSeconds, ContractError> {
        let head = self.centralizer.chain().head().await;
        Ok(head.map_err(ContractError::Chain)?.timestamp)
    }

    /// The time up to which the chain takes nothing back.
    pub(crate) async fn final_time(&self) -> Result<UnixSeconds, ContractError> {
        let time = self.centralizer.chain().final_time().await;
        time.map_err(ContractError::Chain)
    }

    /// Sends tokens of the operator's own to somebody.
    pub(crate) async fn grant(&self, to: Address, amount: Amount) -> Result<B256, ContractError> {
        let sent = self
            .centralizer
            .transfer_tokens(self.wallet.as_ref(), to, amount);
        Ok(sent.await?.transaction_hash)
    }
}

fn chain_error(error: ContractError) -> StartError {
    StartError::Chain(error.to_string())
}

/// Bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    bytes
}

/// The chain in the data directory, with its contracts.
async fn open_embedded(
    config: &BrokerConfig,
    store: &Store,
    wallet: &Wallet,
) -> Result<(Centralizer, EmbeddedChain), StartError> {
    let path = config.data_dir.join("chain.journal");
    let known: Option<Deployment> = store.meta(DEPLOYMENT).await?;
    let chain = open_journal(path, known.is_some()).await?;
    let shared: Arc<dyn Chain> = Arc::new(chain.clone());
    let deployment = match known {
        Some(deployment) => deployment,
        None => {
            let made = deploy(shared.as_ref(), wallet, wallet.address()).await;
            let deployment = made.map_err(chain_error)?;
            store.set_meta(DEPLOYMENT, &deployment).await?;
            deployment
        }
    };
    let centralizer = Centralizer::connect(shared, deployment).await;
    Ok((centralizer.map_err(chain_error)?, chain))
}

/// Sends the tokens that the configuration hands out, to each address once.
async fn hand_out(
    config: &BrokerConfig,
    store: &Store,
    wallet: &Wallet,
    centralizer: &Centralizer,
) -> Result<(), StartError> {
    let mut funded: Vec<Address> = store.meta(FUNDED).await?.unwrap_or_default();
    for (address, amount) in &config.fund {
        if funded.contains(address) {
            continue;
        }
        // Written down first: a crash in between is better than a second hand-out, and the operator can grant again.
        funded.push(*address);
        store.set_meta(FUNDED, &funded).await?;
        let sent = centralizer.transfer_tokens(wallet, *address, *amount);
        sent.await.map_err(chain_error)?;
    }
    Ok(())
}

async fn open_journal(path: PathBuf, expected: bool) -> Result<EmbeddedChain, StartError> {
    let opened = tokio::task::spawn_blocking(move || {
        let clock = Arc::new(clock::now);
        if path.exists() || expected {
            return EmbeddedChain::open(&path, clock);
        }
        // Gas is free: whoever joins needs no second currency.
        let genesis = Genesis {
            accounts: Vec::new(),
            base_fee: 0,
        };
        EmbeddedChain::create(&path, genesis, clock)
    });
    let opened = opened
        .await
        .map_err(|e| StartError::Internal(e.to_string()))?;
    opened.map_err(|error| StartError::Chain(error.to_string()))
}

/// The contract on a node; the contract itself says which token it trades in.
async fn connect(url: &str, address: Address, finality: u64) -> Result<Centralizer, StartError> {
    let failed = |error: ipsx_settlement::ChainError| StartError::Chain(error.to_string());
    let chain: Arc<dyn Chain> =
        Arc::new(RpcChain::new(url).map_err(failed)?.with_finality(finality));
    let selector = keccak256("token()")[..4].to_vec();
    let answer = chain.call(&Call::read(address, selector)).await;
    let answer = answer.map_err(failed)?;
    if answer.len() != 32 {
        return Err(StartError::Chain(format!(
            "there is no Centralizer at {address}; check centralizer"
        )));
    }
    let deployment = Deployment {
        chain_id: chain.chain_id().await.map_err(failed)?,
        token: Address::from_slice(&answer[12..]),
        centralizer: address,
    };
    Centralizer::connect(chain, deployment)
        .await
        .map_err(chain_error)
}

/// From when on this store knows everything that may still be claimed on a network's deposits: at once if it has been
/// there all the time, else once the last promise that was made without it has lapsed.
async fn promises_from(
    store: &Store,
    centralizer: &Centralizer,
    network: NetworkId,
) -> Result<UnixSeconds, StartError> {
    let deployment = centralizer.deployment();
    let ledger: Option<Ledger> = store.meta(LEDGER).await?;
    if let Some(ledger) = ledger.filter(|l| (l.deployment, l.network) == (deployment, network)) {
        return Ok(ledger.from);
    }
    let from = if centralizer
        .has_deposits(network)
        .await
        .map_err(chain_error)?
    {
        let head = centralizer.chain().head().await;
        let now = head
            .map_err(|error| StartError::Chain(error.to_string()))?
            .timestamp;
        let from = now.after(RESERVATION_LIFETIME + CLAIM_WINDOW + 1);
        tracing::warn!(
            %network, %from,
            "this database knows nothing of what was promised on the network's deposits: no promise is made before it has lapsed"
        );
        from
    } else {
        UnixSeconds(0)
    };
    let ledger = Ledger {
        deployment,
        network,
        from,
    };
    store.set_meta(LEDGER, &ledger).await?;
    Ok(from)
}

/// The network that is named, or remembered, or else a new one.
async fn open_network(
    config: &BrokerConfig,
    store: &Store,
    wallet: &Wallet,
    centralizer: &Centralizer,
) -> Result<NetworkId, StartError> {
    if let ChainConfig::Rpc {
        network: Some(network),
        ..
    } = config.chain
    {
        return Ok(network);
    }
    let deployment = centralizer.deployment();
    let remembered: Option<Remembered> = store.meta(NETWORK).await?;
    if let Some(network) = remembered.filter(|r| r.deployment == deployment) {
        return Ok(network.id);
    }
    let new = NewNetwork {
        operator: wallet.address(),
        admin: wallet.address(),
        treasury: config.treasury.unwrap_or(wallet.address()),
        fee_bps: config.fee_bps,
        salt: B256::from(random::<32>()),
    };
    let id = centralizer.create_network(wallet, new).await;
    let id = id.map_err(chain_error)?;
    store
        .set_meta(NETWORK, &Remembered { deployment, id })
        .await?;
    Ok(id)
}
