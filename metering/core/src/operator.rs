//! The operator's promise to providers: what it has reserved never exceeds what the deposits cover.

mod account;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Address, Amount, Channel, ChannelId, Close, Domain, Misbehaved, NetworkId, ProviderFault,
    RESERVATION_LIFETIME, Reservation, Signed, UnixSeconds, Withdrawal,
};

pub use account::{Exposure, OpenWithdrawal, PayerAccount, Promise};

/// How long a reservation stays claimable after it lapses: 24 hours.
pub const CLAIM_WINDOW: u64 = 24 * 3600;
/// How long a payer waits between its request to withdraw and the withdrawal, without the operator: 48 hours.
pub const EXIT_DELAY: u64 = 48 * 3600;

/// What one block's state says of a payer's deposit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deposit {
    /// Neither paid, nor held, nor withdrawn.
    pub balance: Amount,
    /// The part of it that its owner asked to take out.
    pub pending: Amount,
}

/// Capacity that the operator frees on a provider's word, before the chain makes it final.
///
/// A provider that closes a channel and claims on it all the same, together with its payer, costs the operator's bond
/// at most this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditLine {
    /// For all payers together.
    pub total: Amount,
    /// For any one payer.
    pub per_payer: Amount,
}

/// A promise that the operator cannot make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// For another network.
    #[error("the channel belongs to network {found}, this operator runs {expected}")]
    WrongNetwork {
        /// This ledger's network.
        expected: NetworkId,
        /// The channel's or withdrawal's network.
        found: NetworkId,
    },
    /// The deposit does not cover it.
    #[error(
        "payer {payer} has {available} left to promise and this needs {needed}; deposit more or wait for claims"
    )]
    NotCovered {
        /// Owner of the deposit.
        payer: Address,
        /// What the promise would add.
        needed: Amount,
        /// What is left.
        available: Amount,
    },
    /// Ends too late, too soon, or after the voucher key.
    #[error(
        "a reservation until {valid_until} is refused: it must end after {earliest} and no later than {latest}"
    )]
    BadTime {
        /// The end that was asked for.
        valid_until: UnixSeconds,
        /// The chain's time.
        earliest: UnixSeconds,
        /// Block time + 23 h, or the voucher key's end if sooner.
        latest: UnixSeconds,
    },
}

/// What became of a provider's `Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// This much can be promised again at once.
    Now(Amount),
    /// The credit line is used up: the capacity counts until it has lapsed on chain.
    Later,
}

/// A reservation that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// On this channel.
    pub channel: &'a Channel,
    /// Up to this cumulative amount.
    pub capacity: Amount,
    /// Until then.
    pub valid_until: UnixSeconds,
    /// What the chain says of the channel.
    pub chain: &'a ChannelOnChain,
}

/// All promises of one network's operator.
///
/// One writer owns it. After each change, store the payer's [`account`](Self::account) durably, and only then release
/// what was promised. For every payer, counted exposure and open withdrawals stay within balance − pending; only a
/// withdrawal request or a claim seen on chain can break that, and then nothing new is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityLedger {
    network: NetworkId,
    credit_line: CreditLine,
    final_time: UnixSeconds,
    payers: BTreeMap<Address, PayerAccount>,
}

impl CapacityLedger {
    /// An empty ledger.
    pub fn new(network: NetworkId, credit_line: CreditLine) -> Self {
        Self::restore(network, credit_line, [])
    }

    /// The ledger as stored, account by account.
    pub fn restore(
        network: NetworkId,
        credit_line: CreditLine,
        accounts: impl IntoIterator<Item = (Address, PayerAccount)>,
    ) -> Self {
        Self {
            network,
            credit_line,
            final_time: UnixSeconds::default(),
            payers: accounts.into_iter().collect(),
        }
    }

    /// What is to be stored for a payer; `None` when nothing is (delete the row).
    pub fn account(&self, payer: Address) -> Option<&PayerAccount> {
        self.payers.get(&payer)
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = (&Address, &PayerAccount)> {
        self.payers.iter()
    }

    /// Takes over what another writer has stored for a payer: several operators' machines take turns.
    pub fn replace(&mut self, payer: Address, account: Option<PayerAccount>) {
        match account {
            Some(account) => self.payers.insert(payer, account),
            None => self.payers.remove(&payer),
        };
        self.drop_idle(payer);
    }

    /// What can still be promised to this payer's providers.
    pub fn available(&self, payer: Address) -> Amount {
        self.payers
            .get(&payer)
            .map_or(Amount::ZERO, PayerAccount::available)
    }

    /// The chain's view of a deposit, in final blocks and in the newest one, which has this time.
    ///
    /// The final balance counts, and requests to withdraw count at sight: what has left since the final block had been
    /// asked for before it. That holds while finality is less than [`EXIT_DELAY`] behind. Beyond that both the request
    /// and the withdrawal may be in blocks that are not final, so the lower balance counts.
    pub fn set_deposit(
        &mut self,
        payer: Address,
        certain: Deposit,
        newest: Deposit,
        newest_time: UnixSeconds,
    ) {
        let behind = newest_time.since(self.final_time);
        let account = self.payers.entry(payer).or_default();
        account.balance = if behind < EXIT_DELAY {
            certain.balance
        } else {
            certain.balance.min(newest.balance)
        };
        account.pending = certain.pending.max(newest.pending);
        self.drop_idle(payer);
    }

    /// The chain's view of a channel, from final blocks: both are cumulative.
    pub fn set_claimed(
        &mut self,
        payer: Address,
        channel: ChannelId,
        claimed: Amount,
        held: Amount,
    ) {
        let account = self.payers.get_mut(&payer);
        let exposure = account.and_then(|account| account.channels.get_mut(&channel));
        if let Some(exposure) = exposure {
            exposure.claimed = exposure.claimed.max(claimed);
            exposure.held = held;
        }
    }

    /// Promises `capacity` on a channel until `valid_until`; signed and released once the account is stored.
    ///
    /// `claimed` and `held` are the chain's for this channel, `signer_valid_to` is the voucher key's end. Earlier
    /// promises stay claimable, so the highest counts. A closed channel counts in full again.
    pub fn reserve(
        &mut self,
        channel: &Channel,
        capacity: Amount,
        valid_until: UnixSeconds,
        chain: &ChannelOnChain,
    ) -> Result<Reservation, Refused> {
        self.check_network(channel.network)?;
        let latest = chain
            .block_time
            .after(RESERVATION_LIFETIME)
            .min(chain.signer_valid_to);
        if valid_until <= chain.block_time || valid_until > latest {
            return Err(Refused::BadTime {
                valid_until,
                earliest: chain.block_time,
                latest,
            });
        }
        let payer = channel.payer;
        let channel_id = channel.id();
        let mut account = self.payers.get(&payer).cloned().unwrap_or_default();
        let available = account.available();
        let exposure = account.channels.entry(channel_id).or_default();
        let before = exposure.counted();
        exposure.claimed = exposure.claimed.max(chain.claimed);
        exposure.held = chain.held;
        exposure.closed_at = None;
        exposure.promise(Promise {
            capacity,
            valid_until,
        });
        let needed = exposure.counted().saturating_sub(before);
        if !account.keeps_promises() {
            return Err(Refused::NotCovered {
                payer,
                needed,
                available,
            });
        }
        self.payers.insert(payer, account);
        Ok(Reservation {
            channel_id,
            capacity,
            valid_until,
        })
    }

    /// Promises several reservations of one payer: all of them, or none.
    pub fn reserve_all(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Reservation>, Refused> {
        let Some(first) = asked.first() else {
            return Ok(Vec::new());
        };
        let payer = first.channel.payer;
        let before = self.payers.get(&payer).cloned();
        let reserve = |one: &Asked<'_>| {
            debug_assert_eq!(one.channel.payer, payer);
            self.reserve(one.channel, one.capacity, one.valid_until, one.chain)
        };
        let reserved: Result<Vec<_>, _> = asked.iter().map(reserve).collect();
        if reserved.is_err() {
            match before {
                Some(account) => self.payers.insert(payer, account),
                None => self.payers.remove(&payer),
            };
        }
        reserved
    }

    /// Promises an immediate withdrawal; signed and released once the account is stored.
    pub fn promise_withdrawal(&mut self, withdrawal: &Withdrawal) -> Result<(), Refused> {
        self.check_network(withdrawal.network)?;
        let owner = withdrawal.owner;
        let mut account = self.payers.get(&owner).cloned().unwrap_or_default();
        let available = account.available();
        let open = OpenWithdrawal {
            amount: withdrawal.amount,
            deadline: withdrawal.deadline,
        };
        if let Some(earlier) = account.withdrawals.insert(withdrawal.nonce, open) {
            // Either may be executed: the larger and the later count.
            account.withdrawals.insert(
                withdrawal.nonce,
                OpenWithdrawal {
                    amount: earlier.amount.max(open.amount),
                    deadline: earlier.deadline.max(open.deadline),
                },
            );
        }
        if !account.keeps_promises() {
            return Err(Refused::NotCovered {
                payer: owner,
                needed: withdrawal.amount,
                available,
            });
        }
        self.payers.insert(owner, account);
        Ok(())
    }

    /// The chain has moved on to this withdrawal nonce in final blocks: consents below it can't be executed any more.
    pub fn set_withdrawal_nonce(&mut self, owner: Address, next_nonce: u64) {
        if let Some(account) = self.payers.get_mut(&owner) {
            account.withdrawals = account.withdrawals.split_off(&next_nonce);
        }
        self.drop_idle(owner);
    }

    /// A provider says that it will claim no more on a channel. Its word frees capacity within the credit line.
    pub fn close(
        &mut self,
        channel: &Channel,
        close: &Signed<Close>,
        domain: &Domain,
    ) -> Result<Freed, Misbehaved> {
        let channel_id = channel.id();
        if close.message.channel_id != channel_id {
            return Err(ProviderFault::CloseOfAnother {
                expected: channel_id,
                found: close.message.channel_id,
            }
            .into());
        }
        close
            .verify(domain, channel.provider)
            .map_err(|cause| ProviderFault::CloseSignature {
                channel: channel_id,
                cause,
            })?;
        let all_freed: Amount = self.payers.values().map(PayerAccount::freed).sum();
        let Some(account) = self.payers.get_mut(&channel.payer) else {
            return Ok(Freed::Now(Amount::ZERO));
        };
        let payer_freed = account.freed();
        let Some(exposure) = account.channels.get_mut(&channel_id) else {
            return Ok(Freed::Now(Amount::ZERO));
        };
        let mut closed = exposure.clone();
        let earlier = exposure.closed_at.unwrap_or(Amount::MAX);
        closed.closed_at = Some(close.message.cumulative.min(earlier));
        let more = closed.freed().saturating_sub(exposure.freed());
        let within = all_freed.saturating_add(more) <= self.credit_line.total
            && payer_freed.saturating_add(more) <= self.credit_line.per_payer;
        if !within {
            return Ok(Freed::Later);
        }
        *exposure = closed;
        Ok(Freed::Now(more))
    }

    /// Final blocks have reached this time: forgets what can no longer be claimed or executed. Returns the payers whose
    /// accounts changed.
    pub fn handle_final_time(&mut self, time: UnixSeconds) -> Vec<Address> {
        self.final_time = self.final_time.max(time);
        let mut changed = Vec::new();
        for (payer, account) in &mut self.payers {
            let before = (account.channels.len(), account.withdrawals.len());
            let promises = account.promises();
            for exposure in account.channels.values_mut() {
                exposure
                    .promises
                    .retain(|promise| promise.valid_until.after(CLAIM_WINDOW) >= time);
            }
            account
                .channels
                .retain(|_, exposure| !exposure.promises.is_empty());
            account.withdrawals.retain(|_, open| open.deadline >= time);
            let after = (account.channels.len(), account.withdrawals.len());
            if before != after || promises != account.promises() {
                changed.push(*payer);
            }
        }
        for payer in &changed {
            self.drop_idle(*payer);
        }
        changed
    }

    fn check_network(&self, found: NetworkId) -> Result<(), Refused> {
        if found == self.network {
            return Ok(());
        }
        Err(Refused::WrongNetwork {
            expected: self.network,
            found,
        })
    }

    fn drop_idle(&mut self, payer: Address) {
        if self.payers.get(&payer).is_some_and(PayerAccount::is_idle) {
            self.payers.remove(&payer);
        }
    }
}

/// What the chain says about a channel, for a new promise on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOnChain {
    /// Time of the newest block.
    pub block_time: UnixSeconds,
    /// Last second at which the channel's voucher key counts.
    pub signer_valid_to: UnixSeconds,
    /// Claimed so far, in final blocks.
    pub claimed: Amount,
    /// Held now, in final blocks.
    pub held: Amount,
}
