//! Gets a transaction into a block: written down before it is sent, sent again when the node forgot it, made dearer
//! when it is stuck.
//!
//! One transaction at a time for each account. Whatever has its number and is ours is the same transaction with other
//! fees, so that at most one of them counts, however often they are sent.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::chain::{Call, Chain, ChainError, Fees, TransactionReceipt};
use crate::transaction::{Transaction, sign};
use crate::wallet::Signer;

const FIRST_LOOK: Duration = Duration::from_millis(20);
const SLOWEST_LOOK: Duration = Duration::from_secs(2);
/// A transaction that is in no block is handed over again this often: a node that restarts forgets what waited.
const REPEAT: Duration = Duration::from_secs(10);
/// Looks in a row that find the number taken and no receipt of ours, before it is believed: a node may know of the
/// block before it knows its receipts.
const LOOKS_TO_BELIEVE: u32 = 3;
/// A transfer of nothing, which fills a number that nobody uses.
const FILLER_GAS: u64 = 21_000;

/// How hard a transaction is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Not in a block after this long: the fees are raised by a quarter, or to what the chain asks by then.
    pub raise_after: Duration,
    /// Not in a block after this long: [`ChainError::NotIncluded`]. A later [`Outbox::resume`] goes on with it.
    pub give_up_after: Duration,
    /// Wei for a unit of gas, tip included, above which nothing is sent and nothing is raised.
    pub most_per_gas: Option<u128>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            raise_after: Duration::from_secs(30),
            give_up_after: Duration::from_secs(90),
            most_per_gas: None,
        }
    }
}

/// Sends transactions and remembers the one on its way.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    folder: Option<PathBuf>,
    patience: Patience,
}

/// A transaction on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) chain_id: u64,
    pub(crate) nonce: u64,
    pub(crate) to: Option<Address>,
    pub(crate) value: U256,
    pub(crate) data: Bytes,
    pub(crate) gas_limit: u64,
    /// Wei; as wide as the chain's words because JSON's numbers are not.
    max_fee_per_gas: U256,
    max_priority_fee_per_gas: U256,
    /// Each version that was sent or may have been, the latest last.
    hashes: Vec<B256>,
}

impl Entry {
    pub(crate) fn fees(&self) -> Fees {
        Fees {
            max_fee_per_gas: self.max_fee_per_gas.saturating_to(),
            max_priority_fee_per_gas: self.max_priority_fee_per_gas.saturating_to(),
        }
    }

    fn set_fees(&mut self, fees: Fees) {
        self.max_fee_per_gas = U256::from(fees.max_fee_per_gas);
        self.max_priority_fee_per_gas = U256::from(fees.max_priority_fee_per_gas);
    }

    /// The signed bytes, the same each time, with their hash noted.
    fn signed(&mut self, signer: &dyn Signer) -> Vec<u8> {
        let raw = sign(self, signer);
        let hash = keccak256(&raw);
        if !self.hashes.contains(&hash) {
            self.hashes.push(hash);
        }
        raw
    }
}

/// What one push has seen and when it acts next.
struct Progress {
    raise_at: Instant,
    repeat_at: Instant,
    taken: u32,
}

impl Outbox {
    /// An outbox that remembers in `folder` (made if missing), across restarts, what is on its way.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Some(folder.into()),
            patience: Patience::default(),
        }
    }

    /// The same with another patience.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// How hard it pushes.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Sends a transaction from the signer's account and waits until it is in a block, reverted or not. One that is
    /// still on its way from before is brought to its end first.
    ///
    /// Gas is estimated first, so what would revert fails here, without costing anything. Not safe to call twice at
    /// once for one account: both would take the same number.
    pub async fn send(
        &self,
        chain: &dyn Chain,
        signer: &dyn Signer,
        transaction: Transaction,
    ) -> Result<TransactionReceipt, ChainError> {
        self.resume(chain, signer).await?;
        let call = Call {
            from: signer.address(),
            to: transaction.to,
            data: transaction.data,
            value: transaction.value,
        };
        let gas = chain.estimate_gas(&call).await?;
        let fees = self.affordable(chain.fees().await?)?;
        let mut entry = Entry {
            chain_id: chain.chain_id().await?,
            nonce: chain.nonce(call.from).await?,
            to: call.to,
            value: call.value,
            data: call.data,
            // The state may change before the block is made.
            gas_limit: gas + gas / 8,
            max_fee_per_gas: U256::ZERO,
            max_priority_fee_per_gas: U256::ZERO,
            hashes: Vec::new(),
        };
        entry.set_fees(fees);
        let raw = entry.signed(signer);
        self.keep(call.from, &entry)?;
        if let Err(error) = hand_over(chain, &raw).await
            && !matches!(error, ChainError::Unreachable { .. })
        {
            // It was refused, so nothing is on its way.
            self.forget(call.from, entry.chain_id)?;
            return Err(error);
        }
        self.push(chain, signer, entry).await
    }

    /// Goes on with the transaction that was on its way when the program ended or gave up, and returns what became of
    /// it; `None` if there is none.
    pub async fn resume(
        &self,
        chain: &dyn Chain,
        signer: &dyn Signer,
    ) -> Result<Option<TransactionReceipt>, ChainError> {
        if self.folder.is_none() {
            return Ok(None);
        }
        let chain_id = chain.chain_id().await?;
        let Some(entry) = self.recall(signer.address(), chain_id)? else {
            return Ok(None);
        };
        match self.push(chain, signer, entry).await {
            Ok(receipt) => Ok(Some(receipt)),
            // Its number went to something else, so it is nobody's any more.
            Err(ChainError::Replaced { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn push(
        &self,
        chain: &dyn Chain,
        signer: &dyn Signer,
        mut entry: Entry,
    ) -> Result<TransactionReceipt, ChainError> {
        let begin = Instant::now();
        let mut progress = Progress {
            raise_at: begin + self.patience.raise_after,
            repeat_at: begin,
            taken: 0,
        };
        let mut pause = FIRST_LOOK;
        loop {
            let failure = match self.look(chain, signer, &mut entry, &mut progress).await {
                Ok(Some(receipt)) => {
                    self.forget(signer.address(), entry.chain_id)?;
                    return Ok(receipt);
                }
                Ok(None) => ChainError::NotIncluded {
                    hash: entry.hashes.last().copied().unwrap_or_default(),
                    seconds: self.patience.give_up_after.as_secs(),
                },
                // The node may come back.
                Err(error @ ChainError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            if begin.elapsed() >= self.patience.give_up_after {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }

    /// One look at the chain, and what it calls for.
    async fn look(
        &self,
        chain: &dyn Chain,
        signer: &dyn Signer,
        entry: &mut Entry,
        progress: &mut Progress,
    ) -> Result<Option<TransactionReceipt>, ChainError> {
        let account = signer.address();
        for hash in entry.hashes.iter().rev() {
            if let Some(receipt) = chain.receipt(*hash).await? {
                return Ok(Some(receipt));
            }
        }
        if chain.mined_nonce(account).await? > entry.nonce {
            progress.taken += 1;
            if progress.taken >= LOOKS_TO_BELIEVE {
                self.forget(account, entry.chain_id)?;
                return Err(ChainError::Replaced { nonce: entry.nonce });
            }
            return Ok(None);
        }
        progress.taken = 0;
        let now = Instant::now();
        if now >= progress.raise_at {
            progress.raise_at = now + self.patience.raise_after;
            if let Some(fees) = self.raised(entry.fees(), chain.fees().await?) {
                tracing::info!(
                    nonce = entry.nonce,
                    ?fees,
                    "a transaction is stuck; it offers more"
                );
                entry.set_fees(fees);
                // Written down before it is sent: after a crash its receipt must be found.
                entry.signed(signer);
                self.keep(account, entry)?;
                progress.repeat_at = now;
            }
        }
        if now >= progress.repeat_at {
            progress.repeat_at = now + REPEAT;
            let raw = entry.signed(signer);
            hand_over(chain, &raw).await?;
            self.fill_gap(chain, signer, entry).await?;
        }
        Ok(None)
    }

    /// A number below ours that nothing uses would hold ours back for ever: whatever had it was dropped.
    async fn fill_gap(
        &self,
        chain: &dyn Chain,
        signer: &dyn Signer,
        entry: &Entry,
    ) -> Result<(), ChainError> {
        let account = signer.address();
        for nonce in chain.nonce(account).await?..entry.nonce {
            tracing::info!(
                nonce,
                "nothing has this number; a transfer of nothing fills it"
            );
            let mut filler = Entry {
                nonce,
                to: Some(account),
                value: U256::ZERO,
                data: Bytes::new(),
                gas_limit: FILLER_GAS,
                hashes: Vec::new(),
                ..entry.clone()
            };
            let raw = filler.signed(signer);
            hand_over(chain, &raw).await?;
        }
        Ok(())
    }

    /// The fees to offer, unless gas is dearer than allowed.
    fn affordable(&self, market: Fees) -> Result<Fees, ChainError> {
        let Some(most) = self.patience.most_per_gas else {
            return Ok(market);
        };
        // The base fee may double before the offer fails; what is paid now is half of that and the tip.
        let tip = market.max_priority_fee_per_gas;
        let price = market.max_fee_per_gas.saturating_sub(tip) / 2 + tip;
        if price > most {
            return Err(ChainError::TooExpensive { price, most });
        }
        Ok(Fees {
            max_fee_per_gas: market.max_fee_per_gas.min(most),
            ..market
        })
    }

    /// Higher fees for a stuck transaction. Nodes take a replacement that offers a tenth more of both.
    fn raised(&self, old: Fees, market: Fees) -> Option<Fees> {
        let higher = |fee: u128| fee.saturating_add(fee / 4).saturating_add(1);
        let most = self.patience.most_per_gas.unwrap_or(u128::MAX);
        let max_fee_per_gas = higher(old.max_fee_per_gas)
            .max(market.max_fee_per_gas)
            .min(most);
        if max_fee_per_gas < old.max_fee_per_gas.saturating_add(old.max_fee_per_gas / 8) {
            return None;
        }
        let tip = higher(old.max_priority_fee_per_gas).max(market.max_priority_fee_per_gas);
        Some(Fees {
            max_fee_per_gas,
            max_priority_fee_per_gas: tip.min(max_fee_per_gas),
        })
    }

    fn file(&self, account: Address, chain_id: u64) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{chain_id}-{account:#x}.json")))
    }

    fn keep(&self, account: Address, entry: &Entry) -> Result<(), ChainError> {
        let Some(path) = self.file(account, entry.chain_id) else {
            return Ok(());
        };
        write(&path, entry).map_err(|error| failed("write", &path, &error))
    }

    fn recall(&self, account: Address, chain_id: u64) -> Result<Option<Entry>, ChainError> {
        let Some(path) = self.file(account, chain_id) else {
            return Ok(None);
        };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| failed("read", &path, &error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    fn forget(&self, account: Address, chain_id: u64) -> Result<(), ChainError> {
        let Some(path) = self.file(account, chain_id) else {
            return Ok(());
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Hands over a signed transaction; that it is there already, or was replaced by a dearer one, is no failure.
async fn hand_over(chain: &dyn Chain, raw: &[u8]) -> Result<(), ChainError> {
    match chain.send_raw_transaction(raw).await {
        Err(ChainError::Rejected { reason }) if is_known(&reason) => Ok(()),
        other => other.map(drop),
    }
}

/// The words of the usual nodes for a transaction that they have, or whose number is in use or used.
fn is_known(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    [
        "already known",
        "already imported",
        "known transaction",
        "underpriced",
        "nonce too low",
    ]
    .iter()
    .any(|words| reason.contains(words))
}

/// Replaces the file as a whole, durably.
fn write(path: &Path, entry: &Entry) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(entry)?)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> ChainError {
    ChainError::Outbox {
        action,
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
