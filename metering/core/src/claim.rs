//! When a provider should turn vouchers into credits: what it may lose by waiting, against the gas that waiting saves.

use crate::{Amount, UnixSeconds};

/// Claims are made at the latest this long, in seconds, before their window closes: half of the window.
pub const CLAIM_LEAD: u64 = 12 * 3_600;

/// When to claim, apart from the deadline, which always counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRules {
    /// One payer owes this much.
    pub above: Amount,
    /// One payer owes this many percent of what could pay it: its balance and the operator's bond.
    pub percent_of_backing: u32,
    /// Claims worth less are not worth their gas, whatever the other rules say.
    pub at_least: Amount,
}

impl Default for ClaimRules {
    /// By half of the backing, and of anything.
    fn default() -> Self {
        Self {
            above: Amount::MAX,
            percent_of_backing: 50,
            at_least: Amount(1),
        }
    }
}

/// What one channel could claim now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimable {
    /// Covered by a reservation and not yet paid.
    pub amount: Amount,
    /// When that reservation can no longer be claimed on: a day after its end.
    pub lapses_at: UnixSeconds,
}

/// What a payer's channels are paid from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// The payer's deposit, less what it has asked to withdraw.
    pub balance: Amount,
    /// The operator's bond.
    pub bond: Amount,
}

/// Why to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimCause {
    /// Half of the window of a reservation has passed. It has to be, whatever gas costs.
    Deadline,
    /// The payer owes as much as is to be owed.
    Value,
    /// The payer owes so much of its backing that there may soon be nothing left to claim.
    Share,
}

impl ClaimRules {
    /// Whether one payer's channels should be claimed on at `now`, the chain's time; the most pressing cause.
    pub fn cause(
        &self,
        channels: &[Claimable],
        backing: Backing,
        now: UnixSeconds,
    ) -> Option<ClaimCause> {
        let backing = backing.balance.saturating_add(backing.bond);
        if backing == Amount::ZERO {
            // A claim would cost gas and pay nothing.
            return None;
        }
        let worth = || {
            let at_least = self.at_least.max(Amount(1));
            channels.iter().filter(move |c| c.amount >= at_least)
        };
        if worth().any(|c| now < c.lapses_at && c.lapses_at.since(now) < CLAIM_LEAD) {
            return Some(ClaimCause::Deadline);
        }
        let owed: Amount = worth().map(|c| c.amount).sum();
        if owed == Amount::ZERO {
            return None;
        }
        if owed >= self.above {
            return Some(ClaimCause::Value);
        }
        // Divided rather than multiplied: no amount overflows.
        let share = (backing.0 / 100).saturating_mul(self.percent_of_backing.into());
        (owed.0 >= share).then_some(ClaimCause::Share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn claimable(amount: u128, lapses_in: u64) -> Claimable {
        Claimable {
            amount: Amount(amount),
            lapses_at: NOW.after(lapses_in),
        }
    }

    fn rules() -> ClaimRules {
        ClaimRules {
            above: Amount(1_000),
            percent_of_backing: 50,
            at_least: Amount(10),
        }
    }

    fn backing(balance: u128, bond: u128) -> Backing {
        Backing {
            balance: Amount(balance),
            bond: Amount(bond),
        }
    }

    #[test]
    fn each_rule_has_its_edge() {
        let rich = backing(100_000, 100_000);
        let cause = |channels: &[Claimable], backing| rules().cause(channels, backing, NOW);
        assert_eq!(cause(&[], rich), None);
        assert_eq!(cause(&[claimable(500, 40_000 + CLAIM_LEAD)], rich), None);
        let late = CLAIM_LEAD - 1;
        assert_eq!(
            cause(&[claimable(10, late)], rich),
            Some(ClaimCause::Deadline)
        );
        assert_eq!(cause(&[claimable(10, CLAIM_LEAD)], rich), None);
        // Too small for its gas, and too late for anything.
        assert_eq!(cause(&[claimable(9, late)], rich), None);
        assert_eq!(cause(&[claimable(10, 0)], rich), None);
        let two = [claimable(500, 90_000), claimable(500, 90_000)];
        assert_eq!(cause(&two, rich), Some(ClaimCause::Value));
        assert_eq!(cause(&two[..1], backing(800, 200)), Some(ClaimCause::Share));
        assert_eq!(cause(&two[..1], backing(900, 200)), None);
        assert_eq!(cause(&two[..1], backing(0, 1)), Some(ClaimCause::Share));
        assert_eq!(cause(&[claimable(500, late)], backing(0, 0)), None);
    }

    proptest! {
        /// Owing more, or having less behind it, never makes a claim less pressing.
        #[test]
        fn more_owed_never_waits_longer(
            amounts in prop::collection::vec((0u128..2_000, 0u64..200_000), 0..6),
            more in (0u128..2_000, 0u64..200_000),
            balance in 0u128..5_000, bond in 0u128..5_000, less in 0u128..5_000,
        ) {
            let mut channels: Vec<_> = amounts.iter().map(|(a, t)| claimable(*a, *t)).collect();
            let before = rules().cause(&channels, backing(balance, bond), NOW);
            let poorer = backing(balance.saturating_sub(less).max(1), bond);
            if before.is_some() {
                prop_assert!(rules().cause(&channels, poorer, NOW).is_some());
            }
            channels.push(claimable(more.0, more.1));
            if before.is_some() {
                prop_assert!(rules().cause(&channels, backing(balance, bond), NOW).is_some());
            }
        }
    }
}
