//! One lease, from the signature under its deal to the report of its end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipsx_market::deal::Deal;
use ipsx_market::messages::{AgentMessage, EndCause, EndReport, Ready};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::request::CounterSource;
use ipsx_metering::{
    Amount, Channel, ChannelId, DealId, EndCause as MeterEnd, Misbehaved, ProviderMeter,
    Reservation, SecretKey, Signed, UnixSeconds, Usage, VoucherOutcome,
};

use ipsx_tunnel_core::Rates;

use super::command::{Command, LeaseRecord, PaymentPath};
use super::event::ProviderEvent;
use super::gate::GateKeeper;
use super::judge::Taken;
use super::punching::Punching;
use super::settings::{Network, Now};
use super::shown::{RecordedConnections, Unseen};

/// How long a finished lease waits for the voucher that pays its last receipt.
const LAST_VOUCHER: Duration = Duration::from_secs(2);
/// How long after the last moment for signatures the network's word is waited for. A deal that nobody binds must not
/// hold capacity until its start is due, which may be two days away.
const LATE_OUTCOME: u64 = 60;
/// How long after the last moment for a start it is waited for what the requester has prepaid, in seconds.
const LATE_FORFEIT: u64 = 10;
/// Answers to one payer in a second; a payer that asks for more gets none, so that it can't use up what the broker
/// lets this provider send.
const ANSWERS: u32 = 10;
/// Refused vouchers are told to people no more often than this.
const REFUSAL_GAP: Duration = Duration::from_secs(1);

/// Where a lease is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Signed by this provider; the network has not spoken.
    Signed,
    /// Bound; the chain is asked whether the reservation holds.
    Checking { record: Box<LeaseRecord> },
    /// Covered; its peer is opened when it starts.
    Booked {
        record: Box<LeaseRecord>,
        opens_at: Instant,
    },
    /// The shell stores the lease and opens its peer.
    Opening,
    /// Open and unpaid.
    Ready,
    /// Paid and carrying traffic, or on hold.
    Serving,
    /// Over; the voucher for the last receipt may still come.
    Lingering {
        until: Instant,
        report: Box<EndReport>,
    },
    /// Over and reported.
    Gone { report: Box<EndReport> },
}

/// One lease.
pub(crate) struct Lease {
    pub(crate) id: DealId,
    pub(crate) deal: Deal,
    pub(crate) channel: Channel,
    pub(crate) channel_id: ChannelId,
    pub(crate) stage: Stage,
    pub(crate) ready: Option<Ready>,
    pub(super) meter: Option<ProviderMeter>,
    pub(super) path: PaymentPath,
    pub(super) reservation: Option<Signed<Reservation>>,
    pub(super) agent_key: SecretKey,
    pub(super) gate: GateKeeper,
    /// Why it ended, where that is known better than by the meter.
    pub(super) cause: Option<EndCause>,
    taken: Taken,
    sign_deadline: Instant,
    start_deadline: Instant,
    pub(super) pending: Option<Signed<Reservation>>,
    pub(super) chain_at: Option<Instant>,
    bytes: u64,
    pub(super) chain_told: bool,
    pub(super) refusal_told: bool,
    refused_at: Option<Instant>,
    /// When the running second of answers began, and how many there were.
    answers: Option<(Instant, u32)>,
    stored: Amount,
    unseen: Unseen,
    pub(super) punching: Punching,
    /// By which the requester comes, if it does.
    pub(super) relay: Option<SocketAddr>,
}

impl Lease {
    pub(crate) fn new(deal: Deal, taken: Taken, agent_key: SecretKey, now: Now) -> Self {
        let channel = deal.channel();
        // The broker says what becomes of what was prepaid.
        let grace = if deal.is_prepaid() { LATE_FORFEIT } else { 0 };
        Self {
            id: deal.id(),
            channel_id: taken.channel,
            channel,
            stage: Stage::Signed,
            ready: None,
            meter: None,
            path: match deal.counter_source {
                CounterSource::Both => PaymentPath::Tunnel,
                CounterSource::Provider => PaymentPath::Broker,
            },
            reservation: None,
            agent_key,
            gate: GateKeeper::default(),
            cause: None,
            taken,
            sign_deadline: now.instant_of(deal.sign_by.after(LATE_OUTCOME).min(deal.start_by)),
            start_deadline: now.instant_of(deal.start_by.after(grace)),
            pending: None,
            chain_at: None,
            bytes: 0,
            chain_told: false,
            refusal_told: false,
            refused_at: None,
            answers: None,
            stored: Amount::ZERO,
            unseen: Unseen::default(),
            punching: Punching::default(),
            relay: None,
            deal,
        }
    }

    /// Its part of the capacity.
    pub(super) fn weights(&self) -> Rates {
        self.taken.weights
    }

    /// What it takes of the capacity; nothing any more once it is over.
    pub(crate) fn taken(&self) -> Option<Taken> {
        let started = matches!(self.stage, Stage::Serving | Stage::Lingering { .. });
        let taken = Taken {
            started,
            ..self.taken.clone()
        };
        (!matches!(self.stage, Stage::Gone { .. })).then_some(taken)
    }

    /// The peer is open and can be reached like this.
    pub(crate) fn handle_ready(
        &mut self,
        ready: Ready,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if !matches!(self.stage, Stage::Opening) {
            return;
        }
        self.stage = Stage::Ready;
        if let Some(meter) = &mut self.meter {
            meter.handle_ready(now.unix, now.instant);
        }
        self.ready = Some(ready);
        commands.extend(self.announcement());
        commands.push(Command::Tell(ProviderEvent::LeaseReady {
            lease: self.id,
            requester: self.deal.requester,
            exit_address: self.deal.exit_address,
            seconds: self.deal.seconds,
            prices: self.deal.prices,
        }));
        self.drain(network, now, commands);
    }

    /// What the broker has to know of it, again after a new connection.
    pub(crate) fn announcement(&self) -> Vec<Command> {
        let Some(ready) = self.ready.clone() else {
            return Vec::new();
        };
        let deal_id = self.id;
        let mut said = vec![Command::Send(AgentMessage::LeaseReady { deal_id, ready })];
        if matches!(self.stage, Stage::Serving) {
            said.push(Command::Send(AgentMessage::LeaseServing { deal_id }));
        }
        said
    }

    /// The payer says something.
    pub(crate) fn handle_payment(
        &mut self,
        message: PayerMessage,
        path: PaymentPath,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let Some(meter) = &mut self.meter else {
            return;
        };
        match message {
            PayerMessage::Voucher(voucher) => match meter.handle_voucher(voucher, now.instant) {
                Ok(VoucherOutcome::Higher) => self.path = path,
                Ok(VoucherOutcome::Stale) => {
                    let stored = ProviderMessage::Stored(self.stored);
                    self.answer(stored, path, now, commands);
                }
                Err(fault) => self.refuse(&fault, now, commands),
            },
            PayerMessage::Echo(number) => {
                if path == PaymentPath::Tunnel {
                    meter.handle_echo(now.instant);
                }
                self.answer(ProviderMessage::Echo(number), path, now, commands);
            }
            // Whoever pays beside the tunnel has no flows to compare them with.
            PayerMessage::Connections(from) if path == PaymentPath::Tunnel => {
                let lease = self.id;
                let pages = self.unseen.pages(from, now.instant).into_iter();
                commands.extend(pages.map(|page| Command::Pay {
                    lease,
                    path,
                    message: ProviderMessage::Connections(page),
                }));
            }
            PayerMessage::Connections(_) => {}
            PayerMessage::End(cause) => {
                let cause = self.requester_cause(cause);
                self.end(cause, MeterEnd::PayerEnded, now, commands);
            }
        }
        self.drain(network, now, commands);
    }

    /// The tunnel's totals. Returns how much they have grown.
    pub(crate) fn handle_counters(
        &mut self,
        bytes_up: u64,
        bytes_down: u64,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) -> u64 {
        let total = bytes_up.saturating_add(bytes_down);
        let grown = total.saturating_sub(self.bytes);
        self.bytes = self.bytes.max(total);
        if let Some(meter) = &mut self.meter {
            meter.handle_counters(bytes_up, bytes_down, now.instant);
        }
        self.drain(network, now, commands);
        grown
    }

    /// The voucher with this total is on disk.
    pub(crate) fn handle_stored(
        &mut self,
        cumulative: Amount,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let Some(meter) = &mut self.meter else {
            return;
        };
        meter.handle_stored(cumulative, now.instant);
        if cumulative > self.stored {
            self.stored = cumulative;
            let message = ProviderMessage::Stored(cumulative);
            commands.push(Command::Pay {
                lease: self.id,
                path: self.path,
                message,
            });
        }
        self.drain(network, now, commands);
    }

    /// Its connection record has grown.
    pub(crate) fn handle_connections(&mut self, recorded: RecordedConnections) {
        if let Some(meter) = &mut self.meter {
            meter.handle_connections_root(recorded.root);
        }
        self.unseen.add(recorded);
    }

    /// The chain's time.
    pub(crate) fn handle_block_time(
        &mut self,
        time: UnixSeconds,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if let Some(meter) = &mut self.meter {
            meter.handle_block_time(time, now.instant);
        }
        self.drain(network, now, commands);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(
        &mut self,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if let Some(meter) = &mut self.meter {
            meter.handle_timeout(now.instant);
        }
        if self.chain_at.is_some_and(|at| at <= now.instant) {
            self.chain_at = None;
            commands.push(self.read_chain());
        }
        self.open_if_due(now, commands);
        self.punch(now, commands);
        if self.deadline().is_some_and(|at| at <= now.instant) {
            self.end(EndCause::NotStarted, MeterEnd::NotPaid, now, commands);
        }
        self.drain(network, now, commands);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.stage, Stage::Gone { .. }) {
            return None;
        }
        if let Stage::Lingering { until, .. } = self.stage {
            return Some(until);
        }
        let meter = self.meter.as_ref().and_then(ProviderMeter::poll_timeout);
        let times = [
            self.deadline(),
            meter,
            self.chain_at,
            self.opens_at(),
            self.punching.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// Ends it, if it has not ended. `cause` is what is reported.
    pub(crate) fn end(
        &mut self,
        cause: EndCause,
        meter_cause: MeterEnd,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if matches!(self.stage, Stage::Lingering { .. } | Stage::Gone { .. }) {
            return;
        }
        self.cause.get_or_insert(cause);
        match &mut self.meter {
            // The meter's `Ended` finishes the rest.
            Some(meter) if self.ready.is_some() => meter.handle_end(meter_cause, now.instant),
            _ => {
                let report = EndReport {
                    cause,
                    usage: Usage::default(),
                    amount: Amount::ZERO,
                    voucher: None,
                };
                self.finish(report, Amount::ZERO, commands);
            }
        }
    }

    /// Over: waits for the last voucher if something is unpaid, else reports.
    pub(super) fn conclude(
        &mut self,
        report: EndReport,
        paid: Amount,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        commands.push(Command::Pay {
            lease: self.id,
            path: self.path,
            message: ProviderMessage::End(report.cause),
        });
        if paid >= self.expected(&report) {
            return self.finish(report, paid, commands);
        }
        let mut until = now.instant + LAST_VOUCHER;
        if report.cause == EndCause::NotStarted {
            until = until.max(self.start_deadline);
        }
        self.stage = Stage::Lingering {
            until,
            report: Box::new(report),
        };
    }

    /// What the last voucher should promise: all that was used, or, if the requester did not come, what it has prepaid.
    pub(super) fn expected(&self, report: &EndReport) -> Amount {
        match report.cause {
            EndCause::NotStarted if self.deal.is_prepaid() => self.deal.terms().first_slice(),
            _ => report.amount,
        }
    }

    /// Over for good. The broker is told by whoever holds the lease.
    pub(super) fn finish(&mut self, report: EndReport, paid: Amount, commands: &mut Vec<Command>) {
        let lease = self.id;
        let relay = self.relay.take();
        commands.extend(relay.map(|relay| Command::LeaveRelay { relay }));
        if self.ready.is_some() || matches!(self.stage, Stage::Opening) {
            commands.push(Command::ClosePeer { lease });
            let state = self.meter.as_ref().map(|meter| meter.state());
            let answered = state.and_then(|state| state.answered);
            commands.push(Command::StoreEnd {
                lease,
                report: Box::new(report.clone()),
                answered: answered.map(Box::new),
            });
        }
        commands.push(Command::Tell(ProviderEvent::LeaseEnded {
            lease,
            cause: report.cause,
            usage: report.usage,
            amount: report.amount,
            paid,
        }));
        self.stage = Stage::Gone {
            report: Box::new(report),
        };
    }

    /// Until when it must have come further.
    fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Signed => Some(self.sign_deadline),
            Stage::Checking { .. } | Stage::Booked { .. } | Stage::Opening | Stage::Ready => {
                Some(self.start_deadline)
            }
            Stage::Serving | Stage::Lingering { .. } | Stage::Gone { .. } => None,
        }
    }

    pub(super) fn warning(&self, reason: &str) -> Command {
        Command::Tell(ProviderEvent::Warning {
            text: format!("lease {}: {reason}", self.id),
        })
    }

    fn answer(
        &mut self,
        message: ProviderMessage,
        path: PaymentPath,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let (since, given) = self
            .answers
            .filter(|(since, _)| now.instant < *since + Duration::from_secs(1))
            .unwrap_or((now.instant, 0));
        self.answers = Some((since, given + 1));
        if given < ANSWERS {
            let lease = self.id;
            commands.push(Command::Pay {
                lease,
                path,
                message,
            });
        }
    }

    fn refuse(&mut self, fault: &Misbehaved, now: Now, commands: &mut Vec<Command>) {
        commands.push(Command::CountRefused(fault.name()));
        let quiet = self
            .refused_at
            .is_some_and(|at| now.instant < at + REFUSAL_GAP);
        if !quiet {
            self.refused_at = Some(now.instant);
            commands.push(Command::Tell(ProviderEvent::VoucherRefused {
                lease: self.id,
                reason: fault.to_string(),
            }));
        }
    }

    /// What a requester may give as its reason; anything else is its own decision.
    pub(crate) fn requester_cause(&self, said: EndCause) -> EndCause {
        let served = self.meter.as_ref().map_or(0, |meter| meter.usage().secs);
        match said {
            EndCause::NoService | EndCause::WrongExit | EndCause::Misbehaved => said,
            EndCause::Completed if served + 1 >= u64::from(self.deal.seconds) => said,
            EndCause::CapacityLapsed | EndCause::BudgetSpent | EndCause::Restarted => said,
            _ => EndCause::RequesterEnded,
        }
    }
}
