//! Requests that wait in the book until an offer fits them.

use ipsx_metering::{Address, B256, OfferId, RequestId, UnixSeconds};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::signing::refuse;
use super::{Answered, Asker, Command, Market, Ticket};
use crate::matching::Wanted;
use crate::request::SignedRequest;
use crate::resting::{MOST_ASKED, RequestRecord, RequestStatus, at_rest};

/// Proposals that one look makes at most: an agent must be able to take them. The next look goes on.
const PROPOSALS: usize = 64;
/// Changed offers that one look holds requests against: whoever comes next must not wait long.
const OFFERS: usize = 16;

/// A resting request is not what somebody takes it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefusal {
    /// None of that id is known.
    #[error("no request {0} rests here, and no deal came of it")]
    Unknown(RequestId),
    /// It belongs to others.
    #[error("request {0} is not yours")]
    NotYours(RequestId),
    /// Nothing of it is left to cancel.
    #[error("request {0} can't be cancelled: it is {status}", status = .1.as_str())]
    Over(RequestId, RequestStatus),
}

impl Market {
    /// Goes on with the requests that rested before a restart. They wait for offers, and there are none yet.
    pub fn restore(&mut self, resting: Vec<RequestRecord>) {
        for record in resting {
            self.counter = self.counter.max(record.number);
            self.resting.insert(record, Vec::new());
        }
        self.book.watch(!self.resting.is_empty());
    }

    /// Matches requests that rest with offers that have changed since the last look, the oldest first, each as if it
    /// had just been posted. To be called after everything else that changes the market.
    pub fn match_resting(&mut self, now: UnixSeconds) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.resting.is_empty() {
            self.book.watch(false);
            return commands;
        }
        let mut awake: RoaringTreemap = self.resting.take_awake().into_iter().collect();
        let mut offers = self.book.take_changed();
        if offers.is_empty() && awake.is_empty() {
            return commands;
        }
        let later: RoaringBitmap = offers.iter().skip(OFFERS).collect();
        offers -= &later;
        let waiting = self.book.waiting_for(&offers, &self.resting) | &awake;
        let mut proposals = 0;
        for number in waiting {
            self.book.keep_free(&mut offers);
            if offers.is_empty() && awake.is_empty() {
                break;
            }
            if proposals == PROPOSALS {
                awake
                    .iter()
                    .for_each(|number| self.resting.wake_one(number));
                self.book.leave_changed(offers);
                break;
            }
            let woken = awake.remove(number);
            let proposed = self.match_one(number, woken, &offers, now);
            proposals += usize::from(!proposed.is_empty());
            commands.extend(proposed);
        }
        self.book.leave_changed(later);
        commands
    }

    /// A requester takes a request back.
    pub fn cancel(
        &mut self,
        requester: Address,
        id: RequestId,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, RequestRefusal> {
        let resting = self.resting.of_id(id).ok_or(RequestRefusal::Unknown(id))?;
        if resting.record.request.message.requester != requester {
            return Err(RequestRefusal::NotYours(id));
        }
        let number = resting.record.number;
        let over = self.rests_no_more(number, RequestStatus::Cancelled, now);
        Ok(over.into_iter().collect())
    }

    /// Puts a request that was just posted to rest.
    pub(super) fn rest(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        tried: Vec<OfferId>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        if let Err(full) = self.resting.check_room(request.message.payer) {
            return vec![refuse(ticket, full.into())];
        }
        if self.resting.is_empty() {
            self.book.watch(true);
            self.hour = now.0 / 3_600;
        }
        let number = self.next_number();
        let record = at_rest(number, request, seed, now);
        let answer = Ok(Answered::Rests(Box::new(record.view(Vec::new()))));
        // Whoever was posted with asks so many providers only; who rests may ask the others.
        let others = !tried.is_empty();
        self.resting.insert(record.clone(), tried);
        if others {
            self.resting.wake_one(number);
        }
        let record = Box::new(record);
        vec![
            Command::StoreRequest { record },
            Command::Answer { ticket, answer },
        ]
    }

    /// The provider that was asked for a resting request did not sign.
    pub(super) fn rest_on(
        &mut self,
        number: u64,
        tried: Vec<OfferId>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        if tried.len() >= MOST_ASKED {
            let over = self.rests_no_more(number, RequestStatus::Refused, now);
            return over.into_iter().collect();
        }
        self.resting.rest_on(number, tried);
        self.resting.wake_one(number);
        Vec::new()
    }

    /// A deal came of a resting request.
    pub(super) fn matched(&mut self, number: u64, now: UnixSeconds) -> Option<Command> {
        self.rests_no_more(number, RequestStatus::Matched, now)
    }

    /// When something about resting requests is to be done next.
    pub(super) fn resting_timeout(&self) -> Option<UnixSeconds> {
        let end = self.resting.next_end()?;
        let hour = self.book.has_part_time().then_some((self.hour + 1) * 3_600);
        let more = self.book.has_changed() || self.resting.is_awake();
        let now = more.then_some(UnixSeconds(0));
        let times = [Some(end.after(1)), hour.map(UnixSeconds), now];
        times.into_iter().flatten().min()
    }

    /// Lets requests go that have rested long enough, and sees which offers are for sale now.
    pub(super) fn rest_is_over(&mut self, now: UnixSeconds) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(number) = self.resting.ended(now) {
            commands.extend(self.rests_no_more(number, RequestStatus::Expired, now));
        }
        let hour = now.0 / 3_600;
        if hour != self.hour {
            self.hour = hour;
            self.book.hour_begins(now);
        }
        commands
    }

    /// Proposes a resting request to the best offer, if there is one.
    fn match_one(
        &mut self,
        number: u64,
        woken: bool,
        offers: &RoaringBitmap,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let Some(resting) = self.resting.of_number(number) else {
            return Vec::new();
        };
        let request = &resting.record.request;
        let payer = request.message.payer;
        if resting.asked.is_some() || !request.message.may_rest(now) {
            return Vec::new();
        }
        let conditions = Wanted::from(&request.message).conditions(now);
        if !woken && !self.book.any_fits(offers, &conditions, &resting.tried) {
            return Vec::new();
        }
        if self.unstarted(payer) >= self.config.unstarted_deals {
            self.resting.hold_back(payer);
            return Vec::new();
        }
        let (request, seed) = (request.clone(), resting.record.seed);
        let tried = resting.tried.clone();
        self.propose(Asker::Resting(number), request, seed, tried, now)
            .unwrap_or_default()
    }

    /// Takes a request out of the book, and a proposal for it back.
    fn rests_no_more(
        &mut self,
        number: u64,
        status: RequestStatus,
        now: UnixSeconds,
    ) -> Option<Command> {
        let record = self.take_from_rest(number)?.becomes(status, now);
        let record = Box::new(record);
        Some(Command::StoreRequest { record })
    }

    /// The same, and nobody is told.
    pub(super) fn take_from_rest(&mut self, number: u64) -> Option<RequestRecord> {
        let resting = self.resting.remove(number)?;
        if let Some(pending) = resting.asked.and_then(|asked| self.pending.remove(asked)) {
            self.book.release(pending.hold);
            self.resting.wake(pending.proposal.request.message.payer);
        }
        Some(resting.record)
    }
}

#[cfg(test)]
#[path = "resting_tests.rs"]
mod tests;
