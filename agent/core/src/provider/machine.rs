//! The provider's state machine.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::messages::{BrokerMessage, EndCause, Ready};
use ipsx_market::payment::PayerMessage;
use ipsx_metering::{
    Amount, B256, ChainView, ChannelId, DealId, EndCause as MeterEnd, Signed, UnixSeconds,
};

use super::bound::check_outcome;
use super::channels::Channels;
use super::command::{Command, PaymentPath, Restored};
use super::ending::Ended;
use super::event::ProviderEvent;
use super::keys::ProviderKeys;
use super::lease::{Lease, Stage};
use super::month::MonthTraffic;
use super::offers::Offers;
use super::reaching::Reaching;
use super::settings::{Network, Now, Settings};
use super::shown::RecordedConnections;

/// The month's traffic is stored when it has grown by this much, and at the end of each lease.
const MONTH_STEP: u64 = 16 << 20;
/// What the shell found out about an open peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddresses {
    /// The requester's inner IPv4 address.
    pub address_v4: std::net::Ipv4Addr,
    /// The requester's inner IPv6 address, if the exit carries IPv6.
    pub address_v6: Option<std::net::Ipv6Addr>,
    /// The provider's inner address.
    pub gateway: std::net::Ipv4Addr,
    /// UDP port for payment messages at the gateway.
    pub control_port: u16,
    /// Largest inner packet, bytes.
    pub mtu: u16,
}

/// One provider on one network.
///
/// Tell it what happens with the `handle_*` methods; after each, carry out [`poll_command`](Self::poll_command)
/// until there is none, and call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
/// `now` must never go back.
pub struct Provider {
    pub(super) settings: Settings,
    pub(super) keys: Box<dyn ProviderKeys>,
    pub(super) offers: Offers,
    pub(super) channels: Channels,
    pub(super) leases: BTreeMap<DealId, Lease>,
    pub(super) ended: Ended,
    pub(super) month: MonthTraffic,
    pub(super) month_stored: u64,
    /// Address that the broker sees, while there is a link.
    pub(super) observed: Option<IpAddr>,
    pub(super) reaching: Reaching,
    pub(super) offered: bool,
    pub(super) offer_at: Option<Instant>,
    pub(super) claim_at: Option<Instant>,
    pub(super) shutting_down: bool,
    pub(super) commands: VecDeque<Command>,
}

impl Provider {
    /// A provider that goes on from what an earlier run left: its open leases end as restarted.
    pub fn new(settings: Settings, keys: Box<dyn ProviderKeys>, restored: Restored) -> Self {
        let mut provider = Self {
            settings,
            keys,
            offers: Offers::default(),
            channels: Channels::new(restored.channels),
            leases: BTreeMap::new(),
            ended: Ended::default(),
            month: restored.month,
            month_stored: restored.month.bytes,
            observed: None,
            reaching: Reaching::default(),
            offered: false,
            offer_at: None,
            claim_at: None,
            shutting_down: false,
            commands: VecDeque::new(),
        };
        for record in restored.unfinished {
            provider.end_restarted(record.deal);
        }
        provider
    }

    /// A link to the broker is up: both sides are proven. `reflector` is the broker's, if it has one.
    pub fn handle_link_up(
        &mut self,
        observed: IpAddr,
        reflector: Option<SocketAddr>,
        unfinished: &[DealId],
        now: Now,
    ) {
        self.observed = Some(observed);
        self.tell(ProviderEvent::Connected { observed });
        self.begin_reaching(observed, reflector);
        for deal_id in unfinished {
            self.account_for(*deal_id);
        }
        self.offered = false;
        self.offer(now);
    }

    /// The link is gone, and with it every answer that was on its way.
    pub fn handle_link_down(&mut self, reason: String, retry_in: Duration) {
        self.observed = None;
        self.offered = false;
        let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
        self.tell(ProviderEvent::Disconnected {
            reason,
            retry_in_ms,
        });
    }

    /// The broker says something.
    pub fn handle_broker_message(&mut self, message: BrokerMessage, now: Now) {
        match message {
            BrokerMessage::Propose { proposal, terms } => {
                self.handle_proposal(proposal, &terms, now)
            }
            BrokerMessage::DealBound {
                deal,
                requester_signature,
                outcome,
                reservation,
            } => {
                let id = deal.id();
                self.with_bound(id, now, |lease, network, commands| {
                    lease.handle_bound(
                        &deal,
                        requester_signature,
                        outcome,
                        reservation,
                        network,
                        commands,
                    )
                });
            }
            BrokerMessage::DealAborted { deal_id, outcome } => {
                self.handle_aborted(deal_id, &outcome)
            }
            BrokerMessage::ReservationRenewed {
                deal_id,
                reservation,
            } => {
                self.with_lease(deal_id, |lease, _, commands| {
                    lease.handle_renewed(reservation, commands);
                });
            }
            BrokerMessage::ReservationRefused { deal_id, reason } => {
                self.with_lease(deal_id, |lease, _, commands| {
                    lease.handle_not_renewed(&reason, commands);
                });
            }
            BrokerMessage::EndLease { deal_id, cause } => {
                self.with_lease(deal_id, |lease, network, commands| {
                    let cause = lease.requester_cause(cause);
                    lease.end(cause, MeterEnd::PayerEnded, now, commands);
                    lease.drain(network, now, commands);
                });
            }
            BrokerMessage::Reached { reachability } => self.handle_reached(reachability),
            BrokerMessage::Punch { deal_id, endpoint } => {
                let own = self.observed;
                self.with_lease(deal_id, |lease, _, commands| {
                    lease.handle_punch(endpoint, own, now, commands);
                });
            }
            BrokerMessage::Relay {
                deal_id,
                relay,
                token,
            } => {
                let own = self.observed;
                self.with_lease(deal_id, |lease, _, commands| {
                    lease.handle_relay(relay, token, own, commands);
                });
            }
            BrokerMessage::Forfeited { deal_id, voucher } => {
                self.with_lease(deal_id, |lease, network, commands| {
                    lease.handle_forfeited(voucher, network, now, commands);
                });
            }
            BrokerMessage::Frame { deal_id, sealed } => {
                if self.leases.contains_key(&deal_id) {
                    self.commands.push_back(Command::OpenFrame {
                        lease: deal_id,
                        sealed,
                    });
                }
            }
            about_the_offer => self.handle_offer_message(about_the_offer, now),
        }
    }

    /// What the chain says; answers [`Command::ReadChain`].
    pub fn handle_chain(&mut self, lease: DealId, view: Result<ChainView, String>, now: Now) {
        let Some(channel) = self.leases.get(&lease).map(|lease| lease.channel_id) else {
            return;
        };
        let state = self.channels.state(channel);
        self.with_lease(lease, |lease, network, commands| {
            lease.handle_chain(view, state, network, now, commands);
        });
    }

    /// The lease is stored and its peer open, or not; answers [`Command::OpenPeer`].
    pub fn handle_peer(&mut self, lease: DealId, peer: Result<PeerAddresses, String>, now: Now) {
        let endpoint = self.endpoint();
        let state = self
            .leases
            .get(&lease)
            .map(|lease| self.channels.state(lease.channel_id))
            .unwrap_or_default();
        let ready = peer.and_then(|peer| {
            let endpoint =
                endpoint.ok_or("no broker has said yet which address requesters can reach")?;
            Ok(Ready {
                endpoint,
                address_v4: peer.address_v4,
                address_v6: peer.address_v6,
                gateway: peer.gateway,
                control_port: peer.control_port,
                mtu: peer.mtu,
                latest_voucher: state.voucher,
                next_seq: state.next_seq,
            })
        });
        self.with_lease(lease, |lease, network, commands| match ready {
            Ok(ready) => lease.handle_ready(ready, network, now, commands),
            Err(reason) => {
                let text = format!("lease {}: its peer can't be opened: {reason}", lease.id);
                commands.push(Command::Tell(ProviderEvent::Warning { text }));
                lease.end(
                    EndCause::ProviderEnded,
                    MeterEnd::ProviderEnded,
                    now,
                    commands,
                );
            }
        });
    }

    /// The payer of a lease says something, by this path.
    pub fn handle_payment(
        &mut self,
        lease: DealId,
        message: PayerMessage,
        path: PaymentPath,
        now: Now,
    ) {
        self.with_lease(lease, |lease, network, commands| {
            lease.handle_payment(message, path, network, now, commands);
        });
    }

    /// The tunnel's totals of a lease, since its peer was opened. Ten times a second.
    pub fn handle_counters(&mut self, lease: DealId, bytes_up: u64, bytes_down: u64, now: Now) {
        let grown = self.with_lease(lease, |lease, network, commands| {
            lease.handle_counters(bytes_up, bytes_down, network, now, commands)
        });
        if let Some(grown) = grown.filter(|grown| *grown > 0) {
            self.month.add(grown, now.unix);
            self.store_month(MONTH_STEP);
            if self.month_left(now.unix) == 0 {
                self.end_all(EndCause::ProviderEnded, now);
                self.withdraw("this month's traffic is used up", now);
            }
        }
    }

    /// A voucher is on disk; answers [`Command::Store`].
    pub fn handle_stored(&mut self, lease: DealId, cumulative: Amount, now: Now) {
        self.with_lease(lease, |lease, network, commands| {
            lease.handle_stored(cumulative, network, now, commands);
        });
        self.check_exposure(lease, now);
    }

    /// The chain's latest block has this time. Once a minute while leases run.
    pub fn handle_block_time(&mut self, time: UnixSeconds, now: Now) {
        let ids: Vec<DealId> = self.leases.keys().copied().collect();
        for id in ids {
            self.with_lease(id, |lease, network, commands| {
                lease.handle_block_time(time, network, now, commands);
            });
        }
    }

    /// More of a lease's connection record is on disk; its receipts name the new root from now on.
    pub fn handle_connections(&mut self, lease: DealId, recorded: RecordedConnections) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.handle_connections(recorded);
        }
    }

    /// The exit has another policy from now on. What is offered by the one before is taken back and offered by this;
    /// deals that are signed keep theirs.
    pub fn handle_policy(&mut self, policy_hash: B256, now: Now) {
        self.settings.policy_hash = policy_hash;
        self.tell(ProviderEvent::PolicyChanged { policy_hash });
        self.offers.clear();
        self.offered = false;
        self.offer(now);
    }

    /// The chain has paid this channel so much in all.
    pub fn handle_claimed(&mut self, channel: ChannelId, claimed: Amount) {
        self.channels.claimed(channel, claimed);
    }

    /// Somebody wants the program to end: leases end, nothing new starts. Done when [`Self::is_idle`].
    pub fn handle_shutdown(&mut self, now: Now) {
        self.shutting_down = true;
        self.withdraw("this provider is shutting down", now);
        self.end_all(EndCause::ProviderEnded, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let ids: Vec<DealId> = self.leases.keys().copied().collect();
        for id in ids {
            self.with_lease(id, |lease, network, commands| {
                lease.handle_timeout(network, now, commands);
            });
        }
        if self.offer_at.is_some_and(|at| at <= now.instant) {
            self.offered = false;
            self.offer(now);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leases = self.leases.values().filter_map(Lease::poll_timeout);
        leases.chain(self.offer_at).min()
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether no lease is open or about to be.
    pub fn is_idle(&self) -> bool {
        self.leases.is_empty()
    }

    /// Leases with an open peer, whose counters are wanted.
    pub fn open_leases(&self) -> impl Iterator<Item = DealId> + '_ {
        let open = |lease: &&Lease| matches!(lease.stage, Stage::Ready | Stage::Serving);
        self.leases.values().filter(open).map(|lease| lease.id)
    }

    /// How many leases hold capacity.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// The month's traffic.
    pub fn month(&self) -> MonthTraffic {
        self.month
    }

    /// Vouchers that the chain has not paid.
    pub fn unclaimed(&self) -> Amount {
        self.channels.unclaimed()
    }

    /// What is in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Hands a bound deal to its lease; a deal that is not this provider's is given back at once.
    fn with_bound(
        &mut self,
        id: DealId,
        now: Now,
        bind: impl FnOnce(&mut Lease, &Network, &mut Vec<Command>) -> Result<(), super::bound::NotBound>,
    ) {
        match self.leases.get(&id).map(|lease| &lease.stage) {
            None => self.account_for(id),
            Some(Stage::Signed) => {
                self.with_lease(id, |lease, network, commands| {
                    if let Err(fault) = bind(lease, network, commands) {
                        let text = format!("lease {id}: not bound: {fault}. Nothing was opened");
                        commands.push(Command::Tell(ProviderEvent::Warning { text }));
                        lease.end(EndCause::Misbehaved, MeterEnd::OperatorEnded, now, commands);
                    }
                });
            }
            // Told again after a new connection.
            Some(_) => self.account_for(id),
        }
    }

    fn handle_aborted(&mut self, deal_id: DealId, outcome: &Signed<Outcome>) {
        let waits = self
            .leases
            .get(&deal_id)
            .is_some_and(|lease| matches!(lease.stage, Stage::Signed));
        let network = &self.settings.network;
        if waits && check_outcome(deal_id, Binding::Aborted, outcome, network).is_ok() {
            self.leases.remove(&deal_id);
            self.tell(ProviderEvent::DealAborted { deal_id });
        }
    }

    pub(super) fn end_all(&mut self, cause: EndCause, now: Now) {
        let ids: Vec<DealId> = self.leases.keys().copied().collect();
        for id in ids {
            self.with_lease(id, |lease, network, commands| {
                lease.end(cause, MeterEnd::ProviderEnded, now, commands);
                lease.drain(network, now, commands);
            });
        }
    }

    /// Lets a lease do something, then takes over what it asks for and how far its channel has come.
    pub(super) fn with_lease<T>(
        &mut self,
        id: DealId,
        act: impl FnOnce(&mut Lease, &Network, &mut Vec<Command>) -> T,
    ) -> Option<T> {
        let lease = self.leases.get_mut(&id)?;
        let mut commands = Vec::new();
        let result = act(lease, &self.settings.network, &mut commands);
        if let Some(state) = lease.meter.as_ref().map(|meter| meter.state()) {
            self.channels
                .update(lease.channel_id, &lease.channel, state);
        }
        self.commands.extend(commands);
        if let Stage::Gone { report } = &lease.stage {
            let report = report.as_ref().clone();
            let deal = lease.deal.clone();
            self.leases.remove(&id);
            self.handle_gone(id, report, deal);
            self.store_month(1);
            self.commands.push_back(Command::Claim { urgent: false });
        }
        Some(result)
    }

    pub(super) fn tell(&mut self, event: ProviderEvent) {
        self.commands.push_back(Command::Tell(event));
    }
}
