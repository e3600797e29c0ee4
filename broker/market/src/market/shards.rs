//! Shards that come to this broker and go: the rest of the market goes on meanwhile.
//!
//! A request that rests concerns several shards, and rests at each broker that has one of them. Whichever finds an offer
//! first may propose it; before a provider's signature counts, the brokers decide among themselves whose does.
//!
//! Leases that are good for anything only together begin at one broker, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use ipsx_metering::{Address, B256, RequestId, UnixSeconds};

use super::proposing::refuse;
use super::{Asker, Command, Live, Market, RequestFailure, Ticket};
use crate::book::HoldId;
use crate::fleet::ShardId;
use crate::record::DealRecord;
use crate::request::{Request, SignedRequest};
use crate::resting::{NoRest, RequestRecord, at_rest};

/// Why nobody is asked any more for a request that was posted again.
const FILLED: &str = "it was filled before";

/// A request on which several brokers may decide: one that rests at all of them, or may come to, or one for several addresses,
/// which may have been posted again while it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disputed {
    /// Which.
    pub request: RequestId,
    /// Whose.
    pub requester: Address,
    /// Whether it rests.
    pub rests: bool,
}

impl Disputed {
    fn of(request: &Request, rests: bool) -> Self {
        Self {
            request: request.id(),
            requester: request.requester,
            rests,
        }
    }
}

impl Market {
    /// From now on other brokers have other parts of this market: ages of offers count from `age` on, unlike the others'
    /// ages, and no request comes to rest here but by [`Self::put_to_rest`].
    pub fn share(&mut self, age: u64) {
        self.shared = true;
        self.book.begin_at(age);
    }

    /// A request as it comes to rest at all brokers; `seed` is random, and the last bytes of its age come from it. An error
    /// if too many rest here.
    pub fn rest_everywhere(
        &self,
        request: SignedRequest,
        seed: B256,
        now: UnixSeconds,
    ) -> Result<RequestRecord, NoRest> {
        self.resting.check_room(&request.message)?;
        let number = (now.0 << 24) | u64::from_be_bytes([0, 0, 0, 0, 0, seed[0], seed[1], seed[2]]);
        Ok(at_rest(number, request, seed, now))
    }

    /// Takes in a request that rests at all brokers, to be held against all offers here. One that is here already stays as
    /// it is.
    pub fn put_to_rest(&mut self, mut record: RequestRecord, now: UnixSeconds) {
        if self.resting.get(record.id()).is_some() {
            return;
        }
        if self.resting.is_empty() {
            self.hour = now.0 / 3_600;
        }
        while self.resting.of_number(record.number).is_some() {
            record.number += 1;
        }
        self.book.watch(true);
        let number = record.number;
        self.resting.insert(record, Vec::new());
        self.resting.wake_one(number);
    }

    /// Drops a request that rests no more, by another broker's word, and what a provider is asked for it.
    pub fn drop_request(&mut self, id: RequestId, now: UnixSeconds) -> Vec<Command> {
        let number = self.resting.of_id(id).map(|resting| resting.record.number);
        let dropped = number.and_then(|number| self.take_from_rest(number, now));
        dropped.map_or_else(Vec::new, |(_, commands)| commands)
    }

    /// What a provider's signature under a proposal decides on, if other brokers may decide on it as well.
    pub fn disputed(&self, provider: Address, proposal: u64) -> Option<Disputed> {
        let pending = self
            .pending
            .get(proposal)
            .filter(|p| p.provider == provider)?;
        let request = &pending.proposal.request.message;
        let rests = match pending.asker {
            Asker::Resting(_) => true,
            Asker::Leg { .. } => self.bundle_of(pending.asker)?.rests(),
            Asker::Ticket(_) => false,
            Asker::Probe { .. } => return None,
        };
        let may_be = rests || request.count() > 1 || request.may_rest(pending.asked_at);
        may_be.then(|| Disputed::of(request, rests))
    }

    /// A request was filled before, by another broker or for another who posted the same: nobody is asked for it here any more.
    pub fn was_filled(
        &mut self,
        provider: Address,
        proposal: u64,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let pending = self.pending.get(proposal);
        match pending.filter(|p| p.provider == provider).map(|p| p.asker) {
            Some(Asker::Leg { bundle, .. }) => self.drop_bundle(bundle, FILLED, now),
            Some(Asker::Ticket(ticket)) => self.forget_proposal(proposal, ticket),
            _ => Vec::new(),
        }
    }

    fn forget_proposal(&mut self, proposal: u64, ticket: Ticket) -> Vec<Command> {
        let Some(pending) = self.pending.remove(proposal) else {
            return Vec::new();
        };
        self.book.release(pending.hold);
        self.resting.wake(pending.proposal.request.message.payer);
        let failure = RequestFailure::NoneSigned {
            asked: pending.tried.len() + 1,
            reason: FILLED.into(),
        };
        vec![refuse(ticket, failure)]
    }

    /// A bundle of which what is signed is all that it gets, as the last provider that was asked has not signed. Other brokers may
    /// decide on it as well, so it is filled by [`Self::fill`] only.
    pub fn undecided(&self) -> Option<(u64, Disputed)> {
        let mut bundles = self.bundles.iter().filter(|_| self.shared);
        let (number, bundling) = bundles.find(|(_, bundling)| self.is_signed(bundling))?;
        let request = &bundling.request().message;
        Some((*number, Disputed::of(request, bundling.rests())))
    }

    /// Fills it with what is signed.
    pub fn fill(&mut self, bundle: u64, now: UnixSeconds) -> Vec<Command> {
        self.settle(bundle, "", now)
    }

    /// It was filled before, as above.
    pub fn filled_before(&mut self, bundle: u64, now: UnixSeconds) -> Vec<Command> {
        match self.bundles.contains_key(&bundle) {
            true => self.drop_bundle(bundle, FILLED, now),
            false => Vec::new(),
        }
    }

    /// Whether a request that finds nothing comes to rest by itself.
    pub(super) fn lets_rest(&self, request: &SignedRequest, now: UnixSeconds) -> bool {
        !self.shared && request.message.may_rest(now)
    }

    /// Goes on where the records left it, with every agent away since `now`. Records that are closed, or here already,
    /// are skipped. The commands end leases that are good for anything only with others, where not all have come.
    pub fn adopt(&mut self, records: Vec<DealRecord>, now: UnixSeconds) -> Vec<Command> {
        let mut bundles = BTreeMap::new();
        let open = records.into_iter().filter(|r| r.closed_at.is_none());
        for record in open {
            if self.deals.contains_key(&record.deal_id) {
                continue;
            }
            if record.together > 0 {
                let bundle = (record.deal.payer, record.deal.request);
                bundles.insert(bundle, usize::from(record.together));
            }
            let hold = HoldId(self.next_number());
            self.book.restore(hold, &record.offer, &record.filter);
            self.insert(Live {
                record,
                hold,
                away_since: Some(now),
                deadline: None,
                unwritten: Vec::new(),
            });
        }
        // What one that is alone had was in one place all the time.
        bundles.retain(|bundle, count| self.shared && self.legs(*bundle).len() < *count);
        self.tear(bundles.into_keys(), now)
    }

    /// Forgets shards that are other brokers' now: their offers, their deals as they stand, and the requests that wait for
    /// one of their providers, whose tickets are returned. The commands end leases that are good for anything only with
    /// those that went.
    pub fn forget(
        &mut self,
        gone: &BTreeSet<ShardId>,
        now: UnixSeconds,
    ) -> (Vec<Ticket>, Vec<Command>) {
        let (mut deals, mut bundles) = (Vec::new(), BTreeSet::new());
        for record in self.deals().filter(|r| gone.contains(&ShardId::of(r))) {
            deals.push(record.deal_id);
            if record.together > 0 {
                bundles.insert((record.deal.payer, record.deal.request));
            }
        }
        for id in deals {
            self.close(id);
        }
        let is_gone = |country, provider| gone.contains(&ShardId::new(country, provider));
        let asked = self.pending.iter();
        let asked = asked.filter(|(_, p)| is_gone(p.listing.placement.country, p.provider));
        let asked: Vec<_> = asked.map(|(number, _)| number).collect();
        let mut tickets = Vec::new();
        for number in asked {
            if let Some(pending) = self.pending.remove(number) {
                self.book.release(pending.hold);
                match pending.asker {
                    Asker::Ticket(ticket) | Asker::Probe { ticket, .. } => tickets.push(ticket),
                    // Its other legs would be asked for in vain.
                    Asker::Leg { bundle, .. } => tickets.extend(self.forget_bundle(bundle)),
                    Asker::Resting(number) => {
                        self.resting.rest_on(number, pending.tried);
                        self.resting.wake_one(number);
                    }
                }
            }
        }
        self.book.withdraw_in(is_gone);
        (tickets, self.tear(bundles, now))
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
