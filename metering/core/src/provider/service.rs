//! What the provider's meter decides each time that something happens.

use std::time::{Duration, Instant};

use super::{
    Cover, HOLD_SHARE, HoldCause, LastReceipt, PATIENCE, Phase, ProviderEvent, ProviderMeter,
    ServiceGate, VoucherOutcome,
};
use crate::{CheckedSignature, EndCause, PayerFault, Receipt, Signed, UnixSeconds, Voucher};

/// Time forgiven after silences, so that the payer's clock never falls behind, may reach the time served divided by
/// this.
const FORGIVEN_SHARE: u32 = 20;
/// Receipts follow heavy traffic sooner than each second, but not sooner than this.
const RECEIPT_GAP: Duration = Duration::from_millis(100);
/// Receipts are repeated this often while on hold.
const RECEIPT_REPEAT: Duration = Duration::from_secs(1);
/// Receipt numbers that may be used before the state has to be stored again.
const SEQ_LEAD: u64 = 4096;
/// The state is stored again after this much service without a new voucher.
const STORE_EVERY_SECS: u64 = 30;
/// How fast a payer that is behind may go, in bytes per second.
const THROTTLED: u64 = 64 * 1024;
/// A renewal is asked for this many seconds before the reservation is used up, at the latest.
const RENEW_LEAD: u64 = 10;
/// A renewal that has not come is asked for again.
const RENEW_RETRY: Duration = Duration::from_secs(5);

impl ProviderMeter {
    /// Takes a voucher whose channel and signature were checked.
    pub(crate) fn accept(
        &mut self,
        voucher: Signed<Voucher>,
        checked: Option<CheckedSignature>,
        now: Instant,
    ) -> Result<VoucherOutcome, PayerFault> {
        let cumulative = voucher.message.cumulative;
        let known = self.accepted_amount();
        if cumulative <= known {
            // An old voucher may be a replay by anyone; the latest is what a live payer repeats.
            if cumulative == known && known > self.base {
                self.hear(now);
            }
            return Ok(VoucherOutcome::Stale);
        }
        let most = self.most();
        if cumulative > most {
            return Err(PayerFault::OverBudget { cumulative, most });
        }
        if known <= self.base {
            // The opening voucher pays exactly a first slice on top of what the payer had paid before; if that is more
            // than what arrived here, the last voucher of an earlier lease was lost.
            self.base = self
                .base
                .max(cumulative.saturating_sub(self.slices.first()));
        }
        self.accepted = Some(voucher);
        self.checked = checked;
        self.count_funds();
        self.request_store();
        self.hear(now);
        Ok(VoucherOutcome::Higher)
    }

    /// Takes the money of a voucher that says of no receipt that it is true.
    pub(super) fn keep(&mut self, voucher: Signed<Voucher>) {
        if voucher.message.cumulative > self.kept {
            self.kept = voucher.message.cumulative;
            self.events.push_back(ProviderEvent::KeepVoucher(voucher));
        }
    }

    /// Looks at the clock and decides anew.
    pub(super) fn advance(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle | Phase::Ended => return,
            Phase::Waiting { since } => self.wait(since, now),
            Phase::Serving => self.serve(now),
            Phase::Held { cause, since } => self.stay_held(cause, since, now),
        }
        self.check_cover(now);
        self.update_gate();
    }

    /// Ends the lease, unless it has ended.
    pub(super) fn end(&mut self, cause: EndCause, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        self.stop_clock(now);
        let began = self.last_receipt.is_some();
        self.phase = Phase::Ended;
        self.set_gate(ServiceGate::Closed);
        if began {
            self.sign_receipt(now);
        }
        self.events.push_back(ProviderEvent::Ended {
            cause,
            usage: self.usage(),
            amount: self.due,
            paid: self.funds.paid,
        });
    }

    /// Asks for the state to be stored, if there is a voucher to store with it.
    pub(super) fn request_store(&mut self) {
        if let Some(voucher) = &self.accepted {
            self.numbers.promised = self.numbers.next.saturating_add(SEQ_LEAD);
            self.stored_secs = self.secs;
            self.events
                .push_back(ProviderEvent::StoreVoucher(voucher.clone()));
        }
    }

    /// After how long without voucher, echo or traffic the peer is silent.
    pub(super) fn silence(&self) -> Duration {
        self.slices.first_time()
    }

    /// How long the hold that is on may last.
    pub(super) fn patience(&self) -> Duration {
        let all = PATIENCE + Duration::from_secs(self.secs) / HOLD_SHARE;
        PATIENCE.min(all.saturating_sub(self.away))
    }

    pub(super) fn next_repeat(&self) -> Option<Instant> {
        self.last_receipt.map(|last| last.at + RECEIPT_REPEAT)
    }

    /// The peer lives: service that waited for it may go on.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard_at = Some(now);
        match self.phase {
            Phase::Held { .. } => self.advance(now),
            // A payer that goes on after the end has missed the last receipt.
            Phase::Ended if self.next_repeat().is_some_and(|at| at <= now) => {
                self.sign_receipt(now);
            }
            _ => {}
        }
    }

    fn wait(&mut self, since: Instant, now: Instant) {
        if self.stored > self.base && self.cover.is_some() {
            self.last_receipt = Some(LastReceipt {
                secs: self.secs,
                due: self.due,
                at: now,
            });
            if self.has_room() {
                self.phase = Phase::Serving;
                self.heard_at = Some(now);
                self.clock.run(now);
            } else {
                self.hold(HoldCause::Unpaid, now);
            }
        } else if now >= since + PATIENCE {
            self.end(EndCause::NotPaid, now);
        }
    }

    fn serve(&mut self, now: Instant) {
        let silent_at = self.heard_at.map(|at| at + self.silence());
        let lapse_at = self.stop_at();
        let spent_at = self.spent_at(now);
        // A late caller must not turn time after the first of these into service.
        let first = [silent_at, spent_at, lapse_at]
            .into_iter()
            .flatten()
            .filter(|at| *at <= now)
            .min();
        if first.is_none() {
            self.secs = self.clock.elapsed(now).as_secs();
            self.count_due();
            if self.has_room() {
                self.report(now);
            } else {
                self.stop_clock(now);
                self.end_or_hold(now);
            }
        } else if first == spent_at {
            self.stop_clock(first.unwrap_or(now));
            self.end_or_hold(now);
        } else if first == silent_at {
            self.stop_clock(self.heard_at.unwrap_or(now));
            self.hold(HoldCause::PeerSilent, now);
        } else {
            self.stop_clock(first.unwrap_or(now));
            self.end(EndCause::Uncovered, now);
        }
    }

    /// When time or money ran out, if that is so by `now`.
    fn spent_at(&self, now: Instant) -> Option<Instant> {
        let whole = self.clock.elapsed(now).as_secs();
        if whole == self.secs {
            return None;
        }
        let affordable = self.affordable_secs().max(self.secs);
        let last = affordable.min(self.terms.max_seconds);
        if whole < last {
            return None;
        }
        self.clock.instant_of(Duration::from_secs(last))
    }

    /// Service cannot go on: the lease is over, or the payer has to pay first.
    fn end_or_hold(&mut self, now: Instant) {
        if self.secs >= self.terms.max_seconds {
            self.end(EndCause::TimeUp, now);
        } else if self.funds.limit >= self.terms.budget {
            self.end(EndCause::BudgetSpent, now);
        } else {
            self.hold(HoldCause::Unpaid, now);
        }
    }

    /// Receipts, and storing, as service goes on.
    fn report(&mut self, now: Instant) {
        if let Some(last) = self.last_receipt {
            let due = self.due;
            let heavy = due.saturating_sub(last.due).0 >= self.funds.slice.0 / 4
                && due > last.due
                && now >= last.at + RECEIPT_GAP;
            if self.secs > last.secs || heavy {
                self.sign_receipt(now);
            }
        }
        if self.secs >= self.stored_secs.saturating_add(STORE_EVERY_SECS) {
            self.request_store();
        }
    }

    fn hold(&mut self, cause: HoldCause, now: Instant) {
        let unpaid = self.unpaid();
        if cause == HoldCause::Unpaid && !matches!(self.gate, ServiceGate::Throttled { .. }) {
            let credit = self.funds.credit;
            self.events
                .push_back(ProviderEvent::Warned { unpaid, credit });
        }
        self.phase = Phase::Held { cause, since: now };
        self.set_gate(ServiceGate::Closed);
        self.sign_receipt(now);
        self.events.push_back(ProviderEvent::Held {
            cause,
            usage: self.usage(),
            unpaid,
        });
    }

    fn stay_held(&mut self, cause: HoldCause, since: Instant, now: Instant) {
        // Unpaid credit is due before service goes on; a peer that was only silent keeps its credit.
        let ready = match cause {
            HoldCause::Unpaid => self.funds.paid >= self.due,
            HoldCause::PeerSilent => self.heard_at.is_some_and(|at| at > since),
        };
        let room = self.has_room();
        if ready && room {
            self.resume(cause, since, now);
        } else if ready && cause == HoldCause::PeerSilent {
            self.away += now.saturating_duration_since(since);
            self.hold(HoldCause::Unpaid, now);
        } else if now >= since + self.patience() {
            let cause = match cause {
                HoldCause::Unpaid => EndCause::Unpaid,
                HoldCause::PeerSilent => EndCause::PeerSilent,
            };
            self.end(cause, now);
        } else if self.next_repeat().is_some_and(|at| at <= now) {
            self.sign_receipt(now);
        }
    }

    fn resume(&mut self, cause: HoldCause, since: Instant, now: Instant) {
        self.away += now.saturating_duration_since(since);
        if cause == HoldCause::PeerSilent {
            // The payer leaves out the time between its last and its next echo, which is longer than the silence that
            // was noticed here; without this its count would fall behind with every outage.
            let most = Duration::from_secs(self.secs) / FORGIVEN_SHARE;
            let time = (self.slices.first_time() + Duration::from_secs(1))
                .min(most.saturating_sub(self.forgiven));
            self.forgiven += time;
            self.clock.forgive(time);
        }
        self.phase = Phase::Serving;
        self.heard_at = Some(now);
        self.clock.run(now);
        self.secs = self.clock.elapsed(now).as_secs();
        self.count_due();
        self.events.push_back(ProviderEvent::Resumed);
        self.sign_receipt(now);
    }

    /// Asks for a renewal in time; ends the lease when the next slice is not covered.
    fn check_cover(&mut self, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        let Some(Cover {
            capacity, renew_at, ..
        }) = self.cover
        else {
            return;
        };
        if self.voucher_after_next() > capacity || self.stop_at().is_some_and(|at| at <= now) {
            self.end(EndCause::Uncovered, now);
            return;
        }
        let accepted = self.accepted_amount();
        let wanted = self.capacity_wanted();
        let ahead = wanted.saturating_sub(accepted);
        let room = capacity.saturating_sub(accepted);
        let soon = self
            .voucher_after_next()
            .saturating_add(self.slices.for_seconds(RENEW_LEAD))
            .min(self.most());
        let low = room.0 < ahead.0 / 2 || soon > capacity || now >= renew_at;
        let waited = self.renewal_asked.is_none_or(|at| now >= at + RENEW_RETRY);
        if low && waited {
            self.renewal_asked = Some(now);
            self.events
                .push_back(ProviderEvent::RenewReservation { capacity: wanted });
        }
    }

    fn update_gate(&mut self) {
        if self.phase != Phase::Serving {
            self.set_gate(ServiceGate::Closed);
            return;
        }
        let byte_limit = self.affordable_bytes();
        let credit = self.funds.credit;
        let unpaid = self.unpaid();
        if unpaid.0 <= credit.0 / 2 {
            self.set_gate(ServiceGate::Open { byte_limit });
            return;
        }
        if !matches!(self.gate, ServiceGate::Throttled { .. }) {
            self.events
                .push_back(ProviderEvent::Warned { unpaid, credit });
        }
        self.set_gate(ServiceGate::Throttled {
            byte_limit,
            bytes_per_second: THROTTLED,
        });
    }

    fn set_gate(&mut self, gate: ServiceGate) {
        if self.gate != gate {
            self.gate = gate;
            self.events.push_back(ProviderEvent::Gate(gate));
        }
    }

    fn stop_clock(&mut self, at: Instant) {
        self.clock.stop(at);
        self.secs = self.clock.elapsed(at).as_secs();
        self.count_due();
    }

    fn sign_receipt(&mut self, now: Instant) {
        let due = self.due;
        self.last_receipt = Some(LastReceipt {
            secs: self.secs,
            due,
            at: now,
        });
        if self.numbers.next >= self.numbers.limit {
            return;
        }
        let seq = self.numbers.next;
        self.numbers.next += 1;
        let receipt = Receipt {
            channel_id: self.channel_id,
            deal_id: self.terms.deal_id,
            seq,
            usage: self.usage(),
            deal_amount: due,
            cumulative: self.base.saturating_add(due),
            observed_at: self.observed_at(now),
            connections_root: self.connections_root,
        };
        self.answerable.sent(receipt.clone());
        self.events.push_back(ProviderEvent::SignReceipt(receipt));
    }

    fn observed_at(&self, now: Instant) -> UnixSeconds {
        self.wall.map_or(UnixSeconds(0), |(wall, at)| {
            wall.after(now.saturating_duration_since(at).as_secs())
        })
    }
}
