//! Several addresses for one request, while their providers are asked.
//!
//! Legs are filled one after the other, each with the best offer that is distinct from those before it: first in the
//! order of price takes all. That is no search for the cheapest bundle, which may take a dearer first leg to allow a
//! cheaper second one; but it is the same for everybody, and as fast as so many single requests. When a provider does not
//! sign, its leg goes on to the next offer, distinct from all others. All of them have the same time for their signatures.

use ipsx_metering::{Address, B256, DealId, OfferId, RequestId, Signature, UnixSeconds};

use super::signing::refuse;
use super::{Answered, Asker, Command, DealRefusal, Market, RequestFailure, Ticket};
use crate::http::ProposedDeal;
use crate::messages::{BrokerMessage, EndCause};
use crate::offer::Placement;
use crate::record::{Cause, DealRecord};
use crate::request::{Filter, SignedRequest};
use crate::status::{DealStatus, RequesterStatus};

/// A request for several addresses.
#[derive(Clone, Debug)]
pub(super) struct Bundling {
    ticket: Ticket,
    request: SignedRequest,
    seed: B256,
    pub(super) sign_by: UnixSeconds,
    legs: Vec<Leg>,
    /// Offers whose providers did not sign.
    tried: Vec<OfferId>,
}

/// One of its leases.
#[derive(Clone, Debug, Default)]
struct Leg {
    /// Providers that were asked.
    asked: usize,
    state: LegState,
}

#[derive(Clone, Debug, Default)]
enum LegState {
    /// Nobody is asked.
    #[default]
    Open,
    /// A provider is, by the proposal of this number.
    Asked {
        number: u64,
        placement: Box<Placement>,
        provider: Address,
    },
    /// A provider has signed.
    Signed(Box<ProposedDeal>),
}

impl Leg {
    /// Which address it has or may get, and whose.
    fn lease(&self) -> Option<(&Placement, Address)> {
        match &self.state {
            LegState::Open => None,
            LegState::Asked {
                placement,
                provider,
                ..
            } => Some((placement, *provider)),
            LegState::Signed(proposed) => Some((&proposed.placement, proposed.deal.provider)),
        }
    }
}

impl Bundling {
    /// What is asked of one leg: besides the request's filter, that it is distinct from the others.
    pub(super) fn filter(&self, leg: u8) -> Filter {
        let request = &self.request.message;
        let mut filter = request.filter.clone();
        request.bundle.distinct.prepare(&mut filter.avoid);
        let others = self.legs.iter().enumerate();
        let others = others.filter(|(number, _)| *number != usize::from(leg));
        for (placement, provider) in others.filter_map(|(_, other)| other.lease()) {
            let distinct = request.bundle.distinct;
            distinct.avoid_like(&mut filter.avoid, placement, provider);
        }
        filter
    }

    fn is_all_or_nothing(&self) -> bool {
        self.request.message.bundle.all_or_nothing
    }
}

impl Market {
    /// Asks providers for each of several addresses.
    pub(super) fn request_bundle(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let (count, bundle) = (request.message.count(), self.next_number());
        let timers = self.config.timers;
        let asking = timers.propose * self.config.attempts as u64;
        let bundling = Bundling {
            ticket,
            request,
            seed,
            sign_by: now.after(timers.sign + asking),
            legs: vec![Leg::default(); count],
            tried: Vec::new(),
        };
        self.bundles.insert(bundle, bundling);
        let (mut commands, mut none) = (Vec::new(), String::new());
        for leg in 0..count as u8 {
            match self.ask_for_leg(bundle, leg, now) {
                Ok(asked) => commands.extend(asked),
                // Nobody has heard of those before it.
                Err(reason) if self.is_all_or_nothing(bundle) => {
                    return self.drop_bundle(bundle, &reason, now);
                }
                // What does not fit this one fits none after it.
                Err(reason) => {
                    none = reason;
                    break;
                }
            }
        }
        commands.extend(self.settle(bundle, &none, now));
        commands
    }

    /// What is asked of a lease.
    pub(super) fn filter_of(&self, asker: Asker, request: &SignedRequest) -> Filter {
        let bundle = match asker {
            Asker::Leg { bundle, leg } => self.bundles.get(&bundle).map(|b| b.filter(leg)),
            Asker::Ticket(_) | Asker::Resting(_) => None,
        };
        bundle.unwrap_or_else(|| request.message.filter.clone())
    }

    /// A provider has signed one of several.
    pub(super) fn leg_signed(
        &mut self,
        (bundle, leg): (u64, u8),
        proposed: ProposedDeal,
        now: UnixSeconds,
    ) -> Vec<Command> {
        if let Some(leg) = self.leg(bundle, leg) {
            leg.state = LegState::Signed(Box::new(proposed));
        }
        self.settle(bundle, "", now)
    }

    /// A provider that was asked for one of several did not sign: the next one is.
    pub(super) fn leg_refused(
        &mut self,
        (bundle, number): (u64, u8),
        offer: OfferId,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let attempts = self.config.attempts;
        let Some(leg) = self.leg(bundle, number) else {
            return Vec::new();
        };
        leg.state = LegState::Open;
        let may_go_on = leg.asked < attempts;
        if let Some(bundling) = self.bundles.get_mut(&bundle) {
            bundling.tried.push(offer);
        }
        let next = match may_go_on {
            true => self.ask_for_leg(bundle, number, now),
            false => Err(reason.to_owned()),
        };
        match next {
            Ok(commands) => commands,
            Err(reason) if self.is_all_or_nothing(bundle) => self.drop_bundle(bundle, &reason, now),
            Err(reason) => self.settle(bundle, &reason, now),
        }
    }

    fn leg(&mut self, bundle: u64, leg: u8) -> Option<&mut Leg> {
        let bundling = self.bundles.get_mut(&bundle)?;
        bundling.legs.get_mut(usize::from(leg))
    }

    fn is_all_or_nothing(&self, bundle: u64) -> bool {
        self.bundles
            .get(&bundle)
            .is_some_and(Bundling::is_all_or_nothing)
    }

    fn ask_for_leg(
        &mut self,
        bundle: u64,
        leg: u8,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, String> {
        let Some(bundling) = self.bundles.get(&bundle) else {
            return Ok(Vec::new());
        };
        let (request, seed) = (bundling.request.clone(), bundling.seed);
        let tried = bundling.tried.clone();
        let asker = Asker::Leg { bundle, leg };
        let commands = self.propose(asker, request, seed, tried, now);
        let commands = commands.map_err(|none| none.why())?;
        let number = self.counter;
        let asked = self.pending.get(number);
        let asked = asked.map(|p| (Box::new(p.listing.placement.clone()), p.provider));
        if let (Some((placement, provider)), Some(leg)) = (asked, self.leg(bundle, leg)) {
            leg.asked += 1;
            leg.state = LegState::Asked {
                number,
                placement,
                provider,
            };
        }
        Ok(commands)
    }

    /// Answers a request once nobody is asked any more.
    fn settle(&mut self, bundle: u64, reason: &str, now: UnixSeconds) -> Vec<Command> {
        let is_asked = |leg: &Leg| matches!(leg.state, LegState::Asked { .. });
        let waits = |bundling: &Bundling| bundling.legs.iter().any(is_asked);
        if self.bundles.get(&bundle).is_none_or(waits) {
            return Vec::new();
        }
        let is_signed = |leg: &Leg| matches!(leg.state, LegState::Signed(_));
        let signed =
            |bundling: &Bundling| bundling.legs.iter().filter(|leg| is_signed(leg)).count();
        if self.bundles.get(&bundle).map(signed) == Some(0) {
            return self.drop_bundle(bundle, reason, now);
        }
        let Some(bundling) = self.bundles.remove(&bundle) else {
            return Vec::new();
        };
        let legs = bundling.legs.into_iter();
        let deals = legs.filter_map(|leg| match leg.state {
            LegState::Signed(proposed) => Some(*proposed),
            _ => None,
        });
        vec![Command::Answer {
            ticket: bundling.ticket,
            answer: Ok(Answered::Bundle(deals.collect())),
        }]
    }

    /// Gives up a request: whoever is asked for it is not needed any more, and what is signed is aborted.
    pub(super) fn drop_bundle(
        &mut self,
        bundle: u64,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let Some(bundling) = self.bundles.remove(&bundle) else {
            return Vec::new();
        };
        let (mut commands, mut found) = (Vec::new(), 0);
        for leg in bundling.legs {
            match leg.state {
                LegState::Open => {}
                LegState::Asked { number, .. } => {
                    found += 1;
                    if let Some(pending) = self.pending.remove(number) {
                        self.book.release(pending.hold);
                        self.resting.wake(pending.proposal.request.message.payer);
                    }
                }
                LegState::Signed(proposed) => {
                    found += 1;
                    commands.extend(self.give_up_leg(proposed.deal_id, now));
                }
            }
        }
        // What people say may be long, and goes into logs and answers.
        let reason = reason
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let wanted = bundling.request.message.count();
        let failure = RequestFailure::Incomplete {
            found,
            wanted,
            reason,
        };
        commands.push(refuse(bundling.ticket, failure));
        commands
    }

    /// Gives up a request one of whose providers is another broker's now. What is signed expires.
    pub(super) fn forget_bundle(&mut self, bundle: u64) -> Option<Ticket> {
        let bundling = self.bundles.remove(&bundle)?;
        for leg in bundling.legs {
            if let LegState::Asked { number, .. } = leg.state
                && let Some(pending) = self.pending.remove(number)
            {
                self.book.release(pending.hold);
            }
        }
        Some(bundling.ticket)
    }

    /// The requester signs several leases of a request at once: all that are good for anything only together.
    pub fn sign_bundle(
        &mut self,
        request: RequestId,
        requester: Address,
        signatures: &[(DealId, Signature)],
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        for (at, (id, signature)) in signatures.iter().enumerate() {
            let record = self.deal(*id).ok_or(DealRefusal::Unknown(*id))?;
            let twice = signatures[..at].iter().any(|(other, _)| other == id);
            if record.deal.request != request || twice {
                return Err(DealRefusal::OtherRequest(*id, request));
            }
            self.check_signature(*id, requester, *signature, now)?;
        }
        let first = signatures.first().and_then(|(id, _)| self.deal(*id));
        if let Some(record) = first.filter(|record| record.together > 0)
            && signatures.len() < usize::from(record.together)
        {
            return Err(DealRefusal::Together(record.deal_id, record.together));
        }
        let mut commands = Vec::new();
        for (id, signature) in signatures {
            commands.extend(self.signed(*id, *signature, now));
        }
        Ok(commands)
    }

    /// A lease of several is over that are good for anything only together: those that have not begun don't either.
    pub(super) fn part_ways(&mut self, over: &DealRecord, now: UnixSeconds) -> Vec<Command> {
        if over.together == 0 || !over.status().is_over() {
            return Vec::new();
        }
        let others = self.deals_by(over.deal.payer);
        let others = others.filter(|other| other.deal.request == over.deal.request);
        let others: Vec<_> = others.map(|other| other.deal_id).collect();
        let parted = others.into_iter().map(|id| self.give_up_leg(id, now));
        parted.flatten().collect()
    }

    /// Ends a deal of a bundle that has not begun.
    fn give_up_leg(&mut self, id: DealId, now: UnixSeconds) -> Vec<Command> {
        let Some(live) = self.deals.get_mut(&id) else {
            return Vec::new();
        };
        let (record, cause) = (&mut live.record, Cause::Incomplete);
        let next = match record.status() {
            DealStatus::Proposed => RequesterStatus::Failed,
            DealStatus::Agreed => RequesterStatus::Ended,
            _ => return Vec::new(),
        };
        let (provider, bound) = (record.deal.provider, record.is_bound());
        let moved = record.requester_becomes(next, cause, now);
        let mut commands = self.store(id, moved, now);
        if bound {
            let message = BrokerMessage::EndLease {
                deal_id: id,
                cause: EndCause::NotStarted,
            };
            commands.push(Command::Send {
                provider,
                message: Box::new(message),
            });
        }
        commands
    }
}

#[cfg(test)]
#[path = "bundling_tests.rs"]
mod tests;
