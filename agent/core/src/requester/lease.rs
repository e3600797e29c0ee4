//! One lease from the requester's side: checks, pays, and stops paying.

mod connections;
mod judge;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ipsx_market::deal::Deal;
use ipsx_market::messages::{EndCause, EndReport};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_metering::{
    Amount, ChannelState, ConnectionAudit, EndCause as MeterCause, Misbehaved, PayerEvent,
    PayerMeter, ProviderFault, Receipt, ReceiptOutcome, Reservation, SecretKey, ServiceProof,
    Signed, TermsError, Voucher, VoucherOrder,
};

use super::echo::Echoes;
use super::ending::{EndReason, Ending};
use super::event::{LeaseEvent, PaymentPath, Progress};
use super::exit_check::{ExitCheck, ExitSeen, next_random};
use crate::provider::{Network, ROUND_TRIP};

/// How long a lease that is over waits for the last receipt and the last word.
const CLOSING: Duration = Duration::from_secs(2);
/// The same when every message goes through the broker.
const CLOSING_BY_BROKER: Duration = Duration::from_secs(4);
/// Wrong receipts after which a provider is not believed to be merely confused.
const FAULTS: u32 = 3;

/// What a lease starts with. The deal was checked, signed and bound; the provider is ready.
pub struct LeaseSettings {
    /// The network.
    pub network: Network,
    /// The deal.
    pub deal: Deal,
    /// What is remembered of its channel.
    pub channel: ChannelState,
    /// Latest voucher that the provider showed, checked to be this side's own.
    pub shown: Option<Signed<Voucher>>,
    /// Session key that signs the vouchers.
    pub key: SecretKey,
    /// How payment messages travel.
    pub path: PaymentPath,
    /// Whether the exit's address can be looked at. If so, nothing but the first voucher is signed before it is proven.
    pub exit_check: bool,
    /// Whether this side knows its own flows, and can compare the provider's connection record with them.
    pub own_flows: bool,
    /// Random.
    pub seed: u64,
    /// How long the provider may take for its first answer.
    pub connect_within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting { until: Instant },
    Paying,
    Closing { until: Instant },
    Closed,
}

/// The requester's side of one lease.
///
/// Drive it with `handle_*` as things happen and `handle_timeout` at [`poll_timeout`](Self::poll_timeout); after each,
/// carry out what [`poll_event`](Self::poll_event) gives until there is nothing. `now` must never go back.
///
/// What can be lost to a provider that cheats is one slice: the first voucher buys no more than two seconds, and no
/// second one is signed before the exit is proven and the provider's count agrees with this side's own.
pub struct Lease {
    network: Network,
    deal: Deal,
    key: SecretKey,
    path: PaymentPath,
    meter: PayerMeter,
    phase: Phase,
    echoes: Echoes,
    exit: ExitCheck,
    audit: Option<ConnectionAudit>,
    /// When the provider's records were asked for the last time.
    asked_at: Option<Instant>,
    /// A voucher that waits for the exit to be proven.
    held: Option<VoucherOrder>,
    /// Nothing more is signed, whatever is claimed.
    refusing: bool,
    base: Amount,
    vouchers: u64,
    on_disk: Amount,
    accepted: Amount,
    started: Option<Instant>,
    /// Seconds since then that were told.
    told: u64,
    proven_at: Instant,
    faults: u32,
    broker_says_over: bool,
    provider_ended: bool,
    reason: Option<EndReason>,
    reservation: Option<Signed<Reservation>>,
    events: VecDeque<LeaseEvent>,
}

impl Lease {
    /// A lease that begins to look for its provider at `now`.
    pub fn new(settings: LeaseSettings, now: Instant) -> Result<Self, TermsError> {
        let mut channel = settings.channel;
        let known = channel.cumulative();
        if let Some(shown) = settings.shown
            && shown.message.cumulative > known
        {
            // This side lost its disk: the provider gives its own latest voucher back.
            channel.voucher = Some(shown);
            channel.answered = None;
            channel.deal = None;
        }
        let proof = match settings.path {
            PaymentPath::Tunnel => ServiceProof::Echoes,
            PaymentPath::Broker => ServiceProof::Receipts,
        };
        let mut seed = settings.seed;
        let echoes = Echoes::new(next_random(&mut seed), settings.path, now);
        let exit = ExitCheck::new(settings.deal.exit_address, settings.exit_check, seed);
        let mut meter = PayerMeter::new(
            settings.deal.terms(),
            settings.network.domain,
            channel,
            ROUND_TRIP,
            proof,
        )?;
        let audit = settings
            .own_flows
            .then(|| ConnectionAudit::new(settings.deal.id()));
        if audit.is_some() {
            meter.check_roots();
        }
        // What was prepaid is this lease's own.
        let base = meter.cumulative().saturating_sub(meter.paid());
        Ok(Self {
            network: settings.network,
            deal: settings.deal,
            key: settings.key,
            path: settings.path,
            phase: Phase::Connecting {
                until: now + settings.connect_within,
            },
            echoes,
            exit,
            audit,
            asked_at: None,
            held: None,
            refusing: false,
            base,
            vouchers: 0,
            on_disk: known,
            accepted: base,
            started: None,
            told: 0,
            proven_at: now,
            faults: 0,
            broker_says_over: false,
            provider_ended: false,
            reason: None,
            reservation: None,
            events: VecDeque::new(),
            meter,
        })
    }

    /// The provider says something, by whichever path.
    pub fn handle_message(&mut self, message: ProviderMessage, now: Instant) {
        match message {
            ProviderMessage::Echo(number) => self.handle_echo(number, now),
            ProviderMessage::Receipt(receipt) => self.handle_receipt(receipt, now),
            ProviderMessage::Connections(page) => self.audit_page(&page, now),
            ProviderMessage::Reservation(reservation) => self.handle_reservation(reservation),
            ProviderMessage::Stored(cumulative) => self.handle_stored(cumulative, now),
            ProviderMessage::End(cause) => {
                self.provider_ended = true;
                let (cause, meter_cause) = self.judge_end(cause);
                self.end(EndReason::Cause(cause), meter_cause, now);
            }
        }
        self.drain(now);
    }

    /// This side's own totals: inner IP bytes sent into the tunnel, and received from it on flows opened from here.
    /// Call it each second and before each receipt; not with [`PaymentPath::Broker`], which has no tunnel.
    pub fn handle_counters(&mut self, bytes_up: u64, bytes_down: u64, now: Instant) {
        self.meter.handle_counters(bytes_up, bytes_down, now);
        self.drain(now);
    }

    /// The answer to [`LeaseEvent::CheckExit`].
    pub fn handle_exit(&mut self, seen: ExitSeen, now: Instant) {
        if !matches!(self.phase, Phase::Paying) {
            return;
        }
        let verdict = self.exit.handle(seen, now);
        self.follow(verdict, now);
        self.drain(now);
    }

    /// The person or program that uses the lease wants no more of it.
    pub fn handle_stop(&mut self, now: Instant) {
        self.end(
            EndReason::Cause(EndCause::RequesterEnded),
            MeterCause::PayerEnded,
            now,
        );
        self.drain(now);
    }

    /// The broker says that the lease is over. A tunnel that works is believed more than a broker.
    pub fn handle_over(&mut self, now: Instant) {
        self.broker_says_over = true;
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Connecting { until } if now >= until => {
                self.end(
                    EndReason::Cause(EndCause::NotStarted),
                    MeterCause::NoService,
                    now,
                );
            }
            Phase::Connecting { .. } => self.send_echo(now),
            Phase::Paying => {
                self.send_echo(now);
                self.meter.handle_timeout(now);
                self.watch(now);
                self.tell_second(now);
            }
            Phase::Closing { until } if now >= until => self.close(),
            Phase::Closing { .. } | Phase::Closed => {}
        }
        self.drain(now);
    }

    /// When to call [`Self::handle_timeout`], unless something happens before; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connecting { until } => Some(until.min(self.echoes.next())),
            Phase::Paying => {
                let watch = self.proven_at + self.patience();
                let times = [self.next_second(), Some(self.echoes.next()), Some(watch)];
                times
                    .into_iter()
                    .flatten()
                    .chain(self.exit.poll_timeout())
                    .chain(self.meter.poll_timeout())
                    .min()
            }
            Phase::Closing { until } => Some(until),
            Phase::Closed => None,
        }
    }

    /// The next thing to do, oldest first.
    pub fn poll_event(&mut self) -> Option<LeaseEvent> {
        self.events.pop_front()
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        Progress {
            elapsed: self.told,
            usage: self.meter.usage(),
            promised: self.meter.paid(),
            accepted: self.accepted.saturating_sub(self.base),
            vouchers: self.vouchers,
        }
    }

    /// What the channel had paid before this lease.
    pub fn paid_before(&self) -> Amount {
        self.base
    }

    /// What the channel's next meter starts from.
    pub fn channel(&self) -> ChannelState {
        self.meter.state()
    }

    /// The newest receipt of this lease.
    pub fn receipt(&self) -> Option<Signed<Receipt>> {
        self.meter
            .state()
            .receipt
            .filter(|receipt| receipt.message.deal_id == self.deal.id())
    }

    /// The receipt that this lease's last voucher answers.
    pub fn answered(&self) -> Option<Signed<Receipt>> {
        self.meter
            .state()
            .answered
            .filter(|receipt| receipt.message.deal_id == self.deal.id())
    }

    /// The promise that covers the channel, if the provider has passed on a newer one.
    pub fn reservation(&self) -> Option<&Signed<Reservation>> {
        self.reservation.as_ref()
    }

    /// The last address that the exit was seen to have.
    pub fn exit_seen(&self) -> Option<std::net::IpAddr> {
        self.exit.seen()
    }

    fn handle_echo(&mut self, number: u64, now: Instant) {
        let Some(round_trip) = self.echoes.answered(number, now) else {
            return;
        };
        self.proven_at = now;
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.phase = Phase::Paying;
            self.started = Some(now);
            self.events.push_back(LeaseEvent::Connected { round_trip });
            self.meter.handle_ready(now);
        } else {
            self.meter.handle_echo(now);
        }
    }

    fn handle_receipt(&mut self, receipt: Signed<Receipt>, now: Instant) {
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Closed) {
            return;
        }
        match self.meter.handle_receipt(receipt.clone(), now) {
            Ok(outcome) => {
                if self.path == PaymentPath::Broker {
                    self.proven_at = now;
                }
                if outcome == ReceiptOutcome::Newer {
                    self.audit_receipt(&receipt, now);
                }
            }
            // The meter goes on with what it measured, and ends the lease if the two do not come together.
            Err(Misbehaved::Provider(ProviderFault::Overclaimed { .. })) => {
                self.audit_receipt(&receipt, now);
            }
            Err(fault) => {
                self.faults += 1;
                if self.faults >= FAULTS {
                    self.end(
                        EndReason::Misbehaved(Box::new(fault)),
                        MeterCause::Disputed,
                        now,
                    );
                }
            }
        }
    }

    fn handle_reservation(&mut self, reservation: Signed<Reservation>) {
        let ours = reservation.message.channel_id == self.deal.channel().id();
        if ours
            && reservation
                .verify(&self.network.domain, self.network.operator)
                .is_ok()
        {
            self.reservation = Some(reservation);
        }
    }

    fn handle_stored(&mut self, cumulative: Amount, now: Instant) {
        // More than was signed proves nothing, and is nobody's loss.
        if cumulative <= self.accepted || cumulative > self.meter.cumulative() {
            return;
        }
        if self.accepted == self.base {
            self.events.push_back(LeaseEvent::Serving);
        }
        self.accepted = cumulative;
        self.exit.start(now);
    }

    fn send_echo(&mut self, now: Instant) {
        let connected = !matches!(self.phase, Phase::Connecting { .. });
        if let Some(number) = self.echoes.take_due(connected, now) {
            self.events
                .push_back(LeaseEvent::Send(PayerMessage::Echo(number)));
        }
    }

    /// Tells that one more second has passed.
    fn tell_second(&mut self, now: Instant) {
        let elapsed = self.started.map_or(0, |started| {
            now.saturating_duration_since(started).as_secs()
        });
        if elapsed > self.told {
            self.told = elapsed;
            self.audit_second(now);
            self.events.push_back(LeaseEvent::Second(self.progress()));
        }
    }

    fn next_second(&self) -> Option<Instant> {
        self.started
            .map(|started| started + Duration::from_secs(self.told + 1))
    }

    fn end(&mut self, reason: EndReason, cause: MeterCause, now: Instant) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
            return;
        }
        self.reason.get_or_insert(reason);
        if matches!(self.phase, Phase::Connecting { .. }) {
            // Nothing was promised and nothing is owed.
            self.close();
        } else {
            self.meter.handle_end(cause, now);
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.meter.poll_event() {
            match event {
                PayerEvent::SignVoucher(order)
                    if self.vouchers == 0 || self.exit.allows_payment() =>
                {
                    self.sign(&order, now);
                }
                PayerEvent::SignVoucher(order) => self.held = Some(order),
                PayerEvent::SendVoucher(voucher) => self.send_voucher(voucher),
                PayerEvent::Disputed(fault) => self
                    .events
                    .push_back(LeaseEvent::Disputed(fault.to_string())),
                PayerEvent::Settled => self.events.push_back(LeaseEvent::Settled),
                PayerEvent::Ended { cause, .. } => {
                    self.begin_closing(self.blame_silence(cause, now), now)
                }
            }
        }
        let quiet = self.provider_ended && self.accepted >= self.meter.cumulative();
        if quiet && matches!(self.phase, Phase::Closing { .. }) {
            self.close();
        }
    }

    fn sign(&mut self, order: &VoucherOrder, now: Instant) {
        if self.refusing {
            return;
        }
        let voucher = Signed::sign(
            order.voucher(&self.network.domain),
            &self.network.domain,
            &self.key,
        );
        // An order that has been overtaken is not an error: a newer one is under way.
        if self.meter.handle_signed(voucher, now).is_ok() {
            self.vouchers += 1;
        }
    }

    fn send_voucher(&mut self, voucher: Signed<Voucher>) {
        if voucher.message.cumulative > self.on_disk {
            self.on_disk = voucher.message.cumulative;
            self.events
                .push_back(LeaseEvent::Store(Box::new(self.meter.state())));
        }
        self.events
            .push_back(LeaseEvent::Send(PayerMessage::Voucher(voucher)));
    }

    fn begin_closing(&mut self, cause: EndCause, now: Instant) {
        let reason = self.reason.get_or_insert(EndReason::Cause(cause));
        self.held = None;
        self.events
            .push_back(LeaseEvent::Send(PayerMessage::End(reason.cause())));
        let patience = match self.path {
            PaymentPath::Tunnel => CLOSING,
            PaymentPath::Broker => CLOSING_BY_BROKER,
        };
        self.phase = Phase::Closing {
            until: now + patience,
        };
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        let reason = self
            .reason
            .clone()
            .unwrap_or(EndReason::Cause(EndCause::RequesterEnded));
        let state = self.meter.state();
        let report = EndReport {
            cause: reason.cause(),
            usage: self.meter.usage(),
            amount: self.meter.paid(),
            voucher: state.voucher.clone(),
        };
        self.events.push_back(LeaseEvent::Store(Box::new(state)));
        self.events
            .push_back(LeaseEvent::Ended(Box::new(Ending { reason, report })));
    }
}
