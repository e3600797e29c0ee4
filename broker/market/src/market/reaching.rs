//! How requesters reach providers, and what a requester says of where it is, so that a provider opens its NAT for it.

use std::net::{IpAddr, SocketAddr};

use ipsx_metering::{Address, DealId, UnixSeconds, keccak256};

use super::{Command, DealRefusal, Market};
use crate::deal::Deal;
use crate::messages::{BrokerMessage, RelayToken};
use crate::place::Reachability;
use crate::proof::Proofs;
use crate::reach::Step;
use crate::record::DealRecord;

impl Market {
    /// An agent that is seen at this address says where its WireGuard is reached, and what a NAT shows of that.
    pub fn endpoint_named(
        &mut self,
        agent: (Address, IpAddr),
        endpoint: SocketAddr,
        mapped: Option<SocketAddr>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let draw = |number| token(&self.proofs, number);
        let steps = self.reach.named(agent, endpoint, mapped, draw, now);
        self.reached(steps)
    }

    /// An agent hands back a token that came to its endpoint.
    pub fn token_heard(&mut self, provider: Address, token: u64, now: UnixSeconds) -> Vec<Command> {
        let step = self.reach.heard(provider, token, now);
        self.reached(step)
    }

    /// The requester of a bound deal says where it sends from, as a NAT shows it; the caller has seen it at this address.
    pub fn requester_endpoint(
        &self,
        requester: Address,
        id: DealId,
        endpoint: SocketAddr,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.bound(requester, id, "punched for")?;
        let message = BrokerMessage::Punch {
            deal_id: id,
            endpoint,
        };
        Ok(vec![Command::Send {
            provider: record.deal.provider,
            message: Box::new(message),
        }])
    }

    /// The deal, if it is bound and its requester may have its packets relayed: its request must not ask for another way.
    pub fn may_be_relayed(&self, requester: Address, id: DealId) -> Result<&Deal, DealRefusal> {
        let record = self.bound(requester, id, "relayed")?;
        match record.filter.reachability {
            None | Some(Reachability::Relayed) => Ok(&record.deal),
            Some(way) => Err(DealRefusal::NotRelayed(id, way)),
        }
    }

    /// Tells the provider of a deal that a relay has a port for it, and its secret there.
    pub fn relayed(&self, id: DealId, relay: SocketAddr, token: RelayToken) -> Vec<Command> {
        let command = self.deal(id).map(|record| Command::Send {
            provider: record.deal.provider,
            message: Box::new(BrokerMessage::Relay {
                deal_id: id,
                relay,
                token,
            }),
        });
        command.into_iter().collect()
    }

    /// A requester's deal that is bound and not over.
    fn bound(
        &self,
        requester: Address,
        id: DealId,
        wanted: &'static str,
    ) -> Result<&DealRecord, DealRefusal> {
        let record = self.deal(id).ok_or(DealRefusal::Unknown(id))?;
        if record.deal.requester != requester {
            return Err(DealRefusal::NotYours(id));
        }
        let status = record.status();
        if record.is_bound() && !status.is_over() {
            return Ok(record);
        }
        Err(DealRefusal::State {
            deal_id: id,
            status,
            wanted,
        })
    }

    /// Goes on with trials.
    pub(super) fn try_endpoints(&mut self, now: UnixSeconds) -> Vec<Command> {
        let draw = |number| token(&self.proofs, number);
        let steps = self.reach.handle_timeout(draw, now);
        self.reached(steps)
    }

    fn reached(&mut self, steps: impl IntoIterator<Item = Step>) -> Vec<Command> {
        let mut commands = Vec::new();
        for step in steps {
            commands.push(match step {
                Step::Try { to, token } => Command::Try { to, token },
                Step::Found(provider, reachability) => {
                    for mut listing in self.book.offers_of(provider) {
                        let measured = &mut listing.placement.measured;
                        if std::mem::replace(&mut measured.reachability, reachability)
                            == reachability
                        {
                            continue;
                        }
                        let for_sale = self.book.is_for_sale(listing.id);
                        // It is in the book already, and keeps its place.
                        let _ = self.book.put_as(listing, for_sale);
                    }
                    let message = BrokerMessage::Reached { reachability };
                    Command::Send {
                        provider,
                        message: Box::new(message),
                    }
                }
            });
        }
        commands
    }
}

/// What nobody can foresee who does not have this broker's secret.
fn token(proofs: &Proofs, number: u64) -> u64 {
    proofs.draw(&keccak256(
        [b"token".as_slice(), &number.to_be_bytes()].concat(),
    ))
}

#[cfg(test)]
#[path = "reaching_tests.rs"]
mod tests;
