//! An exit that ends every flow in an ordinary socket.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    Bucket, DropReason, ExitPolicy, Matcher, PeerId, RuleProtocol,
    packet::{self, Content, Headers, Unreachable},
};
use mio::event::Event;

use super::{
    Context, Egress, Exit, ExitLimits, FlowKey, dns::Forwarder, tcp::TcpFlows, udp::UdpFlows,
};
use crate::{engine::FIRST_FREE_TOKEN, error::TunnelError, sys};

/// How often the host's own addresses are looked up again.
const OWN_NETWORKS_PERIOD: Duration = Duration::from_secs(60);

/// ICMP errors and resets to one peer per second, and at once.
const REFUSALS: (u64, u64) = (100, 200);

/// Settings of a userspace exit.
#[derive(Debug, Clone)]
pub(crate) struct ExitConfig {
    pub(crate) egress: Egress,
    pub(crate) gateway_v4: Ipv4Addr,
    pub(crate) gateway_v6: Option<Ipv6Addr>,
    pub(crate) policy: ExitPolicy,
    pub(crate) limits: ExitLimits,
    /// Bytes that one connection may have under way to us.
    pub(crate) window: usize,
}

/// Ends the peers' TCP and UDP flows in sockets of this process, answers their DNS questions and echoes.
pub(crate) struct UserspaceExit {
    config: ExitConfig,
    matcher: Matcher,
    tcp: TcpFlows,
    udp: UdpFlows,
    dns: Forwarder,
    refusals: HashMap<PeerId, Bucket>,
    networks_due: Instant,
    reply: Vec<u8>,
}

impl UserspaceExit {
    /// `waker` is woken when a name has been resolved.
    pub(crate) fn new(
        config: ExitConfig,
        waker: std::sync::Arc<mio::Waker>,
        now: Instant,
    ) -> Result<Self, TunnelError> {
        let networks = sys::own_networks().map_err(TunnelError::Start)?;
        let limits = config.limits.within(sys::raise_file_limit());
        Ok(Self {
            matcher: config.policy.compile(&networks),
            tcp: TcpFlows::new(config.egress, limits, config.window),
            udp: UdpFlows::new(config.egress, limits),
            dns: Forwarder::new(waker)?,
            refusals: HashMap::new(),
            networks_due: now + OWN_NETWORKS_PERIOD,
            reply: Vec::new(),
            config,
        })
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.gateway_v4,
            IpAddr::V6(address) => self.config.gateway_v6 == Some(address),
        }
    }

    fn handle_tcp(
        &mut self,
        key: FlowKey,
        (opens, resets): (bool, bool),
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if self.tcp.handle_segment(&key, opens, packet, cx) {
            return Ok(());
        }
        if !opens || self.is_gateway(key.destination.ip()) {
            if !resets {
                self.reset(key.peer, packet, cx);
            }
            return Err(DropReason::NoFlow);
        }
        self.permit(key, RuleProtocol::Tcp, packet, cx)?;
        self.tcp.open(key, packet, cx).map_err(|refusal| {
            match refusal.because {
                Some(because) => {
                    self.unreachable(key.peer, packet, key.destination.ip(), because, cx)
                }
                None => self.reset(key.peer, packet, cx),
            }
            refusal.reason
        })
    }

    fn handle_udp(
        &mut self,
        key: FlowKey,
        payload: &[u8],
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if self.is_gateway(key.destination.ip()) {
            if key.destination.port() == 53 {
                return self.dns.handle_question(key, payload, cx);
            }
            self.unreachable(
                key.peer,
                packet,
                key.destination.ip(),
                Unreachable::Port,
                cx,
            );
            return Err(DropReason::NoFlow);
        }
        if !self.udp.knows(&key) {
            self.permit(key, RuleProtocol::Udp, packet, cx)?;
            self.udp.open(key, cx)?;
        }
        self.udp.send(&key, payload, cx)
    }

    /// Asks the policy, and tells the peer of a refusal.
    fn permit(
        &mut self,
        key: FlowKey,
        protocol: RuleProtocol,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let allowed = unicast(key.destination.ip())
            .and_then(|()| self.matcher.check(protocol, key.destination));
        if let Err(reason) = allowed {
            tracing::debug!(peer = %key.peer, destination = %key.destination, %reason, "flow refused");
            self.unreachable(
                key.peer,
                packet,
                key.destination.ip(),
                Unreachable::Prohibited,
                cx,
            );
        }
        allowed
    }

    fn unreachable(
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
            self.gateway_like(from)
        };
        if self.may_refuse(peer, cx.now)
            && packet::unreachable(&mut self.reply, packet, from, reason)
        {
            cx.send(&self.reply);
        }
    }

    fn reset(&mut self, peer: PeerId, packet: &[u8], cx: &mut Context<'_>) {
        if self.may_refuse(peer, cx.now) && packet::tcp_reset(&mut self.reply, packet) {
            cx.send(&self.reply);
        }
    }

    fn gateway_like(&self, address: IpAddr) -> IpAddr {
        match (address, self.config.gateway_v6) {
            (IpAddr::V6(_), Some(gateway)) => IpAddr::V6(gateway),
            _ => IpAddr::V4(self.config.gateway_v4),
        }
    }

    fn may_refuse(&mut self, peer: PeerId, now: Instant) -> bool {
        let (rate, burst) = REFUSALS;
        self.refusals
            .entry(peer)
            .or_insert_with(|| Bucket::new(rate, burst, now))
            .take(1, now)
    }
}

impl Exit for UserspaceExit {
    fn handle_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let headers = Headers::parse(packet)?;
        let key = |source_port, destination_port| FlowKey {
            peer,
            source: SocketAddr::new(headers.source, source_port),
            destination: SocketAddr::new(headers.destination, destination_port),
        };
        match headers.content {
            Content::Tcp {
                source_port,
                destination_port,
                opens,
                resets,
            } => self.handle_tcp(
                key(source_port, destination_port),
                (opens, resets),
                packet,
                cx,
            ),
            Content::Udp {
                source_port,
                destination_port,
                payload_start,
                payload_end,
            } => self.handle_udp(
                key(source_port, destination_port),
                &packet[payload_start..payload_end],
                packet,
                cx,
            ),
            Content::EchoRequest if self.is_gateway(headers.destination) => {
                if packet::echo_reply(&mut self.reply, packet) {
                    cx.send(&self.reply);
                }
                Ok(())
            }
            Content::EchoRequest => Err(DropReason::EchoOutside),
            _ => Err(DropReason::UnsupportedProtocol),
        }
    }

    fn handle_io(&mut self, event: &Event, cx: &mut Context<'_>) {
        let token = event.token().0 - FIRST_FREE_TOKEN;
        if token.is_multiple_of(2) {
            self.tcp.handle_io(token / 2, event, cx);
        } else {
            self.udp.handle_io(token / 2, event, cx);
        }
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.tcp.handle_timeout(cx);
        self.udp.handle_timeout(cx);
        if self.networks_due <= cx.now {
            self.networks_due = cx.now + OWN_NETWORKS_PERIOD;
            match sys::own_networks() {
                Ok(networks) => self.matcher = self.config.policy.compile(&networks),
                Err(error) => {
                    tracing::warn!(%error, "cannot list this host's addresses; keeping the last list")
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.tcp.poll_timeout(),
            self.udp.poll_timeout(),
            Some(self.networks_due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        self.dns.service(&self.matcher, cx);
        let more = self.udp.service(cx);
        self.tcp.service(cx) || more
    }

    fn remove_peer(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        self.tcp.remove_peer(peer, cx);
        self.udp.remove_peer(peer, cx);
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
