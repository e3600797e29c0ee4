//! Shards that come to this broker and go: the rest of the market goes on meanwhile.
//!
//! A request that rests concerns several shards, and rests at each broker that has one of them. Whichever finds an offer
//! first may propose it; before a provider's signature counts, the brokers decide among themselves whose does.

use std::collections::BTreeSet;

use ipsx_metering::{Address, B256, DealId, RequestId, UnixSeconds};

use super::{Asker, Command, Live, Market, Ticket};
use crate::book::HoldId;
use crate::fleet::ShardId;
use crate::record::DealRecord;
use crate::request::SignedRequest;
use crate::resting::{NoRest, RequestRecord, at_rest};

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

    /// The request that rests for which a provider is asked by a proposal.
    pub fn resting_asker(&self, provider: Address, proposal: u64) -> Option<RequestId> {
        let pending = self
            .pending
            .get(proposal)
            .filter(|p| p.provider == provider)?;
        match pending.asker {
            Asker::Resting(_) => Some(pending.proposal.request.message.id()),
            Asker::Ticket(_) | Asker::Probe { .. } | Asker::Leg { .. } => None,
        }
    }

    /// Whether a request that finds nothing comes to rest by itself.
    pub(super) fn lets_rest(&self, request: &SignedRequest, now: UnixSeconds) -> bool {
        !self.shared && request.message.may_rest(now)
    }

    /// Goes on where the records left it, with every agent away since `now`. Records that are closed, or here already,
    /// are skipped.
    pub fn adopt(&mut self, records: Vec<DealRecord>, now: UnixSeconds) {
        let open = records.into_iter().filter(|r| r.closed_at.is_none());
        for record in open {
            if self.deals.contains_key(&record.deal_id) {
                continue;
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
    }

    /// Forgets shards that are other brokers' now: their offers, their deals as they stand, and the requests that wait for
    /// one of their providers, whose tickets are returned.
    pub fn forget(&mut self, gone: &BTreeSet<ShardId>) -> Vec<Ticket> {
        let deals: Vec<DealId> = self
            .deals()
            .filter(|record| gone.contains(&ShardId::of(record)))
            .map(|record| record.deal_id)
            .collect();
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
        tickets
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
