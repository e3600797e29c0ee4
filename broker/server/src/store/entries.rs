//! What the desk writes: several rows that belong together, all or nothing.

use async_trait::async_trait;
use ipsx_market::deal::Outcome;
use ipsx_market::fleet::{Epoch, Instance, ShardId};
use ipsx_market::proof::{Proof, Subject};
use ipsx_market::record::{DealRecord, Transition};
use ipsx_market::resting::RequestRecord;
use ipsx_metering::{AccountUpdate, Address, Signed, UnixSeconds, Withdrawal};

use super::{StoreError, Tx, Write, deals, fleet, money, proofs, resting};

/// One thing that changes with others.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A deal, what changed it, and its outcome if it has one.
    Deal {
        /// As it is now.
        record: Box<DealRecord>,
        /// In order.
        transitions: Vec<Transition>,
    },
    /// A request that rests, or what became of it.
    Request(Box<RequestRecord>),
    /// A request that rests at several brokers and is over; the first word on it stays.
    SharedRequest(Box<RequestRecord>),
    /// The network's word on a deal, which stays the first one; [`StoreError::OtherOutcome`] if it was another.
    Outcome(Box<Signed<Outcome>>, UnixSeconds),
    /// What has changed of a payer's account.
    Account(Address, Box<AccountUpdate>),
    /// The same for one that several brokers write, in turns: how often it had been written when it was read.
    SharedAccount(Address, Box<AccountUpdate>, i64),
    /// Everything else only counts while a broker owns a shard under an epoch.
    Fence(Instance, ShardId, Epoch),
    /// What is known of an address; `None` drops it.
    Proof(Subject, Option<Box<Proof>>),
    /// A consent to an immediate withdrawal, and the idempotency key that it was given under.
    Withdrawal {
        /// The consent.
        signed: Box<Signed<Withdrawal>>,
        /// The key.
        key: Option<String>,
        /// When it was given.
        now: UnixSeconds,
    },
}

/// Written in order, in one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(pub(crate) Vec<Entry>);

#[async_trait]
impl Write for Entries {
    type Done = ();

    fn wallets(&self) -> Vec<Address> {
        let wallet = |entry: &Entry| match entry {
            Entry::Deal { record, .. } => Some(record.deal.requester),
            Entry::Request(record) | Entry::SharedRequest(record) => {
                Some(record.request.message.requester)
            }
            Entry::Account(payer, _) | Entry::SharedAccount(payer, ..) => Some(*payer),
            Entry::Withdrawal { signed, .. } => Some(signed.message.owner),
            Entry::Outcome(..) | Entry::Fence(..) | Entry::Proof(..) => None,
        };
        self.0.iter().filter_map(wallet).collect()
    }

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        for entry in &self.0 {
            match entry {
                Entry::Deal {
                    record,
                    transitions,
                } => deals::save_deal(tx, record, transitions).await?,
                Entry::Request(record) => resting::save_request(tx, record).await?,
                Entry::SharedRequest(record) => resting::save_shared_request(tx, record).await?,
                Entry::Outcome(outcome, at) => deals::save_outcome(tx, outcome, *at).await?,
                Entry::Account(payer, update) => money::save_account(tx, *payer, update).await?,
                Entry::SharedAccount(payer, update, version) => {
                    money::save_shared_account(tx, *payer, update, *version).await?;
                }
                Entry::Fence(owner, shard, epoch) => {
                    fleet::fence(tx, owner, *shard, *epoch).await?;
                }
                Entry::Proof(subject, proof) => {
                    proofs::save_proof(tx, subject, proof.as_deref()).await?;
                }
                Entry::Withdrawal { signed, key, now } => {
                    money::save_withdrawal(tx, signed, key.as_deref(), *now).await?;
                }
            }
        }
        Ok(())
    }
}
