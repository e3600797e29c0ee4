//! What every exit does the same: the services at the gateway's address, the policy, and how refusals are told.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    Bucket, DropReason, ExitPolicy, Matcher, PeerId, RuleProtocol,
    packet::{self, Unreachable},
};

use super::{Context, FlowKey, dns::Forwarder};
use crate::{error::TunnelError, sys};

/// How often the host's own addresses are looked up again.
const OWN_NETWORKS_PERIOD: Duration = Duration::from_secs(60);

/// ICMP errors and resets to one peer per second, and at once.
const REFUSALS: (u64, u64) = (100, 200);

/// Settings of a gateway.
#[derive(Debug, Clone)]
pub(crate) struct GatewayConfig {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) policy: ExitPolicy,
}

/// Answers what peers send to the gateway itself, and decides about what they send past it.
pub(super) struct Gateway {
    config: GatewayConfig,
    matcher: Matcher,
    dns: Forwarder,
    refusals: HashMap<PeerId, Bucket>,
    networks_due: Instant,
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
            matcher: config.policy.compile(&networks),
            dns: Forwarder::new(waker)?,
            refusals: HashMap::new(),
            networks_due: now + OWN_NETWORKS_PERIOD,
            reply: Vec::new(),
            config,
        })
    }

    /// Whether the address is the gateway's own.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.v4,
            IpAddr::V6(address) => self.config.v6 == Some(address),
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
        if key.destination.port() == 53 {
            return self.dns.handle_question(key, payload, cx);
        }
        let gateway = key.destination.ip();
        self.unreachable(key.peer, packet, gateway, Unreachable::Port, cx);
        Err(DropReason::NoFlow)
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
            .and_then(|()| self.matcher.check(protocol, key.destination));
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
        let allowed = unicast(destination).and_then(|()| self.matcher.check_echo(destination));
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
        match (address, self.config.v6) {
            (IpAddr::V6(_), Some(gateway)) => IpAddr::V6(gateway),
            _ => IpAddr::V4(self.config.v4),
        }
    }

    fn may_refuse(&mut self, peer: PeerId, now: Instant) -> bool {
        let (rate, burst) = REFUSALS;
        self.refusals
            .entry(peer)
            .or_insert_with(|| Bucket::new(rate, burst, now))
            .take(1, now)
    }

    /// Looks up the host's own addresses again when it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.networks_due > now {
            return;
        }
        self.networks_due = now + OWN_NETWORKS_PERIOD;
        match sys::own_networks() {
            Ok(networks) => self.matcher = self.config.policy.compile(&networks),
            Err(error) => {
                tracing::warn!(%error, "cannot list this host's addresses; keeping the last list");
            }
        }
    }

    /// When `handle_timeout` is wanted next.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.networks_due
    }

    /// Sends the answers of the resolver.
    pub(super) fn service(&mut self, cx: &mut Context<'_>) {
        self.dns.service(&self.matcher, cx);
    }

    /// Forgets a peer.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.dns.remove_peer(peer);
        self.refusals.remove(&peer);
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
