//! The payer's side of a lease: checks what the provider claims, and signs no more than a slice ahead of it.

mod event;
mod measure;
mod payment;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::{
    Amount, B256, ChannelId, ChannelState, CounterSource, DealProgress, Domain, EndCause,
    Misbehaved, ProviderFault, Receipt, Signed, Slices, Terms, TermsError, Usage, Voucher,
};

pub use event::{PayerEvent, ReceiptOutcome, VoucherOrder};
use measure::OwnMeasure;

/// How the payer knows that the tunnel carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceProof {
    /// Echoes sent through the tunnel to its exit and back, about one each second: see
    /// [`PayerMeter::handle_echo`]. Only then is the loss bounded when a provider drops data.
    Echoes,
    /// Receipts alone, when the payer has no tunnel of its own: the provider is taken at its word for time.
    Receipts,
}

/// A signed voucher that was not asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signed voucher for {found} is not the one that was asked for ({expected:?})")]
pub struct NotOrdered {
    /// What was to be signed, if anything.
    pub expected: Option<Amount>,
    /// What was signed.
    pub found: Amount,
}

/// Which receipts may be answered where their roots are checked.
#[derive(Debug, Default)]
struct Accepted(Option<Signed<Receipt>>);

/// The payer's meter of one lease.
///
/// Drive it with `handle_*` as things happen and `handle_timeout` at [`poll_timeout`](Self::poll_timeout); after each,
/// take events from [`poll_event`](Self::poll_event) until there are none. `now` must never go back.
///
/// What the vouchers of the lease promise is never more than its budget, and never more than a slice above what the
/// payer itself measured (plus 1 s, and 0.5 % and what is in flight of the bytes).
#[derive(Debug)]
pub struct PayerMeter {
    terms: Terms,
    domain: Domain,
    channel_id: ChannelId,
    slices: Slices,
    proof: ServiceProof,
    started: Option<Instant>,
    measure: OwnMeasure,
    base: Amount,
    /// A voucher was signed for this deal.
    opened: bool,
    /// The highest signed voucher of the channel.
    voucher: Option<Signed<Voucher>>,
    /// The root of a receipt must be accepted before a voucher answers it; the newest receipt whose root was.
    accepted: Option<Accepted>,
    /// The receipt that it answers.
    answered: Option<Signed<Receipt>>,
    /// What is being signed, and the receipt that it will answer.
    ordered: Option<(Amount, Option<Signed<Receipt>>)>,
    /// The newest receipt, of this deal or an earlier one.
    receipt: Option<Signed<Receipt>>,
    /// The claim in it was not looked at yet, or not accepted in full.
    unanswered: bool,
    sent_at: Option<Instant>,
    receipt_at: Option<Instant>,
    disputed_since: Option<Instant>,
    ended: bool,
    events: VecDeque<PayerEvent>,
}

impl PayerMeter {
    /// A meter for `terms`, going on from what is remembered of the channel.
    ///
    /// `round_trip` is measured to the provider; it fixes the first slice, so the provider must be told the same value.
    pub fn new(
        terms: Terms,
        domain: Domain,
        state: ChannelState,
        round_trip: Duration,
        proof: ServiceProof,
    ) -> Result<Self, TermsError> {
        terms.check()?;
        let progress = state.resume(terms.deal_id);
        let slices = Slices::new(&terms, round_trip);
        Ok(Self {
            channel_id: terms.channel_id(),
            measure: OwnMeasure::new(&progress.usage, round_trip, slices.first_time()),
            slices,
            terms,
            domain,
            proof,
            started: None,
            base: progress.base,
            opened: progress.vouchers > 0,
            voucher: state.voucher,
            accepted: None,
            answered: state.answered,
            ordered: None,
            receipt: state.receipt,
            unanswered: true,
            sent_at: None,
            receipt_at: None,
            disputed_since: None,
            ended: false,
            events: VecDeque::new(),
        })
    }

    /// From now on a voucher answers a receipt only after [`handle_accepted`](Self::handle_accepted). What newer receipts
    /// claim is paid all the same: the voucher then answers the newest accepted one.
    pub fn check_roots(&mut self) {
        self.accepted.get_or_insert_default();
    }

    /// A receipt that this meter took has a root that may be signed for.
    pub fn handle_accepted(&mut self, receipt: Signed<Receipt>, now: Instant) {
        if let Some(Accepted(newest)) = &mut self.accepted {
            *newest = Some(receipt);
            self.advance(now);
        }
    }

    /// The provider is ready: orders the first voucher, or repeats the latest when the lease goes on after a restart.
    pub fn handle_ready(&mut self, now: Instant) {
        if self.started.is_some() || self.ended {
            return;
        }
        self.started = Some(now);
        self.measure.start(now);
        self.receipt_at = Some(now);
        if self.opened {
            self.repeat(now);
        } else {
            let first = self.slices.first();
            self.order(self.base.saturating_add(first), None);
        }
    }

    /// The payer's own totals for this lease: inner IP bytes sent into the tunnel (up) and received from it on flows
    /// that were opened from this side (down). Call it each second, and before each receipt.
    ///
    /// The counters start at zero with this meter; values smaller than before mean that the tunnel was made anew.
    pub fn handle_counters(&mut self, bytes_up: u64, bytes_down: u64, now: Instant) {
        if self.ended {
            return;
        }
        self.measure.counters(bytes_up, bytes_down);
        self.advance(now);
    }

    /// An echo came back through the tunnel from its exit.
    pub fn handle_echo(&mut self, now: Instant) {
        if self.ended || self.proof != ServiceProof::Echoes {
            return;
        }
        self.measure.prove(now);
        self.advance(now);
    }

    /// A receipt from the provider.
    ///
    /// `Overclaimed` comes back as an error too, but the receipt is remembered, and the measured part of it is paid.
    pub fn handle_receipt(
        &mut self,
        receipt: Signed<Receipt>,
        now: Instant,
    ) -> Result<ReceiptOutcome, Misbehaved> {
        if self.receipt.as_ref() == Some(&receipt) {
            return Ok(ReceiptOutcome::Stale);
        }
        let message = &receipt.message;
        if message.channel_id != self.channel_id {
            return Err(ProviderFault::WrongChannel {
                seq: message.seq,
                expected: self.channel_id,
                found: message.channel_id,
            }
            .into());
        }
        receipt
            .verify(&self.domain, self.terms.agent_key)
            .map_err(|cause| ProviderFault::Signature {
                seq: message.seq,
                cause,
            })?;
        Ok(self.accept(receipt, now)?)
    }

    /// A voucher that [`PayerEvent::SignVoucher`] asked for, signed.
    pub fn handle_signed(
        &mut self,
        voucher: Signed<Voucher>,
        now: Instant,
    ) -> Result<(), NotOrdered> {
        let found = voucher.message.cumulative;
        let expected = self.ordered.as_ref().map(|(amount, _)| *amount);
        if expected != Some(found) || voucher.message.channel_id != self.channel_id {
            return Err(NotOrdered { expected, found });
        }
        self.answered = self.ordered.take().and_then(|(_, answered)| answered);
        self.voucher = Some(voucher);
        self.opened = true;
        self.repeat(now);
        self.advance(now);
        Ok(())
    }

    /// Somebody ended the lease. A second end changes nothing.
    ///
    /// A voucher that is being signed may still be handed in; nothing is prepaid any more.
    pub fn handle_end(&mut self, cause: EndCause, now: Instant) {
        self.end(cause);
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<PayerEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), unless something else happens first. `None` before
    /// [`handle_ready`](Self::handle_ready) and after the end.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let started = self.started?;
        let deadline = self.deadline(started);
        Some(self.next_repeat().map_or(deadline, |at| at.min(deadline)))
    }

    /// What has to survive a restart; small. Store it before a new voucher is sent.
    pub fn state(&self) -> ChannelState {
        ChannelState {
            voucher: self.voucher.clone(),
            answered: self.answered.clone(),
            receipt: self.receipt.clone(),
            next_seq: 0,
            deal: Some(DealProgress {
                deal_id: self.terms.deal_id,
                base: self.base,
                usage: self.usage(),
                vouchers: u8::from(self.opened),
            }),
        }
    }

    /// The lease's totals as measured here: seconds proven by echoes, and own bytes, or the provider's where only
    /// those count.
    pub fn usage(&self) -> Usage {
        match self.terms.counter_source {
            CounterSource::Both => self.measure.usage(),
            CounterSource::Provider => {
                let claimed = self
                    .claim()
                    .map_or_else(Usage::default, |claim| claim.usage);
                Usage {
                    secs: self.measure.usage().secs,
                    ..claimed
                }
            }
        }
    }

    /// What this lease's vouchers promise.
    pub fn paid(&self) -> Amount {
        self.cumulative().saturating_sub(self.base)
    }

    /// Total of the channel's vouchers.
    pub fn cumulative(&self) -> Amount {
        self.voucher
            .as_ref()
            .map_or(Amount::ZERO, |voucher| voucher.message.cumulative)
    }

    /// Whether the lease is over.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Root of the provider's connection record in the latest receipt; zero while there is none.
    pub fn connections_root(&self) -> B256 {
        self.claim()
            .map_or(B256::ZERO, |claim| claim.connections_root)
    }
}
