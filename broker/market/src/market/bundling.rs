//! Several addresses for one request, while their providers are asked.
//!
//! Legs are filled one after the other, each with the best offer that is distinct from those before it. All legs want the
//! same, so no other choice is cheaper, but among offers that sell whole ranges of addresses to choose from. When a
//! provider does not sign, its leg goes on to the next offer, distinct from all others. Nothing is written before all have
//! signed, so that after a crash there are all of the deals or none.

use ipsx_metering::{B256, OfferId, UnixSeconds};

use super::signing::refuse;
use super::{Answered, Asker, Command, Market, Pending, RequestFailure, Ticket};
use crate::book::HoldId;
use crate::record::{Cause, DealRecord};
use crate::request::{Filter, SignedRequest};
use crate::status::RequesterStatus;

/// A request for several addresses.
#[derive(Clone, Debug)]
pub(super) struct Bundling {
    ticket: Ticket,
    request: SignedRequest,
    seed: B256,
    /// For all legs, however many providers were asked before.
    pub(super) sign_by: UnixSeconds,
    /// The same.
    pub(super) start_by: UnixSeconds,
    legs: Vec<Leg>,
    /// Offers whose providers did not sign.
    tried: Vec<OfferId>,
}

/// One of its leases.
#[derive(Clone, Copy, Debug, Default)]
struct Leg {
    /// Providers that were asked.
    asked: usize,
    /// By which one is, or has signed.
    proposal: Option<u64>,
}

impl Bundling {
    fn is_all_or_nothing(&self) -> bool {
        self.request.message.bundle.all_or_nothing
    }

    /// The proposals that are under way, in the order of the legs.
    fn proposals(&self) -> impl Iterator<Item = u64> + '_ {
        self.legs.iter().filter_map(|leg| leg.proposal)
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
        let sign_by = now.after(timers.propose * self.config.attempts as u64 + timers.sign);
        let bundling = Bundling {
            ticket,
            request,
            seed,
            sign_by,
            start_by: sign_by.after(timers.start.saturating_sub(timers.sign)),
            legs: vec![Leg::default(); count],
            tried: Vec::new(),
        };
        let all_or_nothing = bundling.is_all_or_nothing();
        self.bundles.insert(bundle, bundling);
        let (mut commands, mut reason) = (Vec::new(), String::new());
        for leg in 0..count as u8 {
            match self.ask_for_leg(bundle, leg, now) {
                Ok(asked) => commands.extend(asked),
                // Nobody has heard of those before it.
                Err(none) if all_or_nothing => return self.drop_bundle(bundle, &none, now),
                Err(none) => {
                    // What does not fit this one fits none after it.
                    reason = none;
                    break;
                }
            }
        }
        commands.extend(self.settle(bundle, &reason, now));
        commands
    }

    /// The bundle that a proposal is for.
    pub(super) fn bundle_of(&self, asker: Asker) -> Option<&Bundling> {
        match asker {
            Asker::Leg { bundle, .. } => self.bundles.get(&bundle),
            _ => None,
        }
    }

    /// What is asked of a lease: of one of several also that it is distinct from the others.
    pub(super) fn filter_of(&self, asker: Asker, request: &SignedRequest) -> Filter {
        let mut filter = request.message.filter.clone();
        let Some(bundling) = self.bundle_of(asker) else {
            return filter;
        };
        let distinct = request.message.bundle.distinct;
        distinct.prepare(&mut filter.avoid);
        let others = bundling.legs.iter().enumerate();
        let others = others.filter(|(number, _)| *number != usize::from(asker.leg()));
        let others = others.filter_map(|(_, other)| self.pending.get(other.proposal?));
        for other in others {
            let placement = &other.listing.placement;
            distinct.avoid_like(&mut filter.avoid, placement, other.provider);
        }
        filter
    }

    /// A provider that was asked for one of several did not sign, or has left: the next one is asked.
    pub(super) fn leg_refused(
        &mut self,
        (bundle, number): (u64, u8),
        offer: OfferId,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let attempts = self.config.attempts;
        let Some(bundling) = self.bundles.get_mut(&bundle) else {
            return Vec::new();
        };
        let Some(leg) = bundling.legs.get_mut(usize::from(number)) else {
            return Vec::new();
        };
        leg.proposal = None;
        let may_go_on = leg.asked < attempts && now <= bundling.request.message.expires_at;
        let all_or_nothing = bundling.is_all_or_nothing();
        bundling.tried.push(offer);
        let next = match may_go_on {
            true => self.ask_for_leg(bundle, number, now),
            false => Err(reason.to_owned()),
        };
        match next {
            Ok(commands) => commands,
            Err(_) if all_or_nothing => self.drop_bundle(bundle, reason, now),
            Err(_) => self.settle(bundle, reason, now),
        }
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
        let (asker, tried) = (Asker::Leg { bundle, leg }, bundling.tried.clone());
        let commands = self.propose(asker, request, seed, tried, now);
        let commands = commands.map_err(|none| none.why())?;
        let proposal = self.counter;
        if let Some(bundling) = self.bundles.get_mut(&bundle)
            && let Some(leg) = bundling.legs.get_mut(usize::from(leg))
        {
            leg.asked += 1;
            leg.proposal = Some(proposal);
        }
        Ok(commands)
    }

    /// Answers a request once nobody is asked any more: what is signed becomes deals, all at once.
    pub(super) fn settle(&mut self, bundle: u64, reason: &str, now: UnixSeconds) -> Vec<Command> {
        let Some(bundling) = self.bundles.get(&bundle) else {
            return Vec::new();
        };
        let is_signed = |number| self.pending.get(number).is_some_and(|p| p.signed.is_some());
        if !bundling.proposals().all(is_signed) {
            return Vec::new();
        }
        if bundling.proposals().next().is_none() {
            return self.drop_bundle(bundle, reason, now);
        }
        let Some(bundling) = self.bundles.remove(&bundle) else {
            return Vec::new();
        };
        let (mut commands, mut deals) = (Vec::new(), Vec::new());
        for number in bundling.proposals() {
            let pending = self.pending.remove(number);
            if let Some(Pending { signed, hold, .. }) = pending
                && let Some(record) = signed
            {
                deals.push(record.proposed());
                commands.extend(self.insert_signed(*record, hold, now));
            }
        }
        commands.push(Command::Answer {
            ticket: bundling.ticket,
            answer: Ok(Answered::Bundle(deals)),
        });
        commands
    }

    /// Gives a request up: whoever is asked for it is not needed any more, and what is signed is aborted.
    fn drop_bundle(&mut self, bundle: u64, reason: &str, now: UnixSeconds) -> Vec<Command> {
        let Some(bundling) = self.bundles.remove(&bundle) else {
            return Vec::new();
        };
        let (mut commands, mut found) = (Vec::new(), 0);
        for number in bundling.proposals() {
            let Some(pending) = self.pending.remove(number) else {
                continue;
            };
            found += 1;
            match pending.signed {
                Some(record) => commands.extend(self.turn_down(*record, pending.hold, now)),
                None => {
                    self.book.release(pending.hold);
                }
            }
        }
        self.resting.wake(bundling.request.message.payer);
        // What people say may be long, and goes into logs and answers.
        let words = reason.chars().filter(|c| !c.is_control()).take(200);
        let failure = RequestFailure::Incomplete {
            found,
            wanted: bundling.request.message.count(),
            reason: words.collect(),
        };
        commands.push(refuse(bundling.ticket, failure));
        commands
    }

    /// Aborts a deal that its provider has signed and its requester has not seen.
    pub(super) fn turn_down(
        &mut self,
        record: DealRecord,
        hold: HoldId,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let id = record.deal_id;
        let mut commands = self.insert_signed(record, hold, now);
        if let Some(live) = self.deals.get_mut(&id) {
            let (next, cause) = (RequesterStatus::Failed, Cause::Incomplete);
            let moved = live.record.requester_becomes(next, cause, now);
            commands.extend(self.store(id, moved, now));
        }
        commands
    }

    /// Forgets a request one of whose providers is another broker's now. What is signed of it was never bound.
    pub(super) fn forget_bundle(&mut self, bundle: u64) -> Option<Ticket> {
        let bundling = self.bundles.remove(&bundle)?;
        for number in bundling.proposals() {
            if let Some(pending) = self.pending.remove(number) {
                self.book.release(pending.hold);
            }
        }
        Some(bundling.ticket)
    }
}

#[cfg(test)]
#[path = "bundling_tests.rs"]
mod tests;
