//! A provider, a payer and a bad link between them, in virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) use super::fixtures::domain;
use super::fixtures::{
    PayerCheat, ProviderCheat, ROUND_TRIP, Weather, agent_key, block_time, chain, epoch,
    operator_key, payer_key, wall,
};
use crate::*;

#[derive(Clone, Debug)]
enum Message {
    Voucher(Signed<Voucher>),
    Receipt(Signed<Receipt>),
    EchoRequest,
    EchoReply,
    Stored(Box<ChannelState>, Amount),
    StoreDone(Amount),
    ProviderTick,
    PayerTick,
    EchoDue,
    RestartProvider,
    RestartPayer,
}

/// An interruption that is no longer may lie between two echoes that the payer takes for one service: a first slice and
/// the second of tolerance apart.
const LONGEST_UNNOTICED_MS: u64 = 3_000;
/// How long after an answer, and without one, the payer sends its next echo.
const ECHO_PACE_MS: (u64, u64) = (500, 250);

pub(super) struct World {
    pub(super) terms: Terms,
    pub(super) weather: Weather,
    pub(super) payer_cheat: PayerCheat,
    pub(super) provider_cheat: ProviderCheat,
    pub(super) provider: ProviderMeter,
    pub(super) payer: PayerMeter,
    pub(super) provider_disk: ChannelState,
    pub(super) payer_disk: ChannelState,
    pub(super) renew: bool,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Message>,
    order: u64,
    random: u64,
    /// Counters of the two tunnels, since the last restart of each.
    provider_bytes: (u64, u64),
    payer_bytes: (u64, u64),
    /// The provider's total when it last started.
    provider_before: u64,
    last_tick: u64,
    /// When the payer sent its latest echo, and when it sends its next one.
    echo_sent: u64,
    echo_due: u64,
    /// Milliseconds in which the gate was open, the link up and data carried.
    pub(super) truly_served_ms: u64,
    /// Bytes that the payer really sent and received, over all restarts.
    pub(super) truly_moved: (u64, u64),
    first_voucher: Option<Signed<Voucher>>,
    pub(super) vouchers_signed: Vec<Amount>,
    pub(super) seqs: BTreeMap<u64, Receipt>,
    pub(super) provider_log: Vec<ProviderEvent>,
    pub(super) payer_log: Vec<PayerEvent>,
    pub(super) payer_faults: Vec<Misbehaved>,
    pub(super) provider_faults: Vec<Misbehaved>,
    pub(super) renewals: u32,
    /// How often the provider was started.
    starts: i64,
}

impl World {
    pub(super) fn new(terms: Terms, weather: Weather) -> Self {
        Self::with(terms, weather, PayerCheat::Honest, ProviderCheat::Honest)
    }

    pub(super) fn with(
        terms: Terms,
        weather: Weather,
        payer_cheat: PayerCheat,
        provider_cheat: ProviderCheat,
    ) -> Self {
        let mut world = Self::build(
            terms,
            weather,
            ChannelState::default(),
            ChannelState::default(),
        );
        world.payer_cheat = payer_cheat;
        world.provider_cheat = provider_cheat;
        world.start();
        world
    }

    /// A new lease on a channel that was used before.
    pub(super) fn continuing(
        terms: Terms,
        weather: Weather,
        provider_disk: ChannelState,
        payer_disk: ChannelState,
    ) -> Self {
        let mut world = Self::build(terms, weather, provider_disk, payer_disk);
        world.start();
        world
    }

    fn build(
        terms: Terms,
        weather: Weather,
        provider_disk: ChannelState,
        payer_disk: ChannelState,
    ) -> Self {
        let provider =
            ProviderMeter::new(terms.clone(), domain(), provider_disk.clone(), ROUND_TRIP).unwrap();
        let payer = PayerMeter::new(
            terms.clone(),
            domain(),
            payer_disk.clone(),
            ROUND_TRIP,
            ServiceProof::Echoes,
        )
        .unwrap();
        let seed = weather.seed;
        Self {
            terms,
            payer_cheat: PayerCheat::Honest,
            provider_cheat: ProviderCheat::Honest,
            provider,
            payer,
            provider_disk,
            payer_disk,
            renew: true,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            provider_bytes: (0, 0),
            payer_bytes: (0, 0),
            provider_before: 0,
            last_tick: 0,
            echo_sent: 0,
            echo_due: 0,
            truly_served_ms: 0,
            truly_moved: (0, 0),
            first_voucher: None,
            vouchers_signed: vec![],
            seqs: BTreeMap::new(),
            provider_log: vec![],
            payer_log: vec![],
            payer_faults: vec![],
            provider_faults: vec![],
            renewals: 0,
            starts: 1,
            weather,
        }
    }

    fn start(&mut self) {
        let world = self;
        for at in world.weather.provider_restarts.clone() {
            world.at(at, Message::RestartProvider);
        }
        for at in world.weather.payer_restarts.clone() {
            world.at(at, Message::RestartPayer);
        }
        world.at(100, Message::ProviderTick);
        world.at(150, Message::PayerTick);
        world.at(150, Message::EchoDue);
        world.reserve();
        let now = world.instant();
        let clock = world.clock();
        world.provider.handle_ready(clock, now);
        world.payer.handle_ready(now);
        world.settle_events();
    }

    /// Runs until both sides have ended and the link is empty of vouchers and receipts, or time is up.
    pub(super) fn run(&mut self, limit_ms: u64) {
        while self.now < limit_ms {
            let over = self.provider.is_ended() && self.payer.is_ended();
            let timers = [self.provider.poll_timeout(), self.payer.poll_timeout()];
            let timer = timers.into_iter().flatten().min().map(|at| {
                u64::try_from(
                    at.saturating_duration_since(epoch())
                        .as_micros()
                        .div_ceil(1000),
                )
                .unwrap()
            });
            let message = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = match (timer, message) {
                (Some(timer), Some(message)) => timer.min(message),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => break,
            };
            if over && !self.in_flight() {
                break;
            }
            self.now = next.max(self.now);
            if message == Some(self.now) {
                let ((_, _), message) = self.queue.pop_first().unwrap();
                self.deliver(message);
            } else {
                let now = self.instant();
                self.provider.handle_timeout(now);
                self.payer.handle_timeout(now);
            }
            self.settle_events();
            self.check();
        }
    }

    /// What the provider's clock says.
    fn clock(&self) -> UnixSeconds {
        let true_time = wall().after(self.now / 1000);
        let ahead = self.weather.clock_ahead * self.starts;
        UnixSeconds(true_time.0.saturating_add_signed(ahead))
    }

    pub(super) fn instant(&self) -> Instant {
        epoch() + Duration::from_millis(self.now)
    }

    pub(super) fn end_causes(&self) -> (Option<EndCause>, Option<EndCause>) {
        let provider = self.provider_log.iter().find_map(|event| match event {
            ProviderEvent::Ended { cause, .. } => Some(*cause),
            _ => None,
        });
        let payer = self.payer_log.iter().find_map(|event| match event {
            PayerEvent::Ended { cause, .. } => Some(*cause),
            _ => None,
        });
        (provider, payer)
    }

    /// `max(first slice, 5 % of paid)` capped at 30 s, computed the slow way.
    pub(super) fn slice(&self, paid: Amount) -> Amount {
        let full = self.terms.full_price_per_second().0;
        let first = (full * 2).min(self.terms.budget.0);
        Amount(first.max((paid.0 * 5 / 100).min(full * 30)))
    }

    fn in_flight(&self) -> bool {
        self.queue.values().any(|message| {
            matches!(
                message,
                Message::Voucher(_)
                    | Message::Receipt(_)
                    | Message::Stored(..)
                    | Message::StoreDone(..)
            )
        })
    }

    fn at(&mut self, at: u64, message: Message) {
        self.order += 1;
        self.queue.insert((at, self.order), message);
    }

    pub(super) fn dice(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % sides.max(1)
    }

    fn link_is_up(&self) -> bool {
        let now = self.now;
        !self
            .weather
            .outages
            .iter()
            .any(|(from, to)| (*from..*to).contains(&now))
    }

    fn send(&mut self, message: Message) {
        let copies = if self.dice(100) < self.weather.duplicate_percent {
            2
        } else {
            1
        };
        for _ in 0..copies {
            if !self.link_is_up() || self.dice(100) < self.weather.loss_percent {
                continue;
            }
            let (least, most) = self.weather.delay_ms;
            let delay = least + self.dice(most - least + 1);
            self.at(self.now + delay, message.clone());
        }
    }

    fn carries_data(&self) -> bool {
        match self.provider_cheat {
            ProviderCheat::DropsDataAt(second) => self.now < second * 1000,
            _ => true,
        }
    }

    fn deliver(&mut self, message: Message) {
        let now = self.instant();
        match message {
            Message::Voucher(voucher) => {
                let taken = match self.provider_cheat {
                    ProviderCheat::Honest => self.provider.handle_voucher(voucher, now),
                    // Its receipts are not those that its meter knows.
                    _ => self.provider.accept(voucher, None, now).map_err(Into::into),
                };
                if let Err(fault) = taken {
                    self.payer_faults.push(fault);
                }
            }
            Message::Receipt(receipt) => {
                let (up, down) = self.payer_bytes;
                self.payer.handle_counters(up, down, now);
                if let Err(fault) = self.payer.handle_receipt(receipt, now) {
                    self.provider_faults.push(fault);
                }
            }
            Message::EchoRequest => {
                let limit = match self.provider.gate() {
                    ServiceGate::Closed => 0,
                    ServiceGate::Open { byte_limit } => byte_limit,
                    ServiceGate::Throttled { byte_limit, .. } => byte_limit,
                };
                self.provider.handle_echo(now);
                if self.counted() + 200 <= limit && self.carries_data() {
                    self.provider_bytes.0 += 100;
                    self.provider_bytes.1 += 100;
                    self.send(Message::EchoReply);
                }
            }
            Message::EchoReply => {
                self.payer_bytes.1 += 100;
                self.truly_moved.1 += 100;
                self.payer.handle_echo(now);
                self.echo_due = self.echo_due.max(self.echo_sent + ECHO_PACE_MS.0);
            }
            Message::EchoDue => {
                if self.now >= self.echo_due {
                    self.payer_bytes.0 += 100;
                    self.truly_moved.0 += 100;
                    self.send(Message::EchoRequest);
                    self.echo_sent = self.now;
                    self.echo_due = self.now + ECHO_PACE_MS.1;
                }
                self.at(self.echo_due, Message::EchoDue);
            }
            Message::Stored(state, amount) => {
                self.provider_disk = *state;
                self.at(self.now, Message::StoreDone(amount));
            }
            Message::StoreDone(amount) => self.provider.handle_stored(amount, now),
            Message::ProviderTick => {
                self.move_data();
                let (up, down) = self.provider_bytes;
                self.provider.handle_counters(up, down, now);
                self.at(self.now + 100, Message::ProviderTick);
            }
            Message::PayerTick => {
                let (up, down) = self.payer_bytes;
                self.payer.handle_counters(up, down, now);
                self.at(self.now + 1000, Message::PayerTick);
            }
            Message::RestartProvider => self.restart_provider(),
            Message::RestartPayer => self.restart_payer(),
        }
    }

    /// A tenth of a second of traffic, as far as the gate lets it pass.
    fn move_data(&mut self) {
        let passed = self.now - self.last_tick;
        self.last_tick = self.now;
        let (limit, most) = match self.provider.gate() {
            ServiceGate::Closed => return,
            ServiceGate::Open { byte_limit } => (byte_limit, u64::MAX),
            ServiceGate::Throttled {
                byte_limit,
                bytes_per_second,
            } => (byte_limit, bytes_per_second * passed / 1000),
        };
        if !self.carries_data() {
            // It counts what it drops.
            self.provider_bytes.0 += self.weather.demand.0 * passed / 1000;
            self.provider_bytes.1 += self.weather.demand.1 * passed / 1000;
            return;
        }
        let room = limit.saturating_sub(self.counted()).min(most);
        let (up, down) = self.weather.demand;
        let up = (up * passed / 1000).min(room / 2);
        let down = (down * passed / 1000).min(room / 2);
        if self.link_is_up() {
            self.truly_served_ms += passed;
            let received = down - down * self.weather.data_loss / 1000;
            self.provider_bytes.0 += up;
            self.provider_bytes.1 += down;
            self.payer_bytes.0 += up;
            self.payer_bytes.1 += received;
            self.truly_moved.0 += up;
            self.truly_moved.1 += received;
        } else {
            // What was on its way down is sent into the void for a moment.
            self.provider_bytes.1 += down / 10;
        }
    }

    /// Total of the lease at the provider's tunnel: what its meter knows, and what was moved since it last looked.
    fn counted(&self) -> u64 {
        let (up, down) = self.provider_bytes;
        self.provider_before + up + down
    }

    fn restart_provider(&mut self) {
        self.provider = ProviderMeter::new(
            self.terms.clone(),
            domain(),
            self.provider_disk.clone(),
            ROUND_TRIP,
        )
        .unwrap();
        self.provider_bytes = (0, 0);
        self.provider_before = self.provider.usage().bytes();
        // What was being written is lost.
        self.queue
            .retain(|_, message| !matches!(message, Message::Stored(..) | Message::StoreDone(..)));
        self.reserve();
        let now = self.instant();
        self.starts += 1;
        let clock = self.clock();
        self.provider.handle_ready(clock, now);
    }

    fn restart_payer(&mut self) {
        self.payer = PayerMeter::new(
            self.terms.clone(),
            domain(),
            self.payer_disk.clone(),
            ROUND_TRIP,
            ServiceProof::Echoes,
        )
        .unwrap();
        self.payer_bytes = (0, 0);
        let now = self.instant();
        self.payer.handle_ready(now);
    }

    fn reserve(&mut self) {
        let reservation = Signed::sign(
            Reservation {
                channel_id: self.terms.channel_id(),
                capacity: self.provider.capacity_wanted(),
                valid_until: block_time(self.now).after(22 * 3600),
            },
            &domain(),
            &operator_key(),
        );
        let view = chain(self.now);
        let now = self.instant();
        self.provider
            .handle_reservation(&reservation, &view, now)
            .unwrap();
    }

    fn settle_events(&mut self) {
        loop {
            if let Some(event) = self.provider.poll_event() {
                self.provider_event(&event);
                self.provider_log.push(event);
            } else if let Some(event) = self.payer.poll_event() {
                self.payer_event(&event);
                self.payer_log.push(event);
            } else {
                return;
            }
        }
    }

    fn provider_event(&mut self, event: &ProviderEvent) {
        match event {
            ProviderEvent::SignReceipt(receipt) => {
                let clash = self.seqs.insert(receipt.seq, receipt.clone());
                assert_eq!(clash, None, "a receipt number was used twice");
                let honest = Signed::sign(receipt.clone(), &domain(), &agent_key());
                self.provider.handle_signed(honest);
                let receipt = self.cheat_receipt(receipt.clone());
                let signed = Signed::sign(receipt, &domain(), &agent_key());
                self.send(Message::Receipt(signed));
            }
            ProviderEvent::StoreVoucher(voucher) => {
                let state = Box::new(self.provider.state());
                let amount = voucher.message.cumulative;
                assert!(state.cumulative() >= amount);
                assert_answered(&state);
                self.at(
                    self.now + self.weather.store_ms,
                    Message::Stored(state, amount),
                );
            }
            ProviderEvent::RenewReservation { .. } => {
                self.renewals += 1;
                if self.renew {
                    self.reserve();
                }
            }
            _ => {}
        }
    }

    fn cheat_receipt(&self, mut receipt: Receipt) -> Receipt {
        let usage = &mut receipt.usage;
        match self.provider_cheat {
            ProviderCheat::Bytes(percent) => {
                usage.bytes_up = usage.bytes_up * percent / 100;
                usage.bytes_down = usage.bytes_down * percent / 100;
            }
            ProviderCheat::Seconds(percent) => usage.secs = usage.secs * percent / 100,
            ProviderCheat::CountsOutages => usage.secs = self.now / 1000,
            ProviderCheat::RepeatsSeq => receipt.seq = receipt.seq.min(10),
            ProviderCheat::Honest | ProviderCheat::DropsDataAt(_) => {}
        }
        let before = receipt.cumulative.saturating_sub(receipt.deal_amount);
        receipt.deal_amount = self.terms.due(&receipt.usage);
        receipt.cumulative = before.saturating_add(receipt.deal_amount);
        receipt
    }

    fn payer_event(&mut self, event: &PayerEvent) {
        match event {
            PayerEvent::SignVoucher(order) => {
                let voucher = Signed::sign(order.voucher(&domain()), &domain(), &payer_key());
                let amount = voucher.message.cumulative;
                let highest = self.vouchers_signed.last().copied().unwrap_or_default();
                assert!(
                    amount > highest,
                    "vouchers must grow: {highest} then {amount}"
                );
                self.vouchers_signed.push(amount);
                self.first_voucher.get_or_insert_with(|| voucher.clone());
                let now = self.instant();
                self.payer.handle_signed(voucher, now).unwrap();
            }
            PayerEvent::SendVoucher(voucher) => {
                self.payer_disk = self.payer.state();
                assert!(self.payer_disk.cumulative() >= voucher.message.cumulative);
                assert_answered(&self.payer_disk);
                if let Some(voucher) = self.cheat_voucher(voucher.clone()) {
                    self.send(Message::Voucher(voucher));
                }
            }
            _ => {}
        }
    }

    fn cheat_voucher(&self, honest: Signed<Voucher>) -> Option<Signed<Voucher>> {
        let sign = |message| Signed::sign(message, &domain(), &payer_key());
        match self.payer_cheat {
            PayerCheat::Honest => Some(honest),
            PayerCheat::NeverPays => None,
            PayerCheat::StopsAfter(second) => (self.now < second * 1000).then_some(honest),
            PayerCheat::ReplaysTheFirst => self.first_voucher.clone(),
            PayerCheat::OtherChannel => Some(sign(Voucher {
                channel_id: ChannelId(B256::repeat_byte(0x77)),
                ..honest.message
            })),
            PayerCheat::AnswersNothing => Some(sign(Voucher {
                receipt_hash: self.first_voucher.as_ref()?.message.receipt_hash,
                ..honest.message
            })),
            PayerCheat::AnswersAnother if honest.message.receipt_hash.is_zero() => Some(honest),
            PayerCheat::AnswersAnother => Some(sign(Voucher {
                receipt_hash: keccak256(honest.message.receipt_hash),
                ..honest.message
            })),
            PayerCheat::PaysOneUnitMore => {
                let first = self.first_voucher.clone()?.message;
                let more = Amount(first.cumulative.0 + u128::from(self.now / 1000));
                Some(sign(Voucher {
                    cumulative: more,
                    ..honest.message
                }))
            }
        }
    }

    /// What must hold at every instant.
    fn check(&mut self) {
        let provider = &self.provider;
        let allowed = self.slice(provider.paid());
        let unpaid = provider.due().saturating_sub(provider.paid());
        assert!(
            unpaid <= allowed,
            "{} ms: unpaid {unpaid} is more than the credit {allowed}",
            self.now
        );
        assert!(self.payer.paid() <= self.terms.budget);
        let base = provider.state().deal.unwrap().base;
        assert!(
            provider.paid() <= self.provider_disk.cumulative().saturating_sub(base),
            "{} ms: counts on a voucher that is not on disk",
            self.now
        );
        if provider.gate() != ServiceGate::Closed {
            assert!(
                self.provider_disk.voucher.is_some(),
                "open before a voucher was stored"
            );
        }
    }

    /// The payer's loss: what it has promised beyond what it truly got.
    pub(super) fn payer_loss(&self) -> Amount {
        let got = Usage {
            secs: self.truly_served_ms / 1000,
            bytes_up: self.truly_moved.0,
            bytes_down: self.truly_moved.1,
        };
        self.payer.paid().saturating_sub(self.terms.due(&got))
    }

    /// The tolerance beside the slice: 1 s that runs and 1 s of clock, interruptions that neither side notices, 0.5 % of the
    /// bytes and what is in flight.
    pub(super) fn tolerance(&self) -> Amount {
        let moved = self.truly_moved.0 + self.truly_moved.1;
        let flight = (self.weather.demand.0 + self.weather.demand.1) * 2;
        let outages = self.weather.outages.iter().map(|(from, to)| to - from);
        let unnoticed: u64 = outages.filter(|ms| *ms <= LONGEST_UNNOTICED_MS).sum();
        self.terms.due(&Usage {
            secs: 2 + unnoticed.div_ceil(1000),
            bytes_up: moved / 200 + 65_536 + flight,
            bytes_down: 0,
        })
    }
}

/// Beside a voucher stands the receipt that it answers, or none.
fn assert_answered(state: &ChannelState) {
    if let (Some(voucher), Some(answered)) = (&state.voucher, &state.answered) {
        assert_eq!(
            answered.message.signing_hash(&domain()),
            voucher.message.receipt_hash
        );
    }
}
