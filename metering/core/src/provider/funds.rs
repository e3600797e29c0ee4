//! What the provider's meter may serve for the money it has.

use std::time::{Duration, Instant};

use super::ProviderMeter;
use crate::slice::scale;
use crate::terms::PACKET;
use crate::{Amount, Usage};

/// What changes only when a voucher, its storing or a reservation does; everything else follows from it and the usage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Funds {
    /// What this lease's stored vouchers pay, as far as the reservation covers it.
    pub(super) paid: Amount,
    /// What may be due beyond it.
    pub(super) credit: Amount,
    /// The most that may be due.
    pub(super) limit: Amount,
    /// The slice after what is paid.
    pub(super) slice: Amount,
    /// How long before a reservation lapses service stops: two slices.
    pub(super) stop_reserve: Duration,
}

impl ProviderMeter {
    /// Adds up anew what there is to serve for.
    pub(super) fn count_funds(&mut self) {
        let capacity = self.cover.map_or(Amount::ZERO, |cover| cover.capacity);
        let paid = self.stored.min(capacity).saturating_sub(self.base);
        let slice = self.slices.next(paid);
        let credit = if self.vouchers < 2 {
            Amount::ZERO
        } else {
            slice
        };
        self.funds = Funds {
            paid,
            credit,
            limit: paid.saturating_add(credit).min(self.terms.budget),
            slice,
            stop_reserve: self.slices.next_time(paid) * 2,
        };
    }

    /// Adds up anew what the totals cost.
    pub(super) fn count_due(&mut self) {
        self.due = self.terms.due(&self.usage());
    }

    /// Total of the highest voucher that was accepted, stored or not.
    pub(super) fn accepted_amount(&self) -> Amount {
        self.accepted
            .as_ref()
            .map_or(Amount::ZERO, |voucher| voucher.message.cumulative)
    }

    /// Due and not paid.
    pub(super) fn unpaid(&self) -> Amount {
        self.due.saturating_sub(self.funds.paid)
    }

    /// What the next voucher may need beyond the latest.
    pub(super) fn next_slice(&self) -> Amount {
        let paid = self.accepted_amount().saturating_sub(self.base);
        let rest = self.terms.budget.saturating_sub(paid);
        self.slices.next(paid).min(rest)
    }

    /// Where the next slice takes the channel's voucher, as far as service needs it: one that is paid further ahead
    /// than a slice is no reason to stop.
    pub(super) fn voucher_after_next(&self) -> Amount {
        let slice = self.funds.slice;
        let needed = self.base.saturating_add(self.due).saturating_add(slice);
        let latest = self.accepted_amount().min(needed);
        latest.saturating_add(slice).min(self.most())
    }

    /// The highest voucher that the deal allows.
    pub(super) fn most(&self) -> Amount {
        self.base.saturating_add(self.terms.budget)
    }

    /// When service has to stop because the reservation lapses.
    pub(super) fn stop_at(&self) -> Option<Instant> {
        let cover = self.cover.as_ref()?;
        Some(cover.stop_at(self.funds.stop_reserve))
    }

    /// Whether service can go on within the limit: for another second, and another packet.
    ///
    /// Traffic that waits for the next voucher is no reason to stop the clock, unless it is all that is sold or no
    /// voucher can help any more.
    pub(super) fn has_room(&self) -> bool {
        let limit = self.funds.limit;
        let per_second = self.terms.prices.per_second.0;
        let second = self.due.saturating_add(per_second);
        if second > limit {
            return false;
        }
        if per_second > Amount::ZERO && limit < self.terms.budget {
            return true;
        }
        let usage = self.usage();
        let next = Usage {
            secs: self.next_second(),
            bytes_up: usage.bytes_up.saturating_add(PACKET),
            ..usage
        };
        self.terms.due(&next) <= limit
    }

    /// Whole seconds that the limit pays for beside the traffic so far.
    pub(super) fn affordable_secs(&self) -> u64 {
        let traffic = self.terms.due(&Usage {
            secs: 0,
            ..self.usage()
        });
        let per_second = self.terms.prices.per_second.0.0;
        match self.funds.limit.checked_sub(traffic) {
            None => 0,
            Some(_) if per_second == 0 => u64::MAX,
            Some(rest) => u64::try_from(rest.0 / per_second).unwrap_or(u64::MAX),
        }
    }

    /// Total bytes that the limit pays for beside the seconds so far and the one that runs.
    pub(super) fn affordable_bytes(&self) -> u64 {
        let per_gib = self.terms.prices.per_gib.0.0;
        if per_gib == 0 {
            return u64::MAX;
        }
        let per_second = self.terms.prices.per_second.0.0;
        let time = Amount(per_second.saturating_mul(self.next_second().into()));
        let rest = self.funds.limit.saturating_sub(time);
        u64::try_from(scale(rest.0, 1 << 30, per_gib)).unwrap_or(u64::MAX)
    }

    /// The seconds once the one that runs is over.
    fn next_second(&self) -> u64 {
        self.secs.saturating_add(1).min(self.terms.max_seconds)
    }
}
