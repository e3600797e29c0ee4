//! An exit that gives the peers' packets to the kernel, which forwards and translates them.
//!
//! This part runs on the packet path: it decides by the policy, answers for the gateway, and moves packets between
//! the tunnel and a TUN interface. [`KernelNetwork`] is the other part: what the host has to be told.

mod conntrack;
mod error;
mod forwarding;
mod links;
mod network;
mod plan;
mod record;
mod rules;

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Instant,
};

use ipsx_tunnel_core::{
    DropReason, ExitPolicy, PeerId, RuleProtocol,
    packet::{Content, Headers},
};
use mio::{Registry, Token, event::Event};

use super::{
    Context, Egress, Exit, FlowKey, FlowLog,
    gateway::{Gateway, GatewayConfig},
};
use crate::{
    engine::FIRST_FREE_TOKEN,
    error::TunnelError,
    tun::{Stop, Tun},
};

pub use error::KernelExitError;
pub use network::clean_up;
pub(crate) use network::{KernelNetwork, OpenLease, reserve};
pub use plan::KernelExitConfig;

/// The first of the interface's tokens.
const TUN: Token = Token(FIRST_FREE_TOKEN);

/// Packets or super-packets read from the interface in one turn.
const READS_PER_TURN: usize = 64;

/// Lets peers' packets out through a TUN interface.
pub(crate) struct KernelExit {
    gateway: Gateway,
    /// Told of flows by [`KernelNetwork`]; here it says whether it could be told of another one.
    flow_log: FlowLog,
    tun: Tun,
    /// Called once if the interface is deleted.
    gone: Option<Box<dyn FnOnce() + Send>>,
}

impl KernelExit {
    /// Takes packets from and to `tun`. `waker` is woken when a name has been resolved; `gone` is called if somebody
    /// deletes the interface.
    pub(crate) fn new(
        mut tun: Tun,
        gateway: GatewayConfig,
        flow_log: FlowLog,
        registry: &Registry,
        waker: Arc<mio::Waker>,
        gone: impl FnOnce() + Send + 'static,
        now: Instant,
    ) -> Result<Self, TunnelError> {
        tun.register(registry, TUN).map_err(TunnelError::Start)?;
        Ok(Self {
            gateway: Gateway::new(gateway, waker, now)?,
            flow_log,
            tun,
            gone: Some(Box::new(gone)),
        })
    }

    /// Tells of every change of this host's own addresses.
    pub(crate) fn tell_changes(&mut self, changed: mpsc::Sender<()>) {
        self.gateway.tell_changes(changed);
    }

    /// Decides about a packet to somewhere else than the gateway.
    fn permit(
        &mut self,
        peer: PeerId,
        headers: &Headers,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let (protocol, source_port, destination_port) = match headers.content {
            Content::Tcp {
                source_port,
                destination_port,
                ..
            } => (RuleProtocol::Tcp, source_port, destination_port),
            Content::Udp {
                source_port,
                destination_port,
                ..
            } => (RuleProtocol::Udp, source_port, destination_port),
            Content::EchoRequest => {
                return self
                    .gateway
                    .permit_echo(peer, headers.destination, packet, cx);
            }
            _ => return Err(DropReason::UnsupportedProtocol),
        };
        let key = flow(peer, headers, source_port, destination_port);
        self.gateway.permit(key, protocol, packet, cx)
    }

    /// Answers for the gateway's own address.
    fn serve(
        &mut self,
        peer: PeerId,
        headers: &Headers,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        match headers.content {
            Content::Udp {
                source_port,
                destination_port,
                payload_start,
                payload_end,
            } => {
                let key = flow(peer, headers, source_port, destination_port);
                let payload = &packet[payload_start..payload_end];
                self.gateway.handle_udp(key, payload, packet, cx)
            }
            Content::EchoRequest => {
                self.gateway.handle_echo(packet, cx);
                Ok(())
            }
            Content::Tcp {
                source_port,
                destination_port,
                opens,
                resets,
            } => {
                let key = flow(peer, headers, source_port, destination_port);
                self.gateway.handle_tcp(key, (opens, resets), packet, cx)
            }
            _ => Err(DropReason::UnsupportedProtocol),
        }
    }

    /// Ends everything once the interface is gone: without it nothing gets out.
    fn judge(&mut self, result: Result<(), Stop>) {
        if result == Err(Stop::Gone)
            && let Some(gone) = self.gone.take()
        {
            tracing::error!(
                interface = self.tun.name(),
                "the exit's interface was deleted"
            );
            gone();
        }
    }
}

impl Exit for KernelExit {
    fn handle_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let headers = Headers::parse(packet)?;
        if self.gateway.has(headers.destination) {
            return self.serve(peer, &headers, packet, cx);
        }
        self.permit(peer, &headers, packet, cx)?;
        if !self.flow_log.has_room() {
            // Which packets open a flow only the kernel knows.
            return Err(DropReason::NotRecorded);
        }
        match self.tun.slot(packet.len()) {
            Ok(slot) => slot[..packet.len()].copy_from_slice(packet),
            Err(stop) => {
                self.judge(Err(stop));
                return Err(DropReason::SocketFailed);
            }
        }
        self.tun.keep(packet.len());
        Ok(())
    }

    fn handle_io(&mut self, event: &Event, _cx: &mut Context<'_>) {
        self.tun.take_event(event);
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.gateway.handle_timeout(cx.now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.gateway.poll_timeout())
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        let written = self.tun.flush();
        self.judge(written);
        let more = self.gateway.service(cx);
        for _ in 0..READS_PER_TURN {
            if !self.tun.is_readable() || cx.congested() {
                break;
            }
            let read = self.tun.read_into(cx.device, cx.now);
            self.judge(read);
        }
        self.tun.is_readable() || more
    }

    fn add_peer(&mut self, peer: PeerId, _egress: Egress, policy: Option<Arc<ExitPolicy>>) {
        // The kernel translates, and has been told.
        self.gateway.add_peer(peer, policy);
    }

    fn remove_peer(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        self.gateway.remove_peer(peer, cx.now);
    }
}

fn flow(peer: PeerId, headers: &Headers, source_port: u16, destination_port: u16) -> FlowKey {
    FlowKey {
        peer,
        source: SocketAddr::new(headers.source, source_port),
        destination: SocketAddr::new(headers.destination, destination_port),
    }
}
