//! Several addresses for one request, while their providers are asked.
//!
//! Legs are filled one after the other, each with the best offer that is distinct from those before it. All legs want the
//! same, so no other choice is cheaper, but among offers that sell whole ranges of addresses to choose from. When a
//! provider does not sign, its leg goes on to the next offer, distinct from all others. Nothing is written before all have
//! signed, so that after a crash there are all of the deals or none.

mod filling;

use ipsx_metering::{B256, OfferId, UnixSeconds};

use super::proposing::refuse;
use super::refusal::in_short;
use super::resting::Look;
use super::{Answered, Asker, Command, Market, Pending, RequestFailure, Ticket};
use crate::avoid::Avoid;
use crate::book::HoldId;
use crate::record::{Cause, DealRecord};
use crate::request::{Filter, SignedRequest};
use crate::resting::at_rest;
use crate::start::StartWindow;
use crate::status::RequesterStatus;

/// Who waits for what comes of it.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// Whoever posted it, for an answer.
    Ticket(Ticket),
    /// The request, which rests, by its number.
    Resting(u64),
}

/// A request for several addresses.
#[derive(Clone, Debug)]
pub(super) struct Bundling {
    waits: Waits,
    request: SignedRequest,
    seed: B256,
    /// When all legs start: at once, or in one second.
    start: StartWindow,
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

    /// What is asked for.
    pub(super) fn request(&self) -> &SignedRequest {
        &self.request
    }

    /// Whether its request waits in the book meanwhile.
    pub(super) fn rests(&self) -> bool {
        matches!(self.waits, Waits::Resting(_))
    }

    /// The proposals that are under way, in the order of the legs.
    fn proposals(&self) -> impl Iterator<Item = u64> + '_ {
        self.legs.iter().filter_map(|leg| leg.proposal)
    }
}

impl Market {
    /// Asks providers for each of several addresses, for whoever posts the request.
    pub(super) fn request_bundle(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let (waits, wanted) = (Waits::Ticket(ticket), request.message.count());
        match self.ask_for_all(waits, &request, seed, &[], now) {
            Ok((.., commands)) => commands,
            Err(few) if self.lets_rest(&request, now) => {
                self.rest(ticket, request, seed, Vec::new(), few.like, now)
            }
            Err(few) => vec![refuse(ticket, few.failure(wanted))],
        }
    }

    /// The same for a request that rests.
    pub(super) fn match_bundle(
        &mut self,
        number: u64,
        request: SignedRequest,
        seed: B256,
        tried: Vec<OfferId>,
        now: UnixSeconds,
    ) -> Look {
        match self.ask_for_all(Waits::Resting(number), &request, seed, &tried, now) {
            Ok((bundle, searches, commands)) => {
                self.resting.ask(number, bundle);
                Look { searches, commands }
            }
            Err(few) => {
                self.resting.found_like(number, few.like);
                Look {
                    searches: few.searches,
                    commands: Vec::new(),
                }
            }
        }
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

    /// When a lease may start: of one of several, when all of them do.
    pub(super) fn start_of(&self, asker: Asker, request: &SignedRequest) -> StartWindow {
        let bundle = self.bundle_of(asker);
        bundle.map_or(request.message.start, |bundle| bundle.start)
    }

    /// A provider that was asked for one of several did not sign, or has left: the next one is asked.
    pub(super) fn leg_refused(
        &mut self,
        (bundle, number): (u64, u8),
        offer: OfferId,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let (attempts, signs_within) = (self.config.attempts, self.config.timers.sign);
        let Some(bundling) = self.bundles.get_mut(&bundle) else {
            return Vec::new();
        };
        let Some(leg) = bundling.legs.get_mut(usize::from(number)) else {
            return Vec::new();
        };
        leg.proposal = None;
        // The clock may have stood still, and nobody should sign what its requester can't sign in time any more.
        let in_time = now.after(signs_within) <= bundling.sign_by;
        let expires_at = bundling.request.message.expires_at;
        let may_go_on = leg.asked < attempts && in_time && now <= expires_at;
        let drops = bundling.is_all_or_nothing();
        // Where several brokers may, they decide first which of them fills it.
        let waits = self.shared && bundling.proposals().next().is_some();
        bundling.tried.push(offer);
        let next = match may_go_on {
            true => self.ask_for_leg(bundle, number, now),
            false => Err(reason.to_owned()),
        };
        match next {
            Ok(commands) => commands,
            Err(_) if drops => self.drop_bundle(bundle, reason, now),
            Err(_) if waits => Vec::new(),
            Err(_) => self.settle(bundle, reason, now),
        }
    }

    /// Answers a request once nobody is asked any more: what is signed becomes deals, all at once.
    pub(super) fn settle(&mut self, bundle: u64, reason: &str, now: UnixSeconds) -> Vec<Command> {
        let Some(bundling) = self.bundles.get(&bundle) else {
            return Vec::new();
        };
        if bundling.proposals().next().is_none() {
            return self.drop_bundle(bundle, reason, now);
        }
        if !self.is_signed(bundling) {
            return Vec::new();
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
        match bundling.waits {
            Waits::Ticket(ticket) => commands.push(Command::Answer {
                ticket,
                answer: Ok(Answered::Bundle(deals)),
            }),
            Waits::Resting(number) => commands.extend(self.matched(number, now)),
        }
        commands
    }

    /// Whether somebody has signed, and nobody is asked any more.
    pub(super) fn is_signed(&self, bundling: &Bundling) -> bool {
        let is_signed = |number| self.pending.get(number).is_some_and(|p| p.signed.is_some());
        let mut proposals = bundling.proposals().peekable();
        proposals.peek().is_some() && proposals.all(is_signed)
    }

    /// Gives up what providers are asked for: the request rests on, or comes to rest, or is refused.
    pub(super) fn drop_bundle(
        &mut self,
        bundle: u64,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let Some(bundling) = self.bundles.remove(&bundle) else {
            return Vec::new();
        };
        let mut failure = RequestFailure::Incomplete {
            found: bundling.proposals().count(),
            wanted: bundling.request.message.count(),
            reason: in_short(reason),
        };
        let mut commands = self.take_bundle_back(&bundling, now);
        let Bundling {
            waits,
            request,
            seed,
            tried,
            ..
        } = bundling;
        let ticket = match waits {
            Waits::Ticket(ticket) => ticket,
            Waits::Resting(number) => {
                commands.extend(self.rest_on(number, tried, &failure, now));
                return commands;
            }
        };
        if self.lets_rest(&request, now) {
            match self.resting.check_room(&request.message) {
                Ok(()) => {
                    let found = Avoid::default();
                    commands.extend(self.rest(ticket, request, seed, tried, found, now));
                    return commands;
                }
                Err(full) => failure = full.into(),
            }
        }
        if !commands.is_empty() && !self.shared {
            // Deals of it are known, so it is told what became of it; of a shared market whoever has asked all brokers says so.
            let record = at_rest(self.next_number(), request, seed, now);
            let record = Box::new(record.refused(failure.to_string(), now));
            commands.push(Command::StoreRequest { record });
        }
        commands.push(refuse(ticket, failure));
        commands
    }

    /// Takes back a bundle of proposals, if that is what is known by this number.
    pub(super) fn take_back_bundle(&mut self, number: u64, now: UnixSeconds) -> Vec<Command> {
        match self.bundles.remove(&number) {
            Some(bundling) => self.take_bundle_back(&bundling, now),
            None => Vec::new(),
        }
    }

    /// Whoever is asked is not needed any more, and what is signed is aborted.
    fn take_bundle_back(&mut self, bundling: &Bundling, now: UnixSeconds) -> Vec<Command> {
        let mut commands = Vec::new();
        for number in bundling.proposals() {
            let Some(pending) = self.pending.remove(number) else {
                continue;
            };
            match pending.signed {
                Some(record) => commands.extend(self.turn_down(*record, pending.hold, now)),
                None => {
                    self.book.release(pending.hold);
                }
            }
        }
        self.resting.wake(bundling.request.message.payer);
        commands
    }

    /// Aborts a deal that its provider has signed and its requester has not seen.
    pub(super) fn turn_down(
        &mut self,
        mut record: DealRecord,
        hold: HoldId,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let id = record.deal_id;
        record.turned_down = true;
        let mut commands = self.insert_signed(record, hold, now);
        if let Some(live) = self.deals.get_mut(&id) {
            let (next, cause) = (RequesterStatus::Failed, Cause::Incomplete);
            let moved = live.record.requester_becomes(next, cause, now);
            commands.extend(self.store(id, moved, now));
        }
        commands
    }

    /// Forgets a request one of whose providers is another broker's now, but for one that rests. What is signed of it was
    /// never bound.
    pub(super) fn forget_bundle(&mut self, bundle: u64) -> Option<Ticket> {
        let bundling = self.bundles.remove(&bundle)?;
        for number in bundling.proposals() {
            if let Some(pending) = self.pending.remove(number) {
                self.book.release(pending.hold);
            }
        }
        match bundling.waits {
            Waits::Ticket(ticket) => Some(ticket),
            Waits::Resting(number) => {
                self.resting.rest_on(number, bundling.tried);
                self.resting.wake_one(number);
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "bundling_tests.rs"]
pub(crate) mod tests;
