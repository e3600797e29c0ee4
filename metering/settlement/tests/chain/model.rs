//! A slow, obvious model of the contract, to compare random histories with. Two payers, one network.

use ipsx_metering::Amount;
use ipsx_settlement::{RowOutcome, SkipReason};

use crate::world::{DAY, fee};

pub(crate) const PAYERS: usize = 2;
/// Channels; the even ones are the first payer's.
pub(crate) const CHANNELS: usize = 4;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Payer {
    pub(crate) balance: u128,
    pub(crate) pending: u128,
    pub(crate) requested_at: u64,
    pub(crate) debt: u128,
    pub(crate) key_valid_to: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ChannelModel {
    pub(crate) claimed: u128,
    pub(crate) held: u128,
    pub(crate) held_until: u64,
    pub(crate) highest_voucher: u128,
    pub(crate) highest_capacity: u128,
}

/// One claim, in the model's terms.
#[derive(Clone, Debug)]
pub(crate) struct ModelRow {
    pub(crate) channel: usize,
    pub(crate) cumulative: u128,
    pub(crate) capacity: u128,
    pub(crate) until: u64,
    /// Which operator key signed: they are numbered in the order of rotation.
    pub(crate) operator: u64,
    pub(crate) forged: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) operator: u64,
    pub(crate) rotated_at: u64,
    pub(crate) bond: u128,
    pub(crate) bond_pending: u128,
    pub(crate) bond_requested_at: u64,
    pub(crate) treasury: u128,
    pub(crate) provider: u128,
    pub(crate) payers: [Payer; PAYERS],
    pub(crate) channels: [ChannelModel; CHANNELS],
}

impl Model {
    pub(crate) fn deposit(&mut self, payer: usize, amount: u128) {
        let payer = &mut self.payers[payer];
        let repaid = amount.min(payer.debt);
        payer.debt -= repaid;
        self.bond += repaid;
        payer.balance += amount - repaid;
    }

    pub(crate) fn request_withdraw(&mut self, payer: usize, amount: u128) {
        self.payers[payer].pending = amount;
        self.payers[payer].requested_at = self.now;
    }

    /// What is taken, or `None` if the contract refuses.
    pub(crate) fn withdraw(&mut self, payer: usize) -> Option<u128> {
        let payer = &mut self.payers[payer];
        if payer.pending == 0 || self.now <= payer.requested_at + 2 * DAY {
            return None;
        }
        let taken = payer.pending.min(payer.balance);
        payer.balance -= taken;
        payer.pending = 0;
        payer.requested_at = 0;
        Some(taken)
    }

    pub(crate) fn withdraw_with_operator(&mut self, payer: usize, amount: u128) -> bool {
        let payer = &mut self.payers[payer];
        let enough = amount <= payer.balance;
        if enough {
            payer.balance -= amount;
        }
        enough
    }

    pub(crate) fn authorize(&mut self, payer: usize, valid_to: u64) {
        let key = &mut self.payers[payer].key_valid_to;
        *key = valid_to.max(*key);
    }

    pub(crate) fn revoke(&mut self, payer: usize) {
        let key = &mut self.payers[payer].key_valid_to;
        *key = (self.now + DAY).min(*key);
    }

    pub(crate) fn rotate(&mut self) -> bool {
        let allowed = self.rotated_at == 0 || self.now > self.rotated_at + 2 * DAY;
        if allowed {
            self.operator += 1;
            self.rotated_at = self.now;
        }
        allowed
    }

    pub(crate) fn request_bond(&mut self, amount: u128) {
        self.bond_pending = amount;
        self.bond_requested_at = self.now;
    }

    /// What is taken, or `None` if the contract refuses.
    pub(crate) fn withdraw_bond(&mut self) -> Option<u128> {
        if self.bond_pending == 0 || self.now <= self.bond_requested_at + 7 * DAY {
            return None;
        }
        let taken = std::mem::take(&mut self.bond_pending).min(self.bond);
        self.bond -= taken;
        Some(taken)
    }

    pub(crate) fn take_credits(&mut self, treasury: bool, amount: u128) -> bool {
        let credits = match treasury {
            true => &mut self.treasury,
            false => &mut self.provider,
        };
        let enough = amount <= *credits;
        if enough {
            *credits -= amount;
        }
        enough
    }

    pub(crate) fn settle(&mut self, row: &ModelRow) -> RowOutcome {
        if let Some(reason) = self.wrong(row) {
            return RowOutcome::Skipped(reason);
        }
        let due = row.cumulative.min(row.capacity);
        let before = self.channels[row.channel].claimed;
        if due <= before {
            return RowOutcome::Skipped(SkipReason::NothingDue);
        }
        // A skipped row changes nothing, not even an expired hold.
        let untouched = self.clone();
        if self.channels[row.channel].held_until < self.now {
            self.release(row.channel);
        }
        let mut owed = due - before;
        let from_held = owed.min(self.channels[row.channel].held);
        owed -= from_held;
        let from_balance = owed.min(self.free(row.channel % PAYERS, row.until));
        owed -= from_balance;
        let from_bond = owed.min(self.bond);
        owed -= from_bond;
        let paid = from_held + from_balance + from_bond;
        if paid == 0 {
            *self = untouched;
            return RowOutcome::Skipped(SkipReason::Unfunded);
        }
        let payer = &mut self.payers[row.channel % PAYERS];
        let channel = &mut self.channels[row.channel];
        channel.held -= from_held;
        payer.balance -= from_balance;
        self.bond -= from_bond;
        payer.debt += from_bond;
        channel.claimed += paid;
        channel.highest_voucher = channel.highest_voucher.max(row.cumulative);
        channel.highest_capacity = channel.highest_capacity.max(row.capacity);
        let taken = fee(channel.claimed) - fee(before);
        self.treasury += taken;
        self.provider += paid - taken;
        RowOutcome::Settled {
            paid: Amount(paid),
            fee: Amount(taken),
            claimed: Amount(channel.claimed),
            unpaid: Amount(owed),
            from_bond: Amount(from_bond),
        }
    }

    pub(crate) fn hold(&mut self, row: &ModelRow) -> bool {
        if self.wrong(row).is_some() || row.until > self.now + DAY {
            return false;
        }
        // A refused hold changes nothing, not even an expired one.
        let untouched = self.clone();
        if self.channels[row.channel].held_until < self.now {
            self.release(row.channel);
        }
        let payer = row.channel % PAYERS;
        let channel = &self.channels[row.channel];
        let mut end = row.until + DAY;
        let late = self.outlasts_exit(payer, row.until);
        let prolongs = channel.held > 0 && end > channel.held_until;
        if channel.held > 0 {
            end = end.max(channel.held_until);
        }
        let uncovered = row.capacity.saturating_sub(channel.claimed + channel.held);
        let moved = uncovered.min(self.free(payer, end - DAY));
        if (late && prolongs) || moved == 0 {
            *self = untouched;
            return false;
        }
        self.payers[payer].balance -= moved;
        let channel = &mut self.channels[row.channel];
        channel.held += moved;
        channel.held_until = end;
        true
    }

    pub(crate) fn release_by_anyone(&mut self, channel: usize) -> bool {
        let lapsed = self.channels[channel].held_until < self.now;
        if lapsed {
            self.release(channel);
        }
        lapsed
    }

    fn wrong(&self, row: &ModelRow) -> Option<SkipReason> {
        let payer = &self.payers[row.channel % PAYERS];
        let current = row.operator == self.operator;
        let previous = row.operator + 1 == self.operator && row.until <= self.rotated_at + DAY;
        if self.now > row.until + DAY {
            Some(SkipReason::Expired)
        } else if row.until > payer.key_valid_to {
            Some(SkipReason::SignerExpired)
        } else if !current && !previous {
            Some(SkipReason::NotOperator)
        } else if row.forged {
            Some(SkipReason::NotPayerSigner)
        } else {
            None
        }
    }

    fn release(&mut self, channel: usize) {
        let held = std::mem::take(&mut self.channels[channel].held);
        if held > 0 {
            self.channels[channel].held_until = 0;
            self.payers[channel % PAYERS].balance += held;
        }
    }

    fn free(&self, payer: usize, until: u64) -> u128 {
        let owner = &self.payers[payer];
        let pending = match self.outlasts_exit(payer, until) {
            true => owner.pending,
            false => 0,
        };
        owner.balance.saturating_sub(pending)
    }

    fn outlasts_exit(&self, payer: usize, until: u64) -> bool {
        let payer = &self.payers[payer];
        payer.pending > 0 && until > payer.requested_at + DAY
    }
}
