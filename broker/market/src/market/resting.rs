//! Requests that wait in the book until an offer fits them.

use ipsx_metering::{Address, B256, OfferId, RequestId, UnixSeconds};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::proposing::refuse;
use super::{Answered, Asker, Command, Market, RequestFailure, Ticket};
use crate::avoid::Avoid;
use crate::matching::Wanted;
use crate::request::SignedRequest;
use crate::resting::{MOST_ASKED, RequestRecord, RequestStatus, at_rest};

/// How often one look searches the book at most, and so proposals: whoever comes next must not wait long, and an agent must
/// be able to take them. The next look goes on.
const SEARCHES: usize = 64;
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

/// What it took to look whether a request fits by now, and what came of it.
#[derive(Default)]
pub(super) struct Look {
    pub(super) searches: usize,
    pub(super) commands: Vec<Command>,
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
        let (left, from) = self.book.take_left();
        let mut offers = self.book.take_changed();
        if offers.is_empty() && left.is_empty() && awake.is_empty() {
            return commands;
        }
        let room = OFFERS.saturating_sub(left.len() as usize);
        let later: RoaringBitmap = offers.iter().skip(room).collect();
        offers -= &later;
        self.book.leave_changed(later);
        let mut waiting = self.book.waiting_for(&left, &self.resting);
        waiting.remove_range(..from);
        waiting |= self.book.waiting_for(&offers, &self.resting) | &awake;
        offers |= left;
        let mut searches = 0;
        for number in waiting {
            self.book.keep_free(&mut offers);
            if offers.is_empty() && awake.is_empty() {
                break;
            }
            if searches >= SEARCHES {
                awake
                    .iter()
                    .for_each(|number| self.resting.wake_one(number));
                self.book.leave_from(offers, number);
                break;
            }
            let woken = awake.remove(number);
            let look = self.match_one(number, woken, &offers, now);
            searches += look.searches;
            commands.extend(look.commands);
        }
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
        let cancelled = |record: RequestRecord| record.becomes(RequestStatus::Cancelled, now);
        Ok(self.rests_no_more(number, cancelled, now))
    }

    /// Puts a request that was just posted to rest, with what is like the offers that were found if those are too few.
    pub(super) fn rest(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        tried: Vec<OfferId>,
        found: Avoid,
        now: UnixSeconds,
    ) -> Vec<Command> {
        if let Err(full) = self.resting.check_room(&request.message) {
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
        self.resting.found_like(number, found);
        if others {
            self.resting.wake_one(number);
        }
        let record = Box::new(record);
        vec![
            Command::StoreRequest { record },
            Command::Answer { ticket, answer },
        ]
    }

    /// Providers that were asked for a resting request did not sign.
    pub(super) fn rest_on(
        &mut self,
        number: u64,
        tried: Vec<OfferId>,
        why: &RequestFailure,
        now: UnixSeconds,
    ) -> Vec<Command> {
        if tried.len() >= MOST_ASKED {
            let refused = |record: RequestRecord| record.refused(why.to_string(), now);
            return self.rests_no_more(number, refused, now);
        }
        self.resting.rest_on(number, tried);
        self.resting.wake_one(number);
        Vec::new()
    }

    /// Deals came of a resting request.
    pub(super) fn matched(&mut self, number: u64, now: UnixSeconds) -> Vec<Command> {
        let matched = |record: RequestRecord| record.becomes(RequestStatus::Matched, now);
        self.rests_no_more(number, matched, now)
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
            let expired = |record: RequestRecord| record.becomes(RequestStatus::Expired, now);
            commands.extend(self.rests_no_more(number, expired, now));
        }
        let hour = now.0 / 3_600;
        if hour != self.hour {
            self.hour = hour;
            self.book.hour_begins(now);
        }
        commands
    }

    /// Proposes a resting request to the best offer, if there is one; a bundle to several, if there are as many as it needs.
    fn match_one(
        &mut self,
        number: u64,
        woken: bool,
        offers: &RoaringBitmap,
        now: UnixSeconds,
    ) -> Look {
        let Some(resting) = self.resting.of_number(number) else {
            return Look::default();
        };
        let request = &resting.record.request.message;
        let (payer, count) = (request.payer, request.count());
        if resting.asked.is_some() || !request.may_rest(now) {
            return Look::default();
        }
        let lacks = resting.lacks();
        let wanted = Wanted {
            filter: &lacks,
            ..Wanted::from(request)
        };
        let fits = |offers| {
            let conditions = wanted.conditions(now);
            self.book.any_fits(offers, &conditions, &resting.tried)
        };
        if !woken && !fits(offers) {
            return Look::default();
        }
        let (request, seed) = (resting.record.request.clone(), resting.record.seed);
        let tried = resting.tried.clone();
        if self.unstarted(payer) + count > self.config.unstarted_deals {
            self.resting.hold_back(payer);
            return Look::default();
        }
        if count > 1 {
            return self.match_bundle(number, request, seed, tried, now);
        }
        let proposed = self.propose(Asker::Resting(number), request, seed, tried, now);
        Look {
            searches: 1,
            commands: proposed.unwrap_or_default(),
        }
    }

    /// Takes a request out of the book, and proposals for it back, and writes down what it `becomes`.
    fn rests_no_more(
        &mut self,
        number: u64,
        becomes: impl FnOnce(RequestRecord) -> RequestRecord,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let Some((record, mut commands)) = self.take_from_rest(number, now) else {
            return Vec::new();
        };
        let record = Box::new(becomes(record));
        commands.push(Command::StoreRequest { record });
        commands
    }

    /// The same, and nothing is written of the request.
    pub(super) fn take_from_rest(
        &mut self,
        number: u64,
        now: UnixSeconds,
    ) -> Option<(RequestRecord, Vec<Command>)> {
        let resting = self.resting.remove(number)?;
        let Some(by) = resting.asked else {
            return Some((resting.record, Vec::new()));
        };
        let commands = match self.pending.remove(by) {
            None => self.take_back_bundle(by, now),
            Some(pending) => {
                self.book.release(pending.hold);
                self.resting.wake(pending.proposal.request.message.payer);
                Vec::new()
            }
        };
        Some((resting.record, commands))
    }
}

#[cfg(test)]
#[path = "resting_bundles_tests.rs"]
mod bundles_tests;
#[cfg(test)]
#[path = "resting_tests.rs"]
mod tests;
