//! An exit that ends every flow in an ordinary socket.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use ipsx_tunnel_core::{
    DropReason, ExitPolicy, PeerId, RuleProtocol,
    packet::{Content, Headers},
};
use mio::event::Event;

use super::{
    Context, Egress, Exit, ExitLimits, FlowKey, FlowLog,
    gateway::{Gateway, GatewayConfig},
    tcp::TcpFlows,
    udp::UdpFlows,
};
use crate::{engine::FIRST_FREE_TOKEN, error::TunnelError, sys, turns::TakeTurns};

/// Settings of a userspace exit.
#[derive(Debug, Clone)]
pub(crate) struct ExitConfig {
    pub(crate) gateway: GatewayConfig,
    pub(crate) limits: ExitLimits,
    /// Bytes that one connection may have under way to us.
    pub(crate) window: usize,
    /// Told of every flow.
    pub(crate) flow_log: FlowLog,
}

/// Ends the peers' TCP and UDP flows in sockets of this process.
pub(crate) struct UserspaceExit {
    gateway: Gateway,
    tcp: TcpFlows,
    udp: UdpFlows,
}

impl UserspaceExit {
    /// `waker` is woken when a name has been resolved.
    pub(crate) fn new(
        config: ExitConfig,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> Result<Self, TunnelError> {
        let limits = config.limits.within(sys::raise_file_limit());
        Ok(Self {
            gateway: Gateway::new(config.gateway, waker, now)?,
            tcp: TcpFlows::new(limits, config.window, config.flow_log.clone()),
            udp: UdpFlows::new(limits, config.flow_log),
        })
    }

    fn handle_tcp(
        &mut self,
        key: FlowKey,
        (opens, resets): (bool, bool),
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if self.gateway.has(key.destination.ip()) {
            return self.gateway.handle_tcp(key, (opens, resets), packet, cx);
        }
        if self.tcp.handle_segment(&key, opens, packet, cx) {
            return Ok(());
        }
        if !opens {
            if !resets {
                self.gateway.reset(key.peer, packet, cx);
            }
            return Err(DropReason::NoFlow);
        }
        self.gateway.permit(key, RuleProtocol::Tcp, packet, cx)?;
        self.tcp.open(key, packet, cx).map_err(|refusal| {
            match refusal.because {
                Some(because) => {
                    self.gateway
                        .unreachable(key.peer, packet, key.destination.ip(), because, cx)
                }
                None => self.gateway.reset(key.peer, packet, cx),
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
        if self.gateway.has(key.destination.ip()) {
            return self.gateway.handle_udp(key, payload, packet, cx);
        }
        if !self.udp.knows(&key) {
            self.gateway.permit(key, RuleProtocol::Udp, packet, cx)?;
            self.udp.open(key, cx)?;
        }
        self.udp.send(&key, payload, cx)
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
            Content::EchoRequest if self.gateway.has(headers.destination) => {
                self.gateway.handle_echo(packet, cx);
                Ok(())
            }
            Content::EchoRequest => {
                self.gateway
                    .permit_echo(peer, headers.destination, packet, cx)?;
                let message = &packet[headers.transport_start..headers.transport_end];
                self.udp
                    .echo(peer, headers.source, headers.destination, message, cx)
            }
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
        self.gateway.handle_timeout(cx.now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.tcp.poll_timeout(),
            self.udp.poll_timeout(),
            Some(self.gateway.poll_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        let mut more = self.gateway.service(cx);
        more |= self.udp.serve(cx);
        self.tcp.serve(cx) || more
    }

    fn add_peer(&mut self, peer: PeerId, egress: Egress, policy: Option<Arc<ExitPolicy>>) {
        self.gateway.add_peer(peer, policy);
        self.tcp.add_peer(peer, egress);
        self.udp.add_peer(peer, egress);
    }

    fn remove_peer(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        self.tcp.remove_peer(peer, cx);
        self.udp.remove_peer(peer, cx);
        self.gateway.remove_peer(peer, cx.now);
    }
}
