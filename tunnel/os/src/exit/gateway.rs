//! What every exit does the same: the services at the gateway's address, the policy, and how refusals are told.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    Bucket, DropReason, ExitPolicy, IpNet, Matcher, PeerId, RuleProtocol,
    packet::{self, Unreachable},
};

use super::{
    Context, FlowKey,
    dns::{self, Answer, Connections, Forwarder, Way},
};
use crate::{error::TunnelError, sys, turns::TakeTurns};

/// How often the host's own addresses are looked up again.
const OWN_NETWORKS_PERIOD: Duration = Duration::from_secs(5);

/// ICMP errors and resets to one peer per second, and at once.
const REFUSALS: (u64, u64) = (100, 200);

/// Settings of a gateway.
#[derive(Debug, Clone)]
pub(crate) struct GatewayConfig {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Option<Ipv6Addr>,
    /// What holds for peers that bring none of their own.
    pub(crate) policy: ExitPolicy,
}

/// Answers what peers send to the gateway itself, and decides about what they send past it.
pub(super) struct Gateway {
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
    matchers: Matchers,
    dns: Forwarder,
    connections: Connections,
    refusals: HashMap<PeerId, Bucket>,
    networks_due: Instant,
    /// Told when the host's own addresses have changed.
    networks_changed: Option<mpsc::Sender<()>>,
    reply: Vec<u8>,
}

impl Gateway {
    /// `waker` is woken when a name has been resolved.
    pub(super) fn new(
        config: GatewayConfig,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> Result<Self, TunnelError> {
        let networks = sys::own_networks().map_err(TunnelError::Start)?;
        Ok(Self {
            v4: config.v4,
            v6: config.v6,
            matchers: Matchers {
                usual: config.policy.compile(&networks),
                own: HashMap::new(),
                networks,
            },
            dns: Forwarder::new(waker)?,
            connections: Connections::new(),
            refusals: HashMap::new(),
            networks_due: now + OWN_NETWORKS_PERIOD,
            networks_changed: None,
            reply: Vec::new(),
        })
    }

    /// Tells of every change of the host's own addresses.
    #[cfg(target_os = "linux")]
    pub(super) fn tell_changes(&mut self, changed: mpsc::Sender<()>) {
        self.networks_changed = Some(changed);
    }

    /// Whether the address is the gateway's own.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.v4,
            IpAddr::V6(address) => self.v6 == Some(address),
        }
    }

    /// Takes a datagram to the gateway: a question for the resolver, or nothing that anybody listens for.
    pub(super) fn handle_udp(
        &mut self,
        key: FlowKey,
        payload: &[u8],
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if key.destination.port() == dns::PORT {
            return self.ask(Way::Datagram(key), payload, cx);
        }
        let gateway = key.destination.ip();
        self.unreachable(key.peer, packet, gateway, Unreachable::Port, cx);
        Err(DropReason::NoFlow)
    }

    /// Takes a segment to the gateway: of a connection to the resolver, or to nothing that anybody listens for.
    pub(super) fn handle_tcp(
        &mut self,
        key: FlowKey,
        (opens, resets): (bool, bool),
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let taken = if key.destination.port() == dns::PORT {
            self.connections.handle_segment(key, opens, packet, cx)
        } else {
            Err(DropReason::NoFlow)
        };
        if taken.is_err() && !resets {
            self.reset(key.peer, packet, cx);
        }
        taken
    }

    fn ask(&mut self, way: Way, payload: &[u8], cx: &mut Context<'_>) -> Result<(), DropReason> {
        let matcher = self.matchers.of(way.peer());
        if let Some(answer) = self.dns.ask(way, payload, matcher)? {
            self.answer(answer, cx);
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer, cx: &mut Context<'_>) {
        if let Some(reason) = answer.dropped {
            cx.drops.add(reason);
        }
        let way = answer.way;
        match (way, answer.encode()) {
            (Way::Datagram(key), Some(bytes)) => {
                if packet::udp(&mut self.reply, key.destination, key.source, &bytes) {
                    cx.send(&self.reply);
                }
            }
            (Way::Connection(key, number), Some(bytes)) => {
                self.connections.answer(key, number, &bytes);
            }
            (Way::Connection(key, number), None) => self.connections.abort(key, number),
            (Way::Datagram(_), None) => {}
        }
    }

    /// Answers an echo request to the gateway.
    pub(super) fn handle_echo(&mut self, packet: &[u8], cx: &mut Context<'_>) {
        if packet::echo_reply(&mut self.reply, packet) {
            cx.send(&self.reply);
        }
    }

    /// Asks the policy about a flow, and tells the peer of a refusal.
    pub(super) fn permit(
        &mut self,
        key: FlowKey,
        protocol: RuleProtocol,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let allowed = unicast(key.destination.ip())
            .and_then(|()| self.matchers.of(key.peer).check(protocol, key.destination));
        self.tell(allowed, key.peer, key.destination, packet, cx)
    }

    /// Asks the policy about an echo request to somewhere else, and tells the peer of a refusal.
    pub(super) fn permit_echo(
        &mut self,
        peer: PeerId,
        destination: IpAddr,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let allowed =
            unicast(destination).and_then(|()| self.matchers.of(peer).check_echo(destination));
        self.tell(allowed, peer, SocketAddr::new(destination, 0), packet, cx)
    }

    fn tell(
        &mut self,
        allowed: Result<(), DropReason>,
        peer: PeerId,
        destination: SocketAddr,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if let Err(reason) = allowed {
            tracing::debug!(%peer, %destination, %reason, "flow refused");
            self.unreachable(peer, packet, destination.ip(), Unreachable::Prohibited, cx);
        }
        allowed
    }

    /// Tells a peer that a packet did not get through, as if `from` said so.
    pub(super) fn unreachable(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        from: IpAddr,
        reason: Unreachable,
        cx: &mut Context<'_>,
    ) {
        // An error can't come from an address that is no host's.
        let from = if unicast(from).is_ok() {
            from
        } else {
            self.like(from)
        };
        if self.may_refuse(peer, cx.now)
            && packet::unreachable(&mut self.reply, packet, from, reason)
        {
            cx.send(&self.reply);
        }
    }

    /// Answers a TCP segment of no flow.
    pub(super) fn reset(&mut self, peer: PeerId, packet: &[u8], cx: &mut Context<'_>) {
        if self.may_refuse(peer, cx.now) && packet::tcp_reset(&mut self.reply, packet) {
            cx.send(&self.reply);
        }
    }

    /// The gateway's address of the same family.
    fn like(&self, address: IpAddr) -> IpAddr {
        match (address, self.v6) {
            (IpAddr::V6(_), Some(gateway)) => IpAddr::V6(gateway),
            _ => IpAddr::V4(self.v4),
        }
    }

    fn may_refuse(&mut self, peer: PeerId, now: Instant) -> bool {
        let (rate, burst) = REFUSALS;
        self.refusals
            .entry(peer)
            .or_insert_with(|| Bucket::new(rate, burst, now))
            .take(1, now)
    }

    /// Looks after connections, and after the host's own addresses when it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.connections.handle_timeout(now);
        if self.networks_due > now {
            return;
        }
        self.networks_due = now + OWN_NETWORKS_PERIOD;
        match sys::own_networks() {
            Ok(networks) if networks == self.matchers.networks => {}
            Ok(networks) => {
                self.matchers.follow(networks);
                if let Some(changed) = &self.networks_changed {
                    // Who was to be told ends before the exit only when everything ends.
                    let _ = changed.send(());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list this host's addresses; keeping the last list");
            }
        }
    }

    /// When `handle_timeout` is wanted next.
    pub(super) fn poll_timeout(&self) -> Instant {
        let connections = self.connections.poll_timeout();
        connections.map_or(self.networks_due, |at| at.min(self.networks_due))
    }

    /// Moves questions and answers on by a bounded amount; true if some could go on at once.
    pub(super) fn service(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(answer) = self.dns.poll_answer(|peer| self.matchers.of(peer)) {
            self.answer(answer, cx);
        }
        let more = self.connections.serve(cx);
        let mut asked = false;
        while let Some(question) = self.connections.poll_question() {
            asked = true;
            let (key, number) = (question.key, question.number);
            if let Err(reason) = self.ask(Way::Connection(key, number), &question.message, cx) {
                cx.drops.add(reason);
                self.connections.abort(key, number);
            }
        }
        // What was answered at once waits to be sent.
        more || asked
    }

    /// Takes a new peer, and what holds for it if that is not the usual policy.
    pub(super) fn add_peer(&mut self, peer: PeerId, policy: Option<Arc<ExitPolicy>>) {
        self.matchers.add(peer, policy);
    }

    /// Forgets a peer.
    pub(super) fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.matchers.own.remove(&peer);
        self.dns.remove_peer(peer);
        self.connections.remove_peer(peer, now);
        self.refusals.remove(&peer);
    }
}

/// What holds for each peer: a policy stays with the peers that came under it.
struct Matchers {
    usual: Matcher,
    own: HashMap<PeerId, Matcher>,
    networks: Vec<IpNet>,
}

impl Matchers {
    fn of(&self, peer: PeerId) -> &Matcher {
        self.own.get(&peer).unwrap_or(&self.usual)
    }

    fn add(&mut self, peer: PeerId, policy: Option<Arc<ExitPolicy>>) {
        if let Some(policy) = policy.filter(|policy| **policy != *self.usual.policy()) {
            self.own.insert(peer, policy.compile(&self.networks));
        }
    }

    /// Takes this host's new networks.
    fn follow(&mut self, networks: Vec<IpNet>) {
        for matcher in self.own.values_mut().chain([&mut self.usual]) {
            *matcher = matcher.policy().compile(&networks);
        }
        self.networks = networks;
    }
}

/// Refuses addresses that no single host has, even if a rule names them: there is nothing to connect to.
fn unicast(address: IpAddr) -> Result<(), DropReason> {
    if address.is_unspecified() {
        return Err(DropReason::Unspecified);
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Err(DropReason::Broadcast),
        _ if address.is_multicast() => Err(DropReason::Multicast),
        _ => Ok(()),
    }
}
