//! A provider with an honest broker, chain, disk and payer around it, in virtual time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipsx_market::deal::{Binding, Deal};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause, EndReport, Ready};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::request::Request;
use ipsx_metering::{
    Amount, ChainView, ChannelId, ChannelState, DealId, OfferId, PayerEvent, PayerMeter,
    ServiceProof, Signed, TypedData, UnixSeconds, Voucher,
};
use ipsx_tunnel_core::{Gate, Rates};

use super::fixture::*;
use crate::provider::{
    Command, KnownChannel, LeaseRecord, Now, PaymentPath, PeerAddresses, Provider, ProviderEvent,
    ROUND_TRIP, Restored, Settings, StoreVoucher,
};
use crate::requester::{self, Echoes};

/// What happens to the world around the provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of payment messages either way, in percent.
    pub(crate) loss: u32,
    /// Whether the payer answers.
    pub(crate) payer_pays: bool,
    /// Whether the broker renews reservations.
    pub(crate) broker_renews: bool,
    /// Whether the disk takes vouchers.
    pub(crate) disk_works: bool,
    /// Inner bytes each second, while the gate is open, up and down.
    pub(crate) traffic: (u64, u64),
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            loss: 0,
            payer_pays: true,
            broker_renews: true,
            disk_works: true,
            traffic: (0, 0),
        }
    }
}

pub(crate) struct World {
    pub(crate) provider: Provider,
    pub(crate) settings: Settings,
    pub(crate) now: Now,
    pub(crate) weather: Weather,
    pub(crate) offer: Option<OfferId>,
    pub(crate) accepted: Vec<Deal>,
    pub(crate) declined: Vec<String>,
    pub(crate) events: Vec<ProviderEvent>,
    pub(crate) sent: Vec<AgentMessage>,
    pub(crate) ended: HashMap<DealId, EndReport>,
    pub(crate) gates: HashMap<DealId, Gate>,
    pub(crate) open: HashMap<DealId, bool>,
    pub(crate) disk: Disk,
    pub(crate) payers: HashMap<DealId, Payer>,
    pub(crate) vouchers_sent: Vec<Signed<Voucher>>,
    pub(crate) claims: Vec<bool>,
    pub(crate) refused: Vec<&'static str>,
    /// Reflectors that are heard, and whether they are asked.
    pub(crate) reflectors: Vec<(SocketAddr, bool)>,
    pub(crate) punched: Vec<SocketAddr>,
    /// Relays that were joined, or left.
    pub(crate) relays: Vec<(SocketAddr, bool)>,
    /// Whether the broker hears what is sent.
    pub(crate) link: bool,
    /// What the payer's account covers on each channel.
    pub(crate) payable: u128,
    seed: u64,
}

/// What survives a kill.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) leases: HashMap<DealId, LeaseRecord>,
    pub(crate) finished: HashMap<DealId, EndReport>,
    pub(crate) channels: HashMap<ChannelId, StoreVoucher>,
}

pub(crate) struct Payer {
    pub(crate) meter: PayerMeter,
    echoes: Echoes,
    /// Tunnel counters.
    pub(crate) bytes: (u64, u64),
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::restored(settings, Restored::default(), start())
    }

    pub(crate) fn restored(settings: Settings, restored: Restored, now: Now) -> Self {
        let provider = Provider::new(settings.clone(), Box::new(TestKeys), restored);
        let mut world = Self {
            provider,
            settings,
            now,
            weather: Weather::default(),
            offer: None,
            accepted: Vec::new(),
            declined: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            ended: HashMap::new(),
            gates: HashMap::new(),
            open: HashMap::new(),
            disk: Disk::default(),
            payers: HashMap::new(),
            vouchers_sent: Vec::new(),
            claims: Vec::new(),
            refused: Vec::new(),
            reflectors: Vec::new(),
            punched: Vec::new(),
            relays: Vec::new(),
            link: true,
            payable: u128::MAX,
            seed: 1,
        };
        world.work();
        world
    }

    pub(crate) fn connect(&mut self, unfinished: &[DealId]) {
        self.connect_by(None, unfinished);
    }

    /// The same to a broker with this reflector.
    pub(crate) fn connect_by(&mut self, reflector: Option<SocketAddr>, unfinished: &[DealId]) {
        self.link = true;
        self.provider
            .handle_link_up(EXIT, reflector, unfinished, self.now);
        self.work();
    }

    pub(crate) fn disconnect(&mut self) {
        self.link = false;
        self.provider
            .handle_link_down("gone".into(), Duration::from_secs(1));
        self.work();
    }

    /// Proposes a deal; the result is the deal if the provider signed.
    pub(crate) fn propose(&mut self, request: Request) -> Option<Deal> {
        let offer = self.offer.expect("an offer is in the book");
        let terms = proposal(request, offer, self.now);
        let before = self.accepted.len();
        let message = BrokerMessage::Propose {
            proposal: 7,
            terms: Box::new(terms),
        };
        self.provider.handle_broker_message(message, self.now);
        self.work();
        self.accepted.get(before).cloned()
    }

    pub(crate) fn bind(&mut self, deal: &Deal, capacity: u128) {
        let valid_until = self.now.unix.after(20 * 3600);
        let message = BrokerMessage::DealBound {
            deal: Box::new(deal.clone()),
            requester_signature: requester().sign_hash(deal.signing_hash(&network().domain)),
            outcome: outcome(deal, Binding::Bound),
            reservation: reservation(deal, capacity, valid_until),
        };
        self.provider.handle_broker_message(message, self.now);
        self.work();
    }

    /// A deal from proposal to an open peer, with its payer at work.
    pub(crate) fn lease(&mut self, request: Request) -> Deal {
        let deal = self.propose(request).expect("the provider signs");
        self.bind(&deal, self.covering(&deal));
        deal
    }

    /// What an honest operator reserves at first.
    fn covering(&self, deal: &Deal) -> u128 {
        let known = self.disk.channels.get(&deal.channel().id());
        let paid = known.map_or(0, |stored| stored.voucher.message.cumulative.0);
        paid + deal.budget.0
    }

    /// Lets time pass in steps of 100 ms.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now.instant + time;
        while self.now.instant < until {
            self.step();
        }
    }

    /// Lets time pass until the lease has ended, at most `limit`.
    pub(crate) fn run_to_end(&mut self, deal: &Deal, limit: Duration) -> EndReport {
        let until = self.now.instant + limit;
        while !self.ended.contains_key(&deal.id()) {
            assert!(
                self.now.instant < until,
                "no end in {limit:?}: {:?}",
                self.events.last()
            );
            self.step();
        }
        self.ended[&deal.id()].clone()
    }

    pub(crate) fn step(&mut self) {
        self.now = self.now_after(Duration::from_millis(100));
        self.move_traffic();
        let open: Vec<DealId> = self.provider.open_leases().collect();
        for lease in open {
            let (up, down) = self.payers.get(&lease).map_or((0, 0), |payer| payer.bytes);
            self.provider.handle_counters(lease, up, down, self.now);
            self.work();
        }
        let due = self.provider.poll_timeout();
        if due.is_some_and(|at| at <= self.now.instant) {
            self.provider.handle_timeout(self.now);
            self.work();
            let next = self.provider.poll_timeout();
            assert!(
                next.is_none_or(|at| at > self.now.instant),
                "a timeout that is due again would never end"
            );
        }
        let paying: Vec<DealId> = self.payers.keys().copied().collect();
        for lease in paying {
            if let Some(payer) = self.payers.get_mut(&lease) {
                let (up, down) = payer.bytes;
                payer.meter.handle_counters(up, down, self.now.instant);
                payer.meter.handle_timeout(self.now.instant);
            }
            let echo = self
                .payers
                .get_mut(&lease)
                .and_then(|payer| payer.echoes.take_due(true, self.now.instant));
            if let Some(number) = echo.filter(|_| self.weather.payer_pays) {
                self.hear_payer(lease, PayerMessage::Echo(number));
            }
            self.pay(lease);
        }
        self.work();
    }

    /// Everything that the provider asks for.
    pub(crate) fn work(&mut self) {
        while let Some(command) = self.provider.poll_command() {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Send(message) => self.tell_broker(message),
            Command::PublishOffer(offer) => self.offer = Some(offer.id()),
            Command::AcceptDeal { deal, .. } => self.accepted.push(*deal),
            Command::ReadChain { lease, .. } => {
                let view = self.chain();
                self.provider.handle_chain(lease, Ok(view), self.now);
            }
            Command::OpenPeer { lease, record, .. } => {
                self.disk.leases.insert(lease, *record);
                self.open.insert(lease, true);
                self.provider.handle_peer(lease, Ok(addresses()), self.now);
            }
            Command::SetGate { lease, gate } => {
                self.gates.insert(lease, gate);
            }
            Command::ClosePeer { lease } => {
                self.open.insert(lease, false);
            }
            Command::Pay { lease, message, .. } => self.tell_payer(lease, message),
            Command::OpenFrame { .. } => {}
            Command::Store(store) => self.store(*store),
            Command::StoreEnd { lease, report, .. } => {
                self.disk.finished.insert(lease, *report);
            }
            Command::StoreMonth(_) => {}
            Command::Reflect { reflector, asks } => self.reflectors.push((reflector, asks)),
            Command::Punch { to } => self.punched.push(to),
            Command::JoinRelay { relay, .. } => self.relays.push((relay, true)),
            Command::LeaveRelay { relay } => self.relays.push((relay, false)),
            Command::Claim { urgent } => self.claims.push(urgent),
            Command::Tell(event) => self.events.push(event),
            Command::CountRefused(reason) => self.refused.push(reason),
        }
    }

    pub(crate) fn chain(&self) -> ChainView {
        ChainView {
            operator: operator().address(),
            block_time: self.now.unix,
            signer_valid_to: UnixSeconds::MAX,
            payable: Amount(self.payable),
        }
    }

    fn store(&mut self, store: StoreVoucher) {
        if !self.weather.disk_works {
            return;
        }
        let (lease, cumulative) = (store.lease, store.cumulative());
        let reservation = store
            .reservation
            .as_ref()
            .expect("no voucher is stored without cover");
        assert!(
            reservation
                .verify(&network().domain, operator().address())
                .is_ok()
        );
        let newer = self
            .disk
            .channels
            .get(&store.channel.id())
            .is_none_or(|old| old.cumulative() <= cumulative);
        assert!(newer, "an older voucher would replace a newer one");
        self.disk.channels.insert(store.channel.id(), store);
        self.provider.handle_stored(lease, cumulative, self.now);
    }

    fn tell_broker(&mut self, message: AgentMessage) {
        if !self.link {
            return;
        }
        self.sent.push(message.clone());
        match message {
            AgentMessage::DeclineDeal { reason, .. } => self.declined.push(reason),
            AgentMessage::LeaseReady { deal_id, ready } => self.start_payer(deal_id, &ready),
            AgentMessage::LeaseEnded { deal_id, report } => {
                self.ended.insert(deal_id, report);
                self.payers.remove(&deal_id);
            }
            AgentMessage::RenewReservation { deal_id, voucher } if self.weather.broker_renews => {
                let deal = self.accepted.iter().find(|deal| deal.id() == deal_id);
                let deal = deal.expect("only signed deals are renewed").clone();
                let capacity = voucher.message.cumulative.0 + deal.budget.0;
                let reservation = reservation(&deal, capacity, self.now.unix.after(20 * 3600));
                let message = BrokerMessage::ReservationRenewed {
                    deal_id,
                    reservation,
                };
                self.provider.handle_broker_message(message, self.now);
            }
            _ => {}
        }
    }

    fn start_payer(&mut self, deal_id: DealId, ready: &Ready) {
        if self.payers.contains_key(&deal_id) {
            return;
        }
        let deal = self.accepted.iter().find(|deal| deal.id() == deal_id);
        let deal = deal.expect("only signed deals are ready").clone();
        let state = ChannelState {
            voucher: ready.latest_voucher.clone(),
            ..ChannelState::default()
        };
        let mut meter = PayerMeter::new(
            deal.terms(),
            network().domain,
            state,
            ROUND_TRIP,
            ServiceProof::Echoes,
        )
        .expect("the terms can be metered");
        meter.handle_ready(self.now.instant);
        let payer = Payer {
            meter,
            echoes: Echoes::new(1, requester::PaymentPath::Tunnel, self.now.instant),
            bytes: (0, 0),
        };
        self.payers.insert(deal_id, payer);
    }

    fn move_traffic(&mut self) {
        let (up, down) = self.weather.traffic;
        for (lease, payer) in &mut self.payers {
            let open = !matches!(self.gates.get(lease), None | Some(Gate::Closed));
            let (rates, mut left) = match self.gates.get(lease) {
                Some(Gate::Limited(limits)) => {
                    let used = payer.bytes.0 + payer.bytes.1;
                    (limits.rates, limits.byte_limit.saturating_sub(used))
                }
                _ => (Rates::UNLIMITED, u64::MAX),
            };
            if open && self.weather.payer_pays {
                let moved_up = (up.min(rates.up) / 10).min(left);
                left -= moved_up;
                payer.bytes.0 += moved_up;
                payer.bytes.1 += (down.min(rates.down) / 10).min(left);
            }
        }
    }

    /// Signs and sends what the payer's meter asks for.
    fn pay(&mut self, lease: DealId) {
        while let Some(event) = self
            .payers
            .get_mut(&lease)
            .and_then(|p| p.meter.poll_event())
        {
            match event {
                PayerEvent::SignVoucher(order) => {
                    let signed = Signed::sign(
                        order.voucher(&network().domain),
                        &network().domain,
                        &payer_signer(),
                    );
                    if let Some(payer) = self.payers.get_mut(&lease) {
                        payer
                            .meter
                            .handle_signed(signed, self.now.instant)
                            .expect("it was ordered");
                    }
                }
                PayerEvent::SendVoucher(voucher) if self.weather.payer_pays => {
                    self.vouchers_sent.push(voucher.clone());
                    self.hear_payer(lease, PayerMessage::Voucher(voucher));
                }
                _ => {}
            }
        }
    }

    fn hear_payer(&mut self, lease: DealId, message: PayerMessage) {
        if self.lost() {
            return;
        }
        self.provider
            .handle_payment(lease, message, PaymentPath::Tunnel, self.now);
        self.work();
    }

    fn tell_payer(&mut self, lease: DealId, message: ProviderMessage) {
        if self.lost() || !self.weather.payer_pays {
            return;
        }
        let now = self.now.instant;
        let Some(payer) = self.payers.get_mut(&lease) else {
            return;
        };
        match message {
            ProviderMessage::Receipt(receipt) => {
                let (up, down) = payer.bytes;
                payer.meter.handle_counters(up, down, now);
                let _ = payer.meter.handle_receipt(receipt, now);
            }
            ProviderMessage::Echo(number) if payer.echoes.answered(number, now).is_some() => {
                payer.meter.handle_echo(now);
            }
            _ => {}
        }
    }

    fn lost(&mut self) -> bool {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) % 100) < u64::from(self.weather.loss)
    }

    fn now_after(&self, time: Duration) -> Now {
        let instant = self.now.instant + time;
        let elapsed = instant.duration_since(start_instant());
        Now {
            instant,
            unix: MONDAY.after(elapsed.as_secs()),
        }
    }

    /// Kills the program and starts it again on the same disk.
    pub(crate) fn restart(self) -> Self {
        let unfinished = self
            .disk
            .leases
            .iter()
            .filter(|(id, _)| !self.disk.finished.contains_key(*id));
        let restored = Restored {
            unfinished: unfinished.map(|(_, record)| record.clone()).collect(),
            channels: self
                .disk
                .channels
                .values()
                .map(|stored| KnownChannel {
                    channel: stored.channel.clone(),
                    state: stored.state.clone(),
                    claimed: Amount::ZERO,
                })
                .collect(),
            month: self.provider.month(),
        };
        let mut world = Self::restored(self.settings.clone(), restored, self.now);
        world.disk.channels = self.disk.channels;
        world.disk.leases = self.disk.leases;
        world.disk.finished.extend(self.disk.finished);
        world
    }

    /// Ends the lease as the requester does through the tunnel.
    pub(crate) fn end_by_payer(&mut self, deal: &Deal, cause: EndCause) {
        self.hear_payer(deal.id(), PayerMessage::End(cause));
    }
}

fn addresses() -> PeerAddresses {
    PeerAddresses {
        address_v4: Ipv4Addr::new(10, 64, 0, 2),
        address_v6: None,
        gateway: Ipv4Addr::new(10, 64, 0, 1),
        control_port: 7777,
        mtu: 1420,
    }
}
