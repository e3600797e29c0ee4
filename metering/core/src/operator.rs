//! The operator's promise to providers: what it has reserved never exceeds what the deposits cover.

mod account;
mod asking;
mod channels;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Address, Amount, Channel, ChannelId, Close, Domain, Misbehaved, NetworkId, ProviderFault,
    RESERVATION_LIFETIME, Reservation, Signed, UnixSeconds, Withdrawal,
};

pub use account::{AccountUpdate, Exposure, OpenWithdrawal, PayerAccount, Promise};
pub use asking::{Asked, ChannelOnChain, Freed, Refused};
use channels::Before;
pub use channels::Channels;

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

/// All promises of one network's operator.
///
/// One writer owns it. After each change, store what [`take_update`](Self::take_update) says durably, and only then
/// release what was promised. For every payer, counted exposure and open withdrawals stay within balance − pending; only a
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

    /// A payer's account; `None` if nothing is known of it.
    pub fn account(&self, payer: Address) -> Option<&PayerAccount> {
        self.payers.get(&payer)
    }

    /// What is to be stored of a payer's account since this was last asked.
    pub fn take_update(&mut self, payer: Address) -> AccountUpdate {
        let account = self.payers.get_mut(&payer);
        let channels = account.map_or_else(Vec::new, |account| account.channels.take_changes());
        self.drop_idle(payer);
        let rest = |account: &PayerAccount| PayerAccount {
            balance: account.balance,
            pending: account.pending,
            withdrawals: account.withdrawals.clone(),
            channels: Channels::default(),
        };
        AccountUpdate {
            account: self.payers.get(&payer).map(rest),
            channels,
        }
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
        let Some(account) = self.payers.get_mut(&payer) else {
            return;
        };
        if let Some(known) = account.channels.get(&channel) {
            let seen = Exposure {
                claimed: known.claimed.max(claimed),
                held,
                ..known.clone()
            };
            if seen != *known {
                account.channels.set(channel, Some(seen));
            }
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
        let asked = Asked {
            channel,
            capacity,
            valid_until,
            chain,
        };
        self.promise(&asked).map(|(reservation, _)| reservation)
    }

    /// Promises several reservations of one payer: all of them, or none.
    pub fn reserve_all(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Reservation>, Refused> {
        let mut promised = Vec::new();
        for one in asked {
            match self.promise(one) {
                Ok(new) => promised.push(new),
                Err(refused) => {
                    for (asked, (_, before)) in asked.iter().zip(promised).rev() {
                        self.take_back(asked.channel.payer, before);
                    }
                    return Err(refused);
                }
            }
        }
        let reservations = promised.into_iter().map(|(reservation, _)| reservation);
        Ok(reservations.collect())
    }

    fn promise(&mut self, asked: &Asked<'_>) -> Result<(Reservation, Before), Refused> {
        let Asked {
            channel,
            capacity,
            valid_until,
            chain,
        } = *asked;
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
        let account = self.payers.entry(payer).or_default();
        let available = account.available();
        let earlier = account.channels.get(&channel_id).cloned();
        let mut exposure = earlier.unwrap_or_default();
        let counted = exposure.counted();
        exposure.claimed = exposure.claimed.max(chain.claimed);
        exposure.held = chain.held;
        exposure.closed_at = None;
        exposure.promise(Promise {
            capacity,
            valid_until,
        });
        let needed = exposure.counted().saturating_sub(counted);
        let before = account.channels.set(channel_id, Some(exposure));
        if !account.keeps_promises() {
            self.take_back(payer, before);
            return Err(Refused::NotCovered {
                payer,
                needed,
                available,
            });
        }
        let reservation = Reservation {
            channel_id,
            capacity,
            valid_until,
        };
        Ok((reservation, before))
    }

    fn take_back(&mut self, payer: Address, before: Before) {
        if let Some(account) = self.payers.get_mut(&payer) {
            account.channels.undo(before);
        }
        self.drop_idle(payer);
    }

    /// Promises an immediate withdrawal; signed and released once the account is stored.
    pub fn promise_withdrawal(&mut self, withdrawal: &Withdrawal) -> Result<(), Refused> {
        self.check_network(withdrawal.network)?;
        let owner = withdrawal.owner;
        let account = self.payers.entry(owner).or_default();
        let available = account.available();
        let earlier = account.withdrawals.get(&withdrawal.nonce).copied();
        // Either may be executed: the larger and the later count.
        let open = OpenWithdrawal {
            amount: earlier.map_or(withdrawal.amount, |e| e.amount.max(withdrawal.amount)),
            deadline: earlier.map_or(withdrawal.deadline, |e| e.deadline.max(withdrawal.deadline)),
        };
        account.withdrawals.insert(withdrawal.nonce, open);
        if !account.keeps_promises() {
            match earlier {
                Some(earlier) => account.withdrawals.insert(withdrawal.nonce, earlier),
                None => account.withdrawals.remove(&withdrawal.nonce),
            };
            self.drop_idle(owner);
            return Err(Refused::NotCovered {
                payer: owner,
                needed: withdrawal.amount,
                available,
            });
        }
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
        let accounts = self.payers.values();
        let all_freed: Amount = accounts.map(|account| account.channels.freed()).sum();
        let Some(account) = self.payers.get_mut(&channel.payer) else {
            return Ok(Freed::Now(Amount::ZERO));
        };
        let payer_freed = account.channels.freed();
        let Some(exposure) = account.channels.get(&channel_id) else {
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
        account.channels.set(channel_id, Some(closed));
        Ok(Freed::Now(more))
    }

    /// Final blocks have reached this time: forgets what can no longer be claimed or executed. Returns the payers whose
    /// accounts changed.
    pub fn handle_final_time(&mut self, time: UnixSeconds) -> Vec<Address> {
        self.final_time = self.final_time.max(time);
        let mut changed = Vec::new();
        for (payer, account) in &mut self.payers {
            let is_over = |promise: &Promise| promise.valid_until.after(CLAIM_WINDOW) < time;
            let withdrawals = account.withdrawals.len();
            account.withdrawals.retain(|_, open| open.deadline >= time);
            if account.channels.forget(is_over) || account.withdrawals.len() < withdrawals {
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
