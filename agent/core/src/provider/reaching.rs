//! Where requesters reach the WireGuard endpoint: at the address that the broker sees, or behind a NAT at what the reflector
//! sees of it.

use std::net::{IpAddr, SocketAddr};

use ipsx_market::messages::AgentMessage;
use ipsx_market::place::Reachability;
use ipsx_metering::DealId;
use ipsx_tunnel_core::{Reflected, is_public};

use super::command::Command;
use super::event::ProviderEvent;
use super::machine::Provider;
use super::settings::EndpointHint;

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct Reaching {
    /// Address that the broker saw last.
    seen: Option<IpAddr>,
    reflector: Option<SocketAddr>,
    /// As the reflector sees it, while it is asked.
    mapped: Option<SocketAddr>,
    asks: bool,
    /// What the broker found out last.
    found: Option<Reachability>,
    /// What people were told last.
    told: Option<(SocketAddr, Option<Reachability>)>,
}

impl Provider {
    /// The reflector, or whoever tries the endpoint from its address, was heard at the WireGuard socket.
    pub fn handle_reflected(&mut self, reflected: Reflected) {
        match reflected {
            Reflected::Token(token) => {
                let message = AgentMessage::Token { token };
                self.commands.push_back(Command::Send(message));
            }
            Reflected::Mapped(mapped) if self.reaching.asks => {
                if self.reaching.mapped.replace(mapped) != Some(mapped) {
                    self.name_endpoint();
                    self.tell_reached();
                }
            }
            // The answer to the last question.
            Reflected::Mapped(_) => {}
        }
    }

    /// There is a broker, which may be another one than before.
    pub(super) fn begin_reaching(&mut self, observed: IpAddr, reflector: Option<SocketAddr>) {
        self.reaching.seen = Some(observed);
        self.reaching.reflector = reflector;
        // A mapping that new leases need is kept; else the broker tries the endpoint before anything leaves from it.
        self.reflect(self.reaching.mapped.is_some());
        self.name_endpoint();
    }

    /// The broker has tried the endpoint.
    pub(super) fn handle_reached(&mut self, reachability: Option<Reachability>) {
        let direct = reachability == Some(Reachability::Direct);
        // An endpoint elsewhere, as it is advertised, is not what a NAT shows of this one.
        let own = self.own_endpoint().map(|endpoint| endpoint.ip());
        let asks = !direct && own == self.reaching.seen;
        if asks != self.reaching.asks {
            self.reflect(asks);
        }
        if direct && self.reaching.mapped.take().is_some() {
            self.name_endpoint();
        }
        self.reaching.found = reachability;
        self.tell_reached();
    }

    /// Tells people, once it is known what there is to tell.
    fn tell_reached(&mut self) {
        let Reaching {
            found,
            asks,
            mapped,
            ..
        } = self.reaching;
        let Some(endpoint) = self.endpoint().filter(|_| !asks || mapped.is_some()) else {
            return;
        };
        if self.reaching.told.replace((endpoint, found)) != Some((endpoint, found)) {
            self.tell(ProviderEvent::Reached {
                endpoint,
                reachability: found,
            });
        }
    }

    /// What requesters are told.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.reaching.mapped.or_else(|| self.own_endpoint())
    }

    /// The endpoint, if there is no NAT before it.
    fn own_endpoint(&self) -> Option<SocketAddr> {
        match self.settings.endpoint {
            EndpointHint::Advertised(endpoint) => Some(endpoint),
            EndpointHint::Listening(at) => {
                let seen = self.reaching.seen;
                let translated = seen.is_some_and(is_public) && !is_public(at.ip());
                match at.ip().is_unspecified() || translated {
                    true => Some(SocketAddr::new(seen?, at.port())),
                    false => Some(at),
                }
            }
        }
    }

    fn reflect(&mut self, asks: bool) {
        if let Some(reflector) = self.reaching.reflector {
            self.reaching.asks = asks;
            self.commands
                .push_back(Command::Reflect { reflector, asks });
        }
    }

    /// Tells the broker, and those who have not come yet.
    fn name_endpoint(&mut self) {
        let (Some(_), Some(endpoint)) = (self.reaching.reflector, self.own_endpoint()) else {
            return;
        };
        let mapped = self.reaching.mapped;
        self.commands
            .push_back(Command::Send(AgentMessage::Endpoint { endpoint, mapped }));
        let reached = mapped.unwrap_or(endpoint);
        let ids: Vec<DealId> = self.leases.keys().copied().collect();
        for id in ids {
            self.with_lease(id, |lease, _, commands| {
                lease.handle_endpoint(reached, commands);
            });
        }
    }
}
