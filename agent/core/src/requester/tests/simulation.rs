//! A lease in virtual time: the requester's machine against a real provider's meter, over a path that can lose
//! messages, with a shell that keeps what the events tell it to keep.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipsx_market::messages::EndCause;
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_metering::{
    ChainView, ChannelState, EndCause as MeterCause, ProviderEvent, ProviderMeter, Receipt,
    Reservation, ServiceGate,
};

use super::recorded::{Lie, Record};
use super::*;
use crate::provider::ROUND_TRIP;

const STEP: Duration = Duration::from_millis(50);

/// What a provider does otherwise than an honest one.
#[derive(Clone, Copy, Default)]
pub(super) struct Cheat {
    /// Changes each receipt before it is signed.
    pub(super) receipt: Option<fn(&mut Receipt)>,
    /// Stops answering echoes after this many seconds.
    pub(super) deaf_after: Option<u64>,
    /// Ends with this cause after this many seconds.
    pub(super) ends: Option<(u64, EndCause)>,
    /// Says that it stored this much.
    pub(super) stored: Option<Amount>,
}

pub(super) struct Simulation {
    pub(super) now: Instant,
    pub(super) started: Instant,
    pub(super) deal: Deal,
    pub(super) lease: Lease,
    pub(super) meter: ProviderMeter,
    pub(super) cheat: Cheat,
    /// Bytes a second in each direction.
    pub(super) traffic: u64,
    /// One message in this many is lost; 0 loses none.
    pub(super) loss: u64,
    pub(super) exit: Option<IpAddr>,
    pub(super) disk: ChannelState,
    pub(super) seconds: Vec<Progress>,
    pub(super) checks: u64,
    pub(super) disputes: u64,
    pub(super) ending: Option<Ending>,
    pub(super) signed_before_check: u64,
    /// The provider's connection record, if it keeps one.
    pub(super) record: Option<Record>,
    /// How often service was held.
    pub(super) held: u64,
    bytes: u64,
    messages: u64,
    provider_ended: bool,
    /// Of a cheat's receipts: the hash of what was shown, and of what its meter had asked for.
    changed: HashMap<B256, B256>,
}

impl Simulation {
    pub(super) fn new(seconds: u32) -> Self {
        Self::on_channel(
            deal(&request(seconds)),
            ChannelState::default(),
            ChannelState::default(),
        )
    }

    /// A lease with a connection record, which the requester looks at.
    pub(super) fn recorded(seconds: u32, lie: Option<Lie>) -> Self {
        let deal = deal(&request(seconds));
        let record = Record::new(deal.id(), lie);
        let (mine, theirs) = Default::default();
        Self::with_record(deal, mine, theirs, Some(record))
    }

    pub(super) fn on_channel(deal: Deal, mine: ChannelState, theirs: ChannelState) -> Self {
        Self::with_record(deal, mine, theirs, None)
    }

    fn with_record(
        deal: Deal,
        mine: ChannelState,
        theirs: ChannelState,
        record: Option<Record>,
    ) -> Self {
        let now = Instant::now();
        let shown = theirs.voucher.clone();
        let settings = LeaseSettings {
            network: network(),
            deal: deal.clone(),
            channel: mine.clone(),
            shown,
            key: session(),
            path: PaymentPath::Tunnel,
            exit_check: true,
            own_flows: record.is_some(),
            seed: 11,
            connect_within: Duration::from_secs(10),
        };
        let terms = deal.terms();
        let meter = ProviderMeter::new(terms, network().domain, theirs, ROUND_TRIP).unwrap();
        let mut simulation = Self {
            now,
            started: now,
            lease: Lease::new(settings, now).unwrap(),
            deal,
            meter,
            cheat: Cheat::default(),
            traffic: 0,
            loss: 0,
            exit: Some(EXIT),
            disk: mine,
            seconds: Vec::new(),
            checks: 0,
            disputes: 0,
            ending: None,
            signed_before_check: 0,
            record,
            held: 0,
            bytes: 0,
            messages: 0,
            provider_ended: false,
            changed: HashMap::new(),
        };
        simulation.reserve();
        let (wall, now) = (simulation.wall(), simulation.now);
        simulation.meter.handle_ready(wall, now);
        simulation
    }

    /// Runs until the lease is over, at most `seconds`.
    pub(super) fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end && self.ending.is_none() {
            self.step();
        }
    }

    pub(super) fn ended(&self) -> &Ending {
        self.ending.as_ref().unwrap()
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        let moved = matches!(
            self.meter.gate(),
            ServiceGate::Open { .. } | ServiceGate::Throttled { .. }
        );
        if moved && !self.provider_ended {
            self.bytes += self.traffic / 20;
        }
        let elapsed = (self.now - self.started).as_secs();
        if let Some((second, cause)) = self.cheat.ends
            && elapsed >= second
            && !self.provider_ended
        {
            self.provider_ended = true;
            self.meter.handle_end(MeterCause::ProviderEnded, self.now);
            self.deliver(ProviderMessage::End(cause));
        }
        let (wall, now) = (self.wall(), self.now);
        let record = self.record.as_mut().filter(|_| moved);
        if let Some((traffic, root)) = record.and_then(|record| record.second(elapsed, wall, now)) {
            self.lease.handle_traffic(traffic);
            self.meter.handle_connections_root(root);
        }
        self.meter.handle_counters(self.bytes, self.bytes, self.now);
        self.meter.handle_timeout(self.now);
        self.drain_provider();
        self.lease.handle_counters(self.bytes, self.bytes, self.now);
        self.lease.handle_timeout(self.now);
        self.drain_requester();
    }

    fn wall(&self) -> UnixSeconds {
        NOW.after((self.now - self.started).as_secs())
    }

    /// A reservation for the whole lease, as an honest operator gives it, and renews it when asked.
    fn reserve(&mut self) {
        let capacity = Amount(self.lease.paid_before().0 + self.deal.budget.0);
        let reservation = Reservation {
            channel_id: self.deal.channel().id(),
            capacity,
            valid_until: self.wall().after(22 * 3_600),
        };
        let view = ChainView {
            operator: operator().address(),
            block_time: self.wall(),
            signer_valid_to: NOW.after(40 * 24 * 3_600),
            payable: capacity,
        };
        let signed = Signed::sign(reservation, &network().domain, &operator());
        self.meter
            .handle_reservation(&signed, &view, self.now)
            .unwrap();
        self.deliver(ProviderMessage::Reservation(signed));
    }

    fn lost(&mut self) -> bool {
        self.messages += 1;
        let mut seed = self.messages;
        self.loss != 0 && super::super::exit_check::next_random(&mut seed).is_multiple_of(self.loss)
    }

    pub(super) fn deliver(&mut self, message: ProviderMessage) {
        if !self.lost() {
            self.lease.handle_message(message, self.now);
            self.drain_requester();
        }
    }

    fn drain_provider(&mut self) {
        while let Some(event) = self.meter.poll_event() {
            match event {
                ProviderEvent::SignReceipt(mut receipt) => {
                    if let Some(change) = self.cheat.receipt {
                        let own = receipt.signing_hash(&network().domain);
                        change(&mut receipt);
                        let shown = receipt.signing_hash(&network().domain);
                        self.changed.insert(shown, own);
                    }
                    let signed = Signed::sign(receipt, &network().domain, &agent());
                    self.deliver(ProviderMessage::Receipt(signed));
                }
                ProviderEvent::StoreVoucher(voucher) => {
                    let cumulative = voucher.message.cumulative;
                    self.meter.handle_stored(cumulative, self.now);
                    let stored = self.cheat.stored.unwrap_or(cumulative);
                    self.deliver(ProviderMessage::Stored(stored));
                }
                ProviderEvent::Held { .. } => self.held += 1,
                ProviderEvent::RenewReservation { .. } => self.reserve(),
                ProviderEvent::Ended { cause, .. } => {
                    self.provider_ended = true;
                    let said = match cause {
                        MeterCause::TimeUp => EndCause::Completed,
                        MeterCause::BudgetSpent => EndCause::BudgetSpent,
                        MeterCause::PayerEnded => EndCause::RequesterEnded,
                        _ => EndCause::Unpaid,
                    };
                    self.deliver(ProviderMessage::End(said));
                }
                _ => {}
            }
        }
    }

    fn drain_requester(&mut self) {
        while let Some(event) = self.lease.poll_event() {
            match event {
                LeaseEvent::Store(state) => {
                    assert!(
                        state.cumulative() >= self.disk.cumulative(),
                        "an older voucher replaces a newer one"
                    );
                    self.disk = *state;
                }
                LeaseEvent::Send(message) => self.send(message),
                LeaseEvent::CheckExit => {
                    self.signed_before_check =
                        self.signed_before_check.max(self.lease.progress().vouchers);
                    self.checks += 1;
                    let seen = self.exit.map_or(ExitSeen::Nothing, ExitSeen::Address);
                    self.lease.handle_exit(seen, self.now);
                }
                LeaseEvent::Second(progress) => self.seconds.push(progress),
                LeaseEvent::Disputed(_) => self.disputes += 1,
                LeaseEvent::Ended(ending) => self.ending = Some(*ending),
                LeaseEvent::Connected { .. }
                | LeaseEvent::Serving
                | LeaseEvent::ExitProven(_)
                | LeaseEvent::Settled => {}
            }
        }
    }

    fn send(&mut self, message: PayerMessage) {
        if let PayerMessage::Voucher(voucher) = &message {
            let cumulative = voucher.message.cumulative;
            assert!(
                cumulative <= self.disk.cumulative(),
                "a voucher left before it was on disk"
            );
            assert!(
                cumulative.0 <= self.lease.paid_before().0 + self.deal.budget.0,
                "above the budget"
            );
        }
        if self.lost() {
            return;
        }
        match message {
            PayerMessage::Voucher(mut voucher) => {
                // A cheat's own books have the receipt as it was before.
                if let Some(own) = self.changed.get(&voucher.message.receipt_hash) {
                    voucher.message.receipt_hash = *own;
                    voucher = Signed::sign(voucher.message, &network().domain, &session());
                }
                self.meter.handle_voucher(voucher, self.now).unwrap();
            }
            PayerMessage::Echo(number) => {
                let elapsed = (self.now - self.started).as_secs();
                if self.cheat.deaf_after.is_none_or(|second| elapsed < second) {
                    self.deliver(ProviderMessage::Echo(number));
                }
            }
            PayerMessage::Connections(from) => {
                let shown = self.record.as_mut().filter(|record| !record.is_hidden());
                let pages =
                    shown.map_or_else(Vec::new, |record| record.unseen.pages(from, self.now));
                for page in pages {
                    self.deliver(ProviderMessage::Connections(page));
                }
            }
            PayerMessage::End(_) => self.meter.handle_end(MeterCause::PayerEnded, self.now),
        }
        self.drain_provider();
    }
}
