//! The provider's side of a lease: opens the gate while it is paid, and closes it when it is not.

mod answers;
mod cover;
mod event;
mod funds;
mod service;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::{ServiceClock, Traffic};
use crate::{
    Amount, B256, ChannelId, ChannelState, CheckedSignature, DealProgress, Domain, EndCause,
    KnownSigner, Misbehaved, PayerFault, Receipt, Reservation, Signed, Slices, Terms, TermsError,
    UnixSeconds, Usage, Voucher,
};

use answers::Answerable;
use cover::Cover;
pub use cover::{ChainView, RESERVATION_LIFETIME};
pub use event::{HoldCause, ProviderEvent, ServiceGate, VoucherOutcome};
use funds::Funds;

/// How long a provider waits for the first voucher, and how long a hold may last before the lease ends.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// All holds together may take [`PATIENCE`] and the time served divided by this.
pub(crate) const HOLD_SHARE: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Waiting { since: Instant },
    Serving,
    Held { cause: HoldCause, since: Instant },
    Ended,
}

/// The provider's meter of one lease.
///
/// Drive it with `handle_*` as things happen and `handle_timeout` at [`poll_timeout`](Self::poll_timeout); after each,
/// take events from [`poll_event`](Self::poll_event) until there are none. `now` must never go back.
///
/// Due and unpaid never exceeds the credit: a second that would is not begun, and the gate's byte limit keeps traffic
/// within it, if the packet path obeys.
#[derive(Debug)]
pub struct ProviderMeter {
    terms: Terms,
    domain: Domain,
    channel_id: ChannelId,
    slices: Slices,
    phase: Phase,
    clock: ServiceClock,
    /// Whole seconds of service at the last look at the clock.
    secs: u64,
    traffic: Traffic,
    base: Amount,
    vouchers: u8,
    /// The session key that signs the vouchers.
    signer: KnownSigner,
    /// Highest voucher that was accepted; `stored` may lag behind it.
    accepted: Option<Signed<Voucher>>,
    /// Of the accepted voucher's signature, if this meter checked it.
    checked: Option<CheckedSignature>,
    answerable: Answerable,
    /// The receipt that the accepted voucher answers.
    answered: Option<Signed<Receipt>>,
    /// Highest voucher that was only kept.
    kept: Amount,
    stored: Amount,
    funds: Funds,
    /// What the totals so far cost.
    due: Amount,
    cover: Option<Cover>,
    renewal_asked: Option<Instant>,
    gate: ServiceGate,
    /// When the peer last sent a voucher, an echo or traffic.
    heard_at: Option<Instant>,
    away: Duration,
    forgiven: Duration,
    wall: Option<(UnixSeconds, Instant)>,
    numbers: SeqNumbers,
    stored_secs: u64,
    last_receipt: Option<LastReceipt>,
    connections_root: B256,
    events: VecDeque<ProviderEvent>,
}

/// Receipt numbers: none is used twice, even if the process dies at any instant.
#[derive(Clone, Copy, Debug)]
struct SeqNumbers {
    next: u64,
    /// What the state to be stored says: numbers below may be used once it is stored.
    promised: u64,
    /// Numbers below may be used now.
    limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct LastReceipt {
    secs: u64,
    due: Amount,
    at: Instant,
}

impl ProviderMeter {
    /// A meter for `terms`, going on from what is remembered of the channel.
    ///
    /// `round_trip` is what the payer measured and told the provider; it fixes the first slice, so both sides' meters
    /// must be given the same value.
    pub fn new(
        terms: Terms,
        domain: Domain,
        state: ChannelState,
        round_trip: Duration,
    ) -> Result<Self, TermsError> {
        terms.check()?;
        let progress = state.resume(terms.deal_id);
        let stored = state.cumulative();
        let mut meter = Self {
            channel_id: terms.channel_id(),
            slices: Slices::new(&terms, round_trip),
            domain,
            phase: Phase::Idle,
            clock: ServiceClock::at(progress.usage.secs),
            secs: progress.usage.secs,
            traffic: Traffic::from(&progress.usage),
            base: progress.base,
            vouchers: progress.vouchers,
            signer: KnownSigner::new(terms.channel.payer_signer),
            accepted: state.voucher,
            answered: state.answered,
            checked: None,
            answerable: Answerable::default(),
            kept: Amount::ZERO,
            stored,
            funds: Funds::default(),
            due: Amount::ZERO,
            cover: None,
            renewal_asked: None,
            gate: ServiceGate::Closed,
            heard_at: None,
            away: Duration::ZERO,
            forgiven: Duration::ZERO,
            wall: None,
            numbers: SeqNumbers {
                next: state.next_seq,
                promised: state.next_seq,
                limit: state.next_seq,
            },
            stored_secs: progress.usage.secs,
            last_receipt: None,
            connections_root: B256::ZERO,
            events: VecDeque::new(),
            terms,
        };
        meter.count_funds();
        meter.count_due();
        Ok(meter)
    }

    /// The tunnel's peer is ready. `wall` is the wall-clock time at `now`, for `observedAt` in receipts.
    pub fn handle_ready(&mut self, wall: UnixSeconds, now: Instant) {
        if self.phase != Phase::Idle {
            return;
        }
        self.wall = Some((wall, now));
        self.phase = Phase::Waiting { since: now };
        self.request_store();
        self.advance(now);
    }

    /// The tunnel's totals for this lease: inner IP bytes that the exit sent (up) and that went to the peer (down).
    ///
    /// Call it each second at least, and ten times a second while traffic is heavy. The counters start at zero with
    /// this meter; values smaller than before mean that the tunnel's peer was made anew.
    pub fn handle_counters(&mut self, bytes_up: u64, bytes_down: u64, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        let grown_up = self.traffic.read(bytes_up, bytes_down).0 > 0;
        if grown_up {
            self.heard_at = Some(now);
        }
        self.count_due();
        self.advance(now);
    }

    /// A voucher from the payer. It counts once it is stored: see [`ProviderEvent::StoreVoucher`].
    ///
    /// Vouchers are taken after the lease's end too. One that answers none of the lease's receipts is
    /// [kept](ProviderEvent::KeepVoucher), but earns no service.
    pub fn handle_voucher(
        &mut self,
        voucher: Signed<Voucher>,
        now: Instant,
    ) -> Result<VoucherOutcome, Misbehaved> {
        if voucher.message.channel_id != self.channel_id {
            return Err(PayerFault::WrongChannel {
                expected: self.channel_id,
                found: voucher.message.channel_id,
            }
            .into());
        }
        if self.accepted.as_ref() == Some(&voucher) {
            return Ok(self.accept(voucher, None, now)?);
        }
        let Voucher {
            cumulative,
            receipt_hash,
            ..
        } = voucher.message;
        let checked = self
            .signer
            .check_signed(&voucher, &self.domain)
            .map_err(|cause| PayerFault::Signature {
                channel: self.channel_id,
                cumulative,
                cause,
            })?;
        let known = self.accepted_amount();
        let payable = cumulative > known && cumulative <= self.most();
        if payable {
            let opening = known <= self.base;
            if !self.answerable.accept(receipt_hash, opening, &self.domain) {
                self.keep(voucher);
                return Err(PayerFault::UnknownReceipt {
                    cumulative,
                    found: receipt_hash,
                }
                .into());
            }
            self.answered = self.answerable.answered(receipt_hash);
        }
        Ok(self.accept(voucher, Some(checked), now)?)
    }

    /// A receipt that [`ProviderEvent::SignReceipt`] asked for, signed: kept until a voucher answers it, as evidence.
    pub fn handle_signed(&mut self, receipt: Signed<Receipt>) {
        self.answerable.signed(receipt);
    }

    /// The payer asked for an echo inside the tunnel, which is a sign of life.
    pub fn handle_echo(&mut self, now: Instant) {
        self.hear(now);
    }

    /// The voucher with this cumulative amount, and [`state`](Self::state) with it, is on disk.
    pub fn handle_stored(&mut self, cumulative: Amount, now: Instant) {
        let cumulative = cumulative.min(self.accepted_amount());
        if cumulative > self.stored {
            self.stored = cumulative;
            self.vouchers = self.vouchers.saturating_add(1).min(2);
        }
        self.numbers.limit = self.numbers.promised;
        self.count_funds();
        self.advance(now);
    }

    /// A reservation from the operator, with what the chain said when the provider looked, at `now`.
    ///
    /// Returns whether it takes the place of the one in force; one that ends sooner does not.
    pub fn handle_reservation(
        &mut self,
        reservation: &Signed<Reservation>,
        chain: &ChainView,
        now: Instant,
    ) -> Result<bool, Misbehaved> {
        let needed = self.accepted_amount().saturating_add(self.next_slice());
        let cover = Cover::check(
            reservation,
            chain,
            (&self.domain, self.channel_id),
            needed,
            self.funds.stop_reserve,
            now,
        )?;
        let newer = self.cover.as_ref().is_none_or(|old| cover.replaces(old));
        if newer {
            self.cover = Some(cover);
            self.renewal_asked = None;
            self.count_funds();
        }
        self.advance(now);
        Ok(newer)
    }

    /// The chain's latest block has this time. Call it now and then: a machine that slept misses time otherwise.
    pub fn handle_block_time(&mut self, block_time: UnixSeconds, now: Instant) {
        if let Some(cover) = &mut self.cover {
            cover.set_time(block_time, now);
        }
        self.advance(now);
    }

    /// Root of the connection record, for the receipts to come.
    pub fn handle_connections_root(&mut self, root: B256) {
        self.connections_root = root;
    }

    /// Somebody ended the lease. A second end changes nothing.
    pub fn handle_end(&mut self, cause: EndCause, now: Instant) {
        self.advance(now);
        self.end(cause, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<ProviderEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), unless something else happens first. `None` before
    /// [`handle_ready`](Self::handle_ready) and after the end.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = match self.phase {
            Phase::Idle | Phase::Ended => return None,
            Phase::Waiting { since } => [Some(since + PATIENCE), None, None],
            Phase::Held { since, .. } => [
                Some(since + self.patience()),
                self.next_repeat(),
                self.stop_at(),
            ],
            Phase::Serving => [
                self.clock.instant_of(Duration::from_secs(self.secs + 1)),
                self.heard_at.map(|at| at + self.silence()),
                self.stop_at(),
            ],
        };
        timers.into_iter().flatten().min()
    }

    /// What has to survive a restart; small. Receipt numbers in it are ahead of those in use.
    pub fn state(&self) -> ChannelState {
        let pending = u8::from(self.accepted_amount() > self.stored);
        ChannelState {
            voucher: self.accepted.clone(),
            answered: self.answered.clone(),
            receipt: None,
            next_seq: self.numbers.promised,
            deal: Some(DealProgress {
                deal_id: self.terms.deal_id,
                base: self.base,
                usage: self.usage(),
                vouchers: self.vouchers.saturating_add(pending).min(2),
            }),
        }
    }

    /// That the voucher in [`state`](Self::state) is the session key's, if this meter has checked it: for the store, so
    /// that each voucher is checked once.
    pub fn checked(&self) -> Option<CheckedSignature> {
        self.checked
    }

    /// The lease's totals so far.
    pub fn usage(&self) -> Usage {
        Usage {
            secs: self.secs,
            bytes_up: self.traffic.up(),
            bytes_down: self.traffic.down(),
        }
    }

    /// What the totals so far cost.
    pub fn due(&self) -> Amount {
        self.due
    }

    /// What this lease's stored vouchers pay, as far as the reservation covers it.
    pub fn paid(&self) -> Amount {
        self.funds.paid
    }

    /// What the packet path may do now.
    pub fn gate(&self) -> ServiceGate {
        self.gate
    }

    /// What the operator should reserve now; see [`capacity`](crate::capacity).
    pub fn capacity_wanted(&self) -> Amount {
        let accepted = self.accepted_amount();
        let paid = accepted.saturating_sub(self.base);
        accepted.saturating_add(crate::slice::capacity_ahead(
            self.terms.full_price_per_second(),
            self.terms.budget,
            paid,
        ))
    }

    /// Whether the lease is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}
