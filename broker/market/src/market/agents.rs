//! Agents that come and go, and where their offers are.

use std::net::IpAddr;

use ipsx_metering::{Address, DealId, OfferId, UnixSeconds};

use super::{Command, Market, lease};
use crate::messages::BrokerMessage;
use crate::offer::Placement;
use crate::proof::Subject;
use crate::record::Cause;
use crate::status::{ProviderStatus, RequesterStatus};

impl Market {
    /// Finds out anew where these offers are, and tells the providers of those that are elsewhere now; what was measured
    /// stays.
    pub fn place_anew(
        &mut self,
        offers: &[OfferId],
        place: impl Fn(IpAddr) -> Placement,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        for id in offers {
            let Some(mut listing) = self.book.get(*id) else {
                continue;
            };
            let mut placement = place(listing.placement.address);
            let subject = Subject::of(&listing.offer, listing.placement.address);
            match self.proofs.get(&subject) {
                Some(proof) => proof.complete(&mut placement),
                None => placement.measured = listing.placement.measured,
            }
            placement.measured.reachability = self.reach.found(listing.offer.provider);
            if placement == listing.placement {
                continue;
            }
            let was = std::mem::replace(&mut listing.placement, placement.clone());
            let (provider, offer) = (listing.offer.provider, listing.id);
            let subject = Subject::of(&listing.offer, was.address);
            let withheld = self.proofs.withheld(&subject, now);
            let placed = self.book.put_as(listing, withheld.is_none());
            if placed.is_ok() && !was.is_same_place(&placement) {
                let message = BrokerMessage::OfferPlaced {
                    offer,
                    placement,
                    withheld,
                };
                commands.push(Command::Send {
                    provider,
                    message: Box::new(message),
                });
            }
        }
        commands
    }

    /// Takes an offer back.
    pub fn withdraw(&mut self, provider: Address, offer: OfferId) -> bool {
        self.book.withdraw(provider, offer)
    }

    /// An agent has proved its wallet. Returns what it must be told, and the deals that the broker holds for
    /// unfinished, for [`BrokerMessage::Authenticated`], which goes out before the commands.
    pub fn agent_joined(&mut self, provider: Address) -> (Vec<DealId>, Vec<Command>) {
        let ids: Vec<_> = self.deals_of(provider);
        let mut commands = Vec::new();
        let mut unfinished = Vec::new();
        for id in ids {
            let Some(live) = self.deals.get_mut(&id) else {
                continue;
            };
            live.away_since = None;
            if live.record.is_bound() {
                unfinished.push(id);
            }
            commands.extend(lease::remind(&live.record));
            self.reschedule(id);
        }
        (unfinished, commands)
    }

    /// An agent's connection is gone: its offers leave at once, its leases wait for its return.
    pub fn agent_left(&mut self, provider: Address, now: UnixSeconds) -> Vec<Command> {
        self.book.withdraw_all(provider);
        self.reach.left(provider);
        let mut commands = Vec::new();
        for id in self.deals_of(provider) {
            let Some(live) = self.deals.get_mut(&id) else {
                continue;
            };
            live.away_since = Some(now);
            // Nobody should sign, and tie up a deposit, for a lease that may never begin.
            if live.record.requester == RequesterStatus::Requested {
                let cause = Cause::Disconnected;
                let moved = live
                    .record
                    .provider_becomes(ProviderStatus::Silent, cause, now);
                commands.extend(self.store(id, moved, now));
            } else {
                self.reschedule(id);
            }
        }
        for number in self.pending.of_provider(provider) {
            commands.extend(self.try_next(number, "it lost its connection", now));
        }
        commands
    }

    /// The deals of a provider that are going on.
    pub(super) fn deals_of(&self, provider: Address) -> Vec<DealId> {
        self.by_provider
            .get(&provider)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }
}
