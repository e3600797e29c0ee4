//! An EVM in this process: the same bytecode, real signed transactions, one block each, state on disk.
//!
//! The only file that uses revm. What is kept on disk is the journal of blocks, which is executed again at opening.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, Keccak256, TxKind, U256, keccak256};
use async_trait::async_trait;
use ipsx_metering::{Signature, UnixSeconds, recover};
use rand::Rng;
use revm::context::result::{EVMError, ExecutionResult, ResultAndState};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::database::InMemoryDB;
use revm::primitives::hardfork::SpecId;
use revm::state::AccountInfo;
use revm::{Context, DatabaseCommit, DatabaseRef, ExecuteEvm, MainBuilder, MainContext};

use crate::chain::{Call, Chain, ChainError, Fees, Head, Log, LogFilter, TransactionReceipt};
use crate::journal::{Header, Journal, JournalError, Record};

const BLOCK_GAS: u64 = 30_000_000;
/// Gas of a call that is over sooner than another thread has begun it.
const SHORT: u64 = 100_000;
/// Answers to such calls that are remembered, and the longest such call, bytes.
const REMEMBERED: usize = 10_000;
const SMALL: usize = 256;
const RULES: SpecId = SpecId::PRAGUE;

/// Tells the embedded chain the time. Blocks never go backwards, whatever it says.
pub type Clock = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// What a new embedded chain starts from.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Accounts with wei to pay gas with.
    pub accounts: Vec<(Address, U256)>,
    /// Wei burnt per unit of gas; 0 lets accounts without any wei use the chain.
    pub base_fee: u64,
}

impl Genesis {
    /// A chain on which gas costs one gwei and each of `accounts` has 10,000 × 10^18 wei.
    pub fn funding(accounts: impl IntoIterator<Item = Address>) -> Self {
        let wei = U256::from(10_000u64) * U256::from(10u64).pow(U256::from(18));
        Self {
            accounts: accounts.into_iter().map(|owner| (owner, wei)).collect(),
            base_fee: 1_000_000_000,
        }
    }
}

/// A block as it is kept.
#[derive(Clone, Debug)]
pub struct EmbeddedBlock {
    /// Height.
    pub number: u64,
    /// Hash over parent, time and transaction.
    pub hash: B256,
    /// Hash of the block before.
    pub parent: B256,
    /// When it was made.
    pub timestamp: UnixSeconds,
    /// Its transaction; none in the genesis.
    pub transaction: Option<B256>,
    /// Gas its transaction used.
    pub gas_used: u64,
}

/// A transaction as it was sent, with what became of it.
#[derive(Clone, Debug)]
pub struct MinedTransaction {
    /// As it was signed.
    pub envelope: TxEnvelope,
    /// What became of it.
    pub receipt: TransactionReceipt,
}

/// The in-process chain. Cheap to clone; clones are the same chain.
#[derive(Clone)]
pub struct EmbeddedChain {
    state: Arc<Mutex<State>>,
}

struct State {
    db: InMemoryDB,
    chain_id: u64,
    base_fee: u64,
    clock: Clock,
    advanced: u64,
    journal: Option<Journal>,
    blocks: Vec<EmbeddedBlock>,
    transactions: HashMap<B256, MinedTransaction>,
    answers: Answers,
}

/// What short calls gave in a block that would be made now: the same question has the same answer until there is another
/// block, or another second.
#[derive(Default)]
struct Answers {
    block: (u64, UnixSeconds),
    given: HashMap<Call, Bytes>,
}

impl EmbeddedChain {
    /// Gas that one block, and so one transaction, may use.
    pub const BLOCK_GAS: u64 = BLOCK_GAS;

    /// Starts a new chain with a random id, kept at `path`, which must not exist.
    pub fn create(path: &Path, genesis: Genesis, clock: Clock) -> Result<Self, JournalError> {
        let header = header(genesis, &clock);
        let journal = Journal::create(path, &header)?;
        Ok(Self::start(header, clock, Some(journal)))
    }

    /// Opens the chain kept at `path`, executing its blocks again.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, JournalError> {
        let (journal, header, records) = Journal::open(path)?;
        let chain = Self::start(header, clock, None);
        let mut state = chain.lock();
        for (index, record) in records.into_iter().enumerate() {
            state.replay(record).map_err(|e| JournalError::Corrupt {
                path: path.to_path_buf(),
                offset: 0,
                reason: format!("block {} can't be executed again: {e}", index + 1),
            })?;
        }
        state.journal = Some(journal);
        drop(state);
        Ok(chain)
    }

    /// Opens the chain kept at `path`, or starts one there if there is no file.
    pub fn open_or_create(
        path: &Path,
        genesis: Genesis,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        if path.exists() {
            Self::open(path, clock)
        } else {
            Self::create(path, genesis, clock)
        }
    }

    /// Starts a new chain that is gone when the last clone is dropped.
    pub fn in_memory(genesis: Genesis, clock: Clock) -> Self {
        Self::start(header(genesis, &clock), clock, None)
    }

    /// Moves the chain's time ahead of its clock, for tests in virtual time.
    pub fn advance(&self, seconds: u64) {
        let mut state = self.lock();
        state.advanced = state.advanced.saturating_add(seconds);
    }

    /// A block by its height; the newest with `None`, its time being the clock's as if empty blocks kept coming.
    pub fn block(&self, number: Option<u64>) -> Option<EmbeddedBlock> {
        let state = self.lock();
        match number {
            Some(number) => state.blocks.get(usize::try_from(number).ok()?).cloned(),
            None => state.blocks.last().cloned().map(|block| EmbeddedBlock {
                timestamp: state.now(),
                ..block
            }),
        }
    }

    /// A transaction that is in a block.
    pub fn transaction(&self, hash: B256) -> Option<MinedTransaction> {
        self.lock().transactions.get(&hash).cloned()
    }

    /// Wei burnt per unit of gas.
    pub fn base_fee(&self) -> u64 {
        self.lock().base_fee
    }

    fn start(header: Header, clock: Clock, journal: Option<Journal>) -> Self {
        let mut db = InMemoryDB::default();
        for (address, wei) in &header.accounts {
            db.insert_account_info(*address, AccountInfo::from_balance(*wei));
        }
        let genesis = EmbeddedBlock {
            number: 0,
            hash: keccak256(header.chain_id.to_be_bytes()),
            parent: B256::ZERO,
            timestamp: header.timestamp,
            transaction: None,
            gas_used: 0,
        };
        Self {
            state: Arc::new(Mutex::new(State {
                db,
                chain_id: header.chain_id,
                base_fee: header.base_fee,
                clock,
                advanced: 0,
                journal,
                blocks: vec![genesis],
                transactions: HashMap::new(),
                answers: Answers::default(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is changed before it can no longer fail, so a panicking reader leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call gives that takes little, such as reading an account, while nobody writes.
    fn glance(&self, call: &Call) -> Option<Bytes> {
        let mut state = self.state.try_lock().ok()?;
        let block = (state.head().number, state.now());
        if state.answers.block != block || state.answers.given.len() >= REMEMBERED {
            state.answers.block = block;
            state.answers.given.clear();
        }
        if let Some(answer) = state.answers.given.get(call) {
            return Some(answer.clone());
        }
        let answer = output(state.simulate(call, SHORT).ok()?).ok()?;
        if call.data.len() <= SMALL && answer.len() <= SMALL {
            state.answers.given.insert(call.clone(), answer.clone());
        }
        Some(answer)
    }

    /// Runs on the blocking pool: execution takes milliseconds and the journal waits for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, ChainError> + Send + 'static,
    ) -> Result<T, ChainError> {
        let chain = self.clone();
        match tokio::task::spawn_blocking(move || work(&mut chain.lock())).await {
            Ok(result) => result,
            Err(e) => Err(ChainError::Rejected {
                reason: format!("the embedded chain stopped: {e}"),
            }),
        }
    }
}

fn header(genesis: Genesis, clock: &Clock) -> Header {
    Header {
        // Nothing signed on one embedded chain replays on another. 53 bits: JavaScript wallets keep it in a double.
        chain_id: rand::rngs::OsRng.gen_range(1 << 32..1 << 52),
        timestamp: clock(),
        base_fee: genesis.base_fee,
        accounts: genesis.accounts,
    }
}

impl State {
    fn head(&self) -> &EmbeddedBlock {
        self.blocks.last().expect("there is a genesis")
    }

    /// The time of the next block.
    fn now(&self) -> UnixSeconds {
        (self.clock)()
            .after(self.advanced)
            .max(self.head().timestamp)
    }

    fn execute(
        &self,
        tx: TxEnv,
        timestamp: UnixSeconds,
        base_fee: u64,
    ) -> Result<ResultAndState, ChainError> {
        let block = BlockEnv {
            number: U256::from(self.head().number + 1),
            timestamp: U256::from(timestamp.0),
            gas_limit: BLOCK_GAS,
            basefee: base_fee,
            prevrandao: Some(self.head().hash),
            ..BlockEnv::default()
        };
        let cfg = CfgEnv::new_with_spec(RULES).with_chain_id(self.chain_id);
        let mut evm = Context::mainnet()
            .with_ref_db(&self.db)
            .with_block(block)
            .with_cfg(cfg)
            .build_mainnet();
        evm.transact(tx).map_err(|e| ChainError::Rejected {
            reason: match e {
                EVMError::Transaction(e) => e.to_string(),
                other => other.to_string(),
            },
        })
    }

    /// Executes without fees, as the account's next transaction.
    fn simulate(&self, call: &Call, gas: u64) -> Result<ExecutionResult, ChainError> {
        let tx = TxEnv {
            caller: call.from,
            gas_limit: gas,
            kind: call.to.map_or(TxKind::Create, TxKind::Call),
            value: call.value,
            data: call.data.clone(),
            nonce: self.account(call.from).nonce,
            chain_id: Some(self.chain_id),
            ..TxEnv::default()
        };
        Ok(self.execute(tx, self.now(), 0)?.result)
    }

    fn estimate(&self, call: &Call) -> Result<u64, ChainError> {
        let ample = self.simulate(call, BLOCK_GAS)?;
        // A call that does little pays for its data by another rule (EIP-7623).
        let mut gas = ample.gas().total_gas_spent().max(ample.gas().floor_gas());
        output(ample)?;
        // A call gets only 63/64 of what is left, so what was spent with plenty may not be enough.
        loop {
            gas = (gas + gas / 64 + 700).min(BLOCK_GAS);
            if gas == BLOCK_GAS || self.simulate(call, gas)?.is_success() {
                return Ok(gas);
            }
        }
    }

    fn account(&self, address: Address) -> AccountInfo {
        let Ok(info) = self.db.basic_ref(address);
        info.unwrap_or_default()
    }

    /// Executes a transaction in a block of its own and keeps it, first on disk.
    fn include(&mut self, raw: &[u8], timestamp: UnixSeconds) -> Result<B256, ChainError> {
        let (envelope, sender) = decode(raw, self.chain_id)?;
        let hash = *envelope.tx_hash();
        if self.transactions.contains_key(&hash) {
            return Err(ChainError::Rejected {
                reason: format!("transaction {hash} is already in a block"),
            });
        }
        let executed = self.execute(environment(&envelope, sender), timestamp, self.base_fee)?;
        if let Some(journal) = &mut self.journal {
            journal.append(&Record {
                timestamp,
                transaction: raw.to_vec(),
            })?;
        }
        let number = self.head().number + 1;
        let receipt = receipt(&envelope, sender, number, self.base_fee, executed.result);
        self.db.commit(executed.state);
        let mut hasher = Keccak256::new();
        hasher.update(self.head().hash);
        hasher.update(timestamp.0.to_be_bytes());
        hasher.update(hash);
        self.blocks.push(EmbeddedBlock {
            number,
            hash: hasher.finalize(),
            parent: self.head().hash,
            timestamp,
            transaction: Some(hash),
            gas_used: receipt.gas_used,
        });
        self.transactions
            .insert(hash, MinedTransaction { envelope, receipt });
        Ok(hash)
    }

    fn replay(&mut self, record: Record) -> Result<(), ChainError> {
        self.include(&record.transaction, record.timestamp)?;
        Ok(())
    }

    fn logs(&self, filter: &LogFilter) -> Vec<Log> {
        let first = usize::try_from(filter.from_block).unwrap_or(usize::MAX);
        self.blocks
            .iter()
            .skip(first)
            .filter_map(|block| self.transactions.get(&block.transaction?))
            .flat_map(|mined| &mined.receipt.logs)
            .filter(|log| filter.matches(log))
            .cloned()
            .collect()
    }
}

fn decode(raw: &[u8], chain_id: u64) -> Result<(TxEnvelope, Address), ChainError> {
    let rejected = |reason: String| ChainError::Rejected { reason };
    let mut rest = raw;
    let envelope = TxEnvelope::decode_2718(&mut rest)
        .map_err(|e| rejected(format!("not a signed transaction: {e}")))?;
    if !rest.is_empty() {
        return Err(rejected("bytes after the signed transaction".into()));
    }
    if envelope.is_eip4844() || envelope.is_eip7702() {
        return Err(rejected(
            "the embedded chain takes legacy, EIP-2930 and EIP-1559 transactions".into(),
        ));
    }
    if envelope.chain_id() != Some(chain_id) {
        return Err(rejected(format!(
            "the transaction is for chain {:?}, this is {chain_id}",
            envelope.chain_id()
        )));
    }
    let signature = envelope.signature();
    let mut bytes = [0; 65];
    bytes[..32].copy_from_slice(&signature.r().to_be_bytes::<32>());
    bytes[32..64].copy_from_slice(&signature.s().to_be_bytes::<32>());
    bytes[64] = 27 + u8::from(signature.v());
    let sender = recover(envelope.signature_hash(), &Signature(bytes))
        .map_err(|e| rejected(format!("the transaction's signature is not valid: {e}")))?;
    Ok((envelope, sender))
}

fn environment(tx: &TxEnvelope, sender: Address) -> TxEnv {
    TxEnv {
        tx_type: tx.tx_type() as u8,
        caller: sender,
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        ..TxEnv::default()
    }
}

fn receipt(
    tx: &TxEnvelope,
    from: Address,
    block_number: u64,
    base_fee: u64,
    result: ExecutionResult,
) -> TransactionReceipt {
    let transaction_hash = *tx.tx_hash();
    let success = result.is_success();
    let contract_address = result.created_address();
    let gas_used = result.tx_gas_used();
    // A reverted transaction leaves no events.
    let logs = if success {
        result.into_logs()
    } else {
        Vec::new()
    };
    let logs = logs
        .into_iter()
        .zip(0..)
        .map(|(log, log_index)| Log {
            address: log.address,
            topics: log.data.topics().to_vec(),
            data: log.data.data,
            block_number,
            transaction_hash,
            log_index,
        })
        .collect();
    TransactionReceipt {
        transaction_hash,
        block_number,
        from,
        to: tx.to(),
        success,
        gas_used,
        effective_gas_price: tx.effective_gas_price(Some(base_fee)),
        contract_address,
        logs,
    }
}

fn output(result: ExecutionResult) -> Result<Bytes, ChainError> {
    match result {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(ChainError::Reverted { data: output }),
        ExecutionResult::Halt { reason, .. } => Err(ChainError::Rejected {
            reason: format!("execution stopped: {reason:?}"),
        }),
    }
}

#[async_trait]
impl Chain for EmbeddedChain {
    async fn chain_id(&self) -> Result<u64, ChainError> {
        Ok(self.lock().chain_id)
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let state = self.lock();
        Ok(Head {
            number: state.head().number,
            timestamp: state.now(),
        })
    }

    async fn call(&self, call: &Call) -> Result<Bytes, ChainError> {
        if let Some(answer) = self.glance(call) {
            return Ok(answer);
        }
        let call = call.clone();
        self.run(move |state| output(state.simulate(&call, BLOCK_GAS)?))
            .await
    }

    /// Every block is final.
    async fn call_final(&self, call: &Call) -> Result<Bytes, ChainError> {
        self.call(call).await
    }

    async fn final_time(&self) -> Result<UnixSeconds, ChainError> {
        Ok(self.lock().now())
    }

    async fn estimate_gas(&self, call: &Call) -> Result<u64, ChainError> {
        let call = call.clone();
        self.run(move |state| state.estimate(&call)).await
    }

    async fn fees(&self) -> Result<Fees, ChainError> {
        Ok(Fees {
            max_fee_per_gas: self.base_fee().into(),
            max_priority_fee_per_gas: 0,
        })
    }

    async fn nonce(&self, account: Address) -> Result<u64, ChainError> {
        Ok(self.lock().account(account).nonce)
    }

    /// Nothing waits: each transaction makes its block.
    async fn mined_nonce(&self, account: Address) -> Result<u64, ChainError> {
        self.nonce(account).await
    }

    async fn balance(&self, account: Address) -> Result<U256, ChainError> {
        Ok(self.lock().account(account).balance)
    }

    async fn code(&self, account: Address) -> Result<Bytes, ChainError> {
        let state = self.lock();
        let hash = state.account(account).code_hash;
        let Ok(code) = state.db.code_by_hash_ref(hash);
        Ok(code.original_bytes())
    }

    async fn send_raw_transaction(&self, raw: &[u8]) -> Result<B256, ChainError> {
        let raw = raw.to_vec();
        self.run(move |state| {
            let now = state.now();
            state.include(&raw, now)
        })
        .await
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>, ChainError> {
        let state = self.lock();
        Ok(state
            .transactions
            .get(&transaction)
            .map(|mined| mined.receipt.clone()))
    }

    async fn logs(&self, filter: &LogFilter) -> Result<Vec<Log>, ChainError> {
        Ok(self.lock().logs(filter))
    }
}
