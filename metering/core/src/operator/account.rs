//! One payer's deposit, and what is promised on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Channels;
use crate::{Amount, ChannelId, UnixSeconds};

/// One promise on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Highest cumulative amount that it covers.
    pub capacity: Amount,
    /// Until when vouchers may be signed against it.
    pub valid_until: UnixSeconds,
}

/// What can still be claimed on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// The promises that count: none is both smaller and shorter than another.
    pub promises: Vec<Promise>,
    /// Claimed on chain.
    pub claimed: Amount,
    /// Moved from the balance to the channel on chain.
    pub held: Amount,
    /// The provider has said that it will claim no more than this, and the credit line allows to rely on it.
    pub closed_at: Option<Amount>,
}

impl Exposure {
    /// Highest capacity of any promise that is claimable.
    pub fn capacity(&self) -> Amount {
        let capacities = self.promises.iter().map(|promise| promise.capacity);
        capacities.max().unwrap_or(Amount::ZERO)
    }

    /// What the balance may still have to pay: capacity − claimed − held.
    pub fn open(&self) -> Amount {
        self.beyond_chain(self.capacity())
    }

    /// The part of [`open`](Self::open) that counts against the balance.
    pub fn counted(&self) -> Amount {
        let capacity = self.capacity();
        self.beyond_chain(self.closed_at.map_or(capacity, |close| close.min(capacity)))
    }

    /// The part that was freed on the provider's word, within the credit line.
    pub fn freed(&self) -> Amount {
        self.open().saturating_sub(self.counted())
    }

    fn beyond_chain(&self, capacity: Amount) -> Amount {
        capacity
            .saturating_sub(self.claimed)
            .saturating_sub(self.held)
    }

    pub(super) fn promise(&mut self, new: Promise) {
        self.promises
            .retain(|old| old.capacity > new.capacity || old.valid_until > new.valid_until);
        let covered = self
            .promises
            .iter()
            .any(|old| old.capacity >= new.capacity && old.valid_until >= new.valid_until);
        if !covered {
            self.promises.push(new);
        }
    }
}

/// One payer's deposit and everything promised on it. What changes of it is stored before any promise on it is released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerAccount {
    /// Deposit on chain, as of final blocks.
    pub balance: Amount,
    /// Withdrawal that was asked for on chain, as of the newest block.
    pub pending: Amount,
    /// Consents to immediate withdrawals that may still be executed, by nonce.
    pub withdrawals: BTreeMap<u64, OpenWithdrawal>,
    /// Channels with claimable promises.
    pub channels: Channels,
}

/// What of a payer's account is to be stored after it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUpdate {
    /// All of it but its channels; `None` if nothing of it is kept, channels neither.
    pub account: Option<PayerAccount>,
    /// The channels that have changed; `None` of one that is gone.
    pub channels: Vec<(ChannelId, Option<Exposure>)>,
}

/// A consent to an immediate withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWithdrawal {
    /// How much.
    pub amount: Amount,
    /// Last second at which it can be executed.
    pub deadline: UnixSeconds,
}

impl PayerAccount {
    /// What is promised: the counted exposure of all channels, and open withdrawals.
    pub fn committed(&self) -> Amount {
        let withdrawals = self.withdrawals.values().map(|open| open.amount).sum();
        self.channels.counted().saturating_add(withdrawals)
    }

    /// The most that may still be taken: as [`committed`](Self::committed), but with what providers said they will not
    /// claim.
    pub fn owed(&self) -> Amount {
        self.committed().saturating_add(self.channels.freed())
    }

    /// What can still be promised: balance − pending − committed.
    pub fn available(&self) -> Amount {
        self.balance
            .saturating_sub(self.pending)
            .saturating_sub(self.committed())
    }

    pub(super) fn keeps_promises(&self) -> bool {
        self.committed() <= self.balance.saturating_sub(self.pending)
    }

    /// Whether nothing of it has to be kept.
    pub(super) fn is_idle(&self) -> bool {
        self.balance == Amount::ZERO
            && self.channels.is_empty()
            && !self.channels.has_changed()
            && self.withdrawals.is_empty()
    }
}
