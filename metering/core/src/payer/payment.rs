//! What the payer's meter decides each time that something happens.

use std::time::{Duration, Instant};

use super::{Accepted, PayerEvent, PayerMeter, ReceiptOutcome, ServiceProof, VoucherOrder};
use crate::provider::HOLD_SHARE;
use crate::{Amount, CounterSource, EndCause, PATIENCE, ProviderFault, Receipt, Signed, Usage};

/// The latest voucher is repeated this often.
const REPEAT: Duration = Duration::from_secs(1);
/// A dispute ends the lease after a slice, but not sooner than this.
const SHORTEST_DISPUTE: Duration = Duration::from_secs(5);

/// What the payer accepts of the provider's latest claim.
#[derive(Clone, Copy)]
struct Payable {
    claimed: Amount,
    own: Usage,
    amount: Amount,
}

impl PayerMeter {
    /// Takes a receipt whose channel and signature were checked.
    pub(crate) fn accept(
        &mut self,
        receipt: Signed<Receipt>,
        now: Instant,
    ) -> Result<ReceiptOutcome, ProviderFault> {
        let message = &receipt.message;
        if let Some(latest) = &self.receipt {
            let latest = &latest.message;
            if message.seq < latest.seq {
                return Ok(ReceiptOutcome::Stale);
            }
            if message.seq == latest.seq {
                return if message == latest {
                    Ok(ReceiptOutcome::Stale)
                } else {
                    Err(ProviderFault::RepeatedSeq { seq: message.seq })
                };
            }
        }
        self.check_sums(message)?;
        self.receipt = Some(receipt);
        self.unanswered = true;
        self.receipt_at = Some(now);
        if self.proof == ServiceProof::Receipts && !self.ended {
            self.measure.prove(now);
        }
        self.examine(now)?;
        Ok(ReceiptOutcome::Newer)
    }

    pub(super) fn claim(&self) -> Option<&Receipt> {
        let message = &self.receipt.as_ref()?.message;
        (message.deal_id == self.terms.deal_id).then_some(message)
    }

    /// Sends the latest voucher, again or for the first time.
    pub(super) fn repeat(&mut self, now: Instant) {
        if let Some(voucher) = &self.voucher {
            self.sent_at = Some(now);
            self.events
                .push_back(PayerEvent::SendVoucher(voucher.clone()));
        }
    }

    pub(super) fn next_repeat(&self) -> Option<Instant> {
        self.sent_at.map(|at| at + REPEAT)
    }

    pub(super) fn order(&mut self, cumulative: Amount, answers: Option<Signed<Receipt>>) {
        self.events.push_back(PayerEvent::SignVoucher(VoucherOrder {
            channel_id: self.channel_id,
            cumulative,
            answers: answers.as_ref().map(|receipt| receipt.message.clone()),
        }));
        self.ordered = Some((cumulative, answers));
    }

    /// Looks at the clock and the claim, and decides anew.
    pub(super) fn advance(&mut self, now: Instant) {
        // A claim that is too high was reported when it came, and as an event.
        let _ = self.examine(now);
    }

    /// As [`advance`](Self::advance); an error if the provider's latest claim is too high.
    fn examine(&mut self, now: Instant) -> Result<(), ProviderFault> {
        let mut verdict = Ok(());
        if self.unanswered
            && let Some(payable) = self.payable()
        {
            self.pay(&payable);
            verdict = self.judge(&payable, now);
        }
        let Some(started) = self.started.filter(|_| !self.ended) else {
            return verdict;
        };
        if let Some(cause) = self.end_cause(started, now) {
            self.end(cause);
        } else if self.next_repeat().is_some_and(|at| at <= now) {
            self.repeat(now);
        }
        verdict
    }

    /// Ends the lease, unless it has ended.
    pub(super) fn end(&mut self, cause: EndCause) {
        if self.ended {
            return;
        }
        self.ended = true;
        let amount = self
            .payable()
            .map_or(Amount::ZERO, |payable| payable.amount);
        self.events.push_back(PayerEvent::Ended {
            cause,
            usage: self.usage(),
            amount,
            paid: self.paid(),
        });
    }

    /// Orders a higher voucher if the provider's claim calls for one; at most once for a claim that is accepted in full.
    fn pay(&mut self, payable: &Payable) {
        if self.ordered.is_some() || !self.opened {
            return;
        }
        let answers = match &self.accepted {
            Some(Accepted(None)) => return,
            Some(Accepted(newest)) => newest.clone(),
            None => self.receipt.clone().filter(|_| self.claim().is_some()),
        };
        let target = payable.amount.saturating_add(self.ahead(payable));
        let cumulative = self.base.saturating_add(target.min(self.terms.budget));
        self.unanswered = payable.amount < payable.claimed;
        if cumulative > self.cumulative() {
            self.order(cumulative, answers);
        }
    }

    /// When the lease ends if nothing comes from the provider.
    pub(super) fn deadline(&self, started: Instant) -> Instant {
        let silent = self.receipt_at.unwrap_or(started) + PATIENCE;
        let unproven = self.measure.proven_at().unwrap_or(started) + PATIENCE;
        silent.min(unproven).min(self.latest_end(started))
    }

    /// A provider may hold service that often and that long, and no longer; then the lease is over here too.
    fn latest_end(&self, started: Instant) -> Instant {
        let lease = Duration::from_secs(self.terms.max_seconds);
        let most = lease
            .saturating_add(lease / HOLD_SHARE * 2)
            .saturating_add(PATIENCE * 2);
        started
            .checked_add(most)
            .unwrap_or(started + Duration::from_secs(u64::from(u32::MAX)))
    }

    fn end_cause(&self, started: Instant, now: Instant) -> Option<EndCause> {
        let (claimed, claimed_amount) = self.claim().map_or_else(Default::default, |claim| {
            (claim.usage.secs, claim.deal_amount)
        });
        let disputed = self.disputed_since.is_some_and(|since| {
            now >= since + self.slices.next_time(self.paid()).max(SHORTEST_DISPUTE)
        });
        if claimed >= self.terms.max_seconds && self.disputed_since.is_none() {
            Some(EndCause::TimeUp)
        } else if claimed_amount >= self.terms.budget && self.disputed_since.is_none() {
            Some(EndCause::BudgetSpent)
        } else if disputed {
            Some(EndCause::Disputed)
        } else if self.receipt_at.is_some_and(|at| now >= at + PATIENCE) {
            Some(EndCause::PeerSilent)
        } else if self
            .measure
            .proven_at()
            .is_some_and(|at| now >= at + PATIENCE)
        {
            Some(EndCause::NoService)
        } else if now >= self.latest_end(started) {
            Some(EndCause::TimeUp)
        } else {
            None
        }
    }

    /// The receipt's deal and sums, by the receipt's own numbers.
    fn check_sums(&self, receipt: &Receipt) -> Result<(), ProviderFault> {
        let seq = receipt.seq;
        if receipt.deal_id != self.terms.deal_id {
            return Err(ProviderFault::WrongDeal {
                seq,
                expected: self.terms.deal_id,
                found: receipt.deal_id,
            });
        }
        let expected = self.terms.due(&receipt.usage);
        if receipt.deal_amount != expected {
            return Err(ProviderFault::WrongAmount {
                seq,
                usage: receipt.usage,
                expected,
                found: receipt.deal_amount,
            });
        }
        // Less is the provider's loss: it may have missed the last voucher of an earlier lease.
        let expected = self.base.saturating_add(receipt.deal_amount);
        if receipt.cumulative > expected {
            return Err(ProviderFault::WrongCumulative {
                seq,
                expected,
                found: receipt.cumulative,
            });
        }
        Ok(())
    }

    /// The latest claim, cut down to what was measured here with its tolerance.
    fn payable(&self) -> Option<Payable> {
        let claim = self.claim()?;
        let mut own = claim.usage;
        own.secs = own
            .secs
            .min(self.measure.most_secs())
            .min(self.terms.max_seconds);
        if self.terms.counter_source == CounterSource::Both {
            let most = self.measure.most_bytes();
            own.bytes_up = own.bytes_up.min(most);
            own.bytes_down = own.bytes_down.min(most - own.bytes_up);
        }
        Some(Payable {
            claimed: claim.deal_amount,
            own,
            amount: self.terms.due(&own),
        })
    }

    /// How much is paid beyond what was used: a slice, and no more than the rest of the lease can cost.
    fn ahead(&self, payable: &Payable) -> Amount {
        if self.ended {
            return Amount::ZERO;
        }
        let rest = self.terms.max_seconds.saturating_sub(payable.own.secs);
        self.slices
            .next(self.paid())
            .min(self.slices.for_seconds(rest))
    }

    /// Notices a dispute, and its end.
    fn judge(&mut self, payable: &Payable, now: Instant) -> Result<(), ProviderFault> {
        let ahead = self.slices.next(self.paid());
        if payable.claimed <= payable.amount.saturating_add(ahead) {
            if self.disputed_since.take().is_some() && !self.ended {
                self.events.push_back(PayerEvent::Settled);
            }
            return Ok(());
        }
        let (seq, usage) = self
            .claim()
            .map_or_else(Default::default, |claim| (claim.seq, claim.usage));
        let fault = ProviderFault::Overclaimed {
            seq,
            usage,
            own: payable.own,
            claimed: payable.claimed,
            payable: payable.amount,
            ahead,
        };
        if self.disputed_since.is_none() && !self.ended {
            self.disputed_since = Some(now);
            self.events.push_back(PayerEvent::Disputed(fault.clone()));
        }
        Err(fault)
    }
}
