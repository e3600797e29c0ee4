//! The book of requests that rest: no offer fits them yet, and each waits for one that does.
//!
//! A request keeps its age for as long as it rests, also while a provider is asked and after a restart. An offer that
//! arrives, changes or is free again is held against the requests that ask for such a place, price and length; the
//! oldest that it fits is matched first, as if it had just been posted.
//!
//! A bundle is looked for like a request for what it lacks: offers that are not distinct from those that it would take
//! already do not find it, so that only what may complete it has all of its leases looked for again.

mod index;
mod record;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipsx_metering::{Address, B256, OfferId, Prices, RequestId, UnixSeconds, keccak256};
use roaring::RoaringTreemap;

use crate::avoid::Avoid;
use crate::matching::Facts;
use crate::request::{Filter, Request, SignedRequest};
use index::Index;
pub use record::{RequestRecord, RequestStatus};

/// Providers that are asked for one resting request before it is given up: each may take its time and refuse.
pub const MOST_ASKED: usize = 64;

/// Bounds of the book. A request for several leases counts as so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestingLimits {
    /// Requests in all.
    pub requests: usize,
    /// Requests that one payer's deposit is to pay.
    pub requests_per_payer: usize,
}

impl Default for RestingLimits {
    fn default() -> Self {
        Self {
            requests: 100_000,
            requests_per_payer: 32,
        }
    }
}

/// The book takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRest {
    /// Of this payer.
    #[error(
        "at most {0} leases that this payer is to pay may be waited for, and with these there would be more; cancel a request that rests, or post this one without rest_until"
    )]
    TooMany(usize),
    /// Of anybody.
    #[error(
        "at most {0} leases may be waited for, and with these there would be more; post the request without rest_until, or later"
    )]
    Full(usize),
}

/// A request that rests.
#[derive(Clone, Debug)]
pub(crate) struct Resting {
    pub(crate) record: RequestRecord,
    /// Offers whose providers were asked and did not sign.
    pub(crate) tried: Vec<OfferId>,
    /// The proposal, or the bundle of several, by which some are asked right now.
    pub(crate) asked: Option<u64>,
    /// For a bundle that too few offers fitted: what is not distinct from those.
    found: Avoid,
}

impl Resting {
    /// What an offer must be like to make a difference.
    pub(crate) fn lacks(&self) -> Cow<'_, Filter> {
        let filter = &self.record.request.message.filter;
        if self.found.is_empty() {
            return Cow::Borrowed(filter);
        }
        let mut filter = filter.clone();
        filter.avoid.extend(&self.found);
        Cow::Owned(filter)
    }
}

/// The requests that rest.
#[derive(Clone, Debug, Default)]
pub struct RequestBook {
    limits: RestingLimits,
    /// By age.
    requests: BTreeMap<u64, Resting>,
    /// What they ask for together.
    leases: usize,
    by_id: HashMap<RequestId, u64>,
    by_payer: HashMap<Address, BTreeSet<u64>>,
    by_end: BTreeSet<(UnixSeconds, u64)>,
    /// Those that nobody is asked for right now.
    index: Index,
    /// Payers that had too many unstarted deals when an offer fitted a request of theirs.
    held_back: BTreeSet<Address>,
    /// Requests that are to be held against all offers.
    awake: BTreeSet<u64>,
}

impl RequestBook {
    /// An empty book.
    pub fn new(limits: RestingLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Requests that rest.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A request that rests.
    pub fn get(&self, id: RequestId) -> Option<&RequestRecord> {
        self.of_id(id).map(|resting| &resting.record)
    }

    /// The requests that rest, by id.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.by_id.keys().copied()
    }

    /// Whether this one may rest as well.
    pub(crate) fn check_room(&self, request: &Request) -> Result<(), NoRest> {
        let RestingLimits {
            requests,
            requests_per_payer,
        } = self.limits;
        let count = request.count();
        let own = self.of_payer(request.payer);
        let own = own.filter_map(|number| self.of_number(number));
        let own: usize = own.map(|own| own.record.request.message.count()).sum();
        if own + count > requests_per_payer {
            return Err(NoRest::TooMany(requests_per_payer));
        }
        if self.leases + count > requests {
            return Err(NoRest::Full(requests));
        }
        Ok(())
    }

    /// Puts a request in, with the offers that it need not be held against any more.
    pub(crate) fn insert(&mut self, record: RequestRecord, tried: Vec<OfferId>) {
        let resting = Resting {
            record,
            tried,
            asked: None,
            found: Avoid::default(),
        };
        let (number, request) = (resting.record.number, &resting.record.request.message);
        self.leases += request.count();
        self.by_id.insert(request.id(), number);
        let own = self.by_payer.entry(request.payer).or_default();
        own.insert(number);
        self.by_end.insert((request.rest_until, number));
        self.index.insert(number, request, &resting.found);
        self.requests.insert(number, resting);
    }

    /// Takes a request out.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Resting> {
        let resting = self.requests.remove(&number)?;
        let request = &resting.record.request.message;
        self.leases -= request.count();
        self.by_id.remove(&resting.record.id());
        if let Some(own) = self.by_payer.get_mut(&request.payer) {
            own.remove(&number);
            if own.is_empty() {
                self.by_payer.remove(&request.payer);
                self.held_back.remove(&request.payer);
            }
        }
        self.by_end.remove(&(request.rest_until, number));
        self.awake.remove(&number);
        if resting.asked.is_none() {
            self.index.remove(number, request, &resting.found);
        }
        Some(resting)
    }

    pub(crate) fn of_id(&self, id: RequestId) -> Option<&Resting> {
        self.requests.get(self.by_id.get(&id)?)
    }

    pub(crate) fn of_number(&self, number: u64) -> Option<&Resting> {
        self.requests.get(&number)
    }

    /// Providers are asked, by a proposal or a bundle of several: nobody else is meanwhile.
    pub(crate) fn ask(&mut self, number: u64, by: u64) {
        if let Some(resting) = self.requests.get_mut(&number)
            && resting.asked.replace(by).is_none()
        {
            let found = std::mem::take(&mut resting.found);
            let request = &resting.record.request.message;
            self.index.remove(number, request, &found);
            self.awake.remove(&number);
        }
    }

    /// Too few offers fit a bundle, and nothing is of use to it that is like those that do.
    pub(crate) fn found_like(&mut self, number: u64, found: Avoid) {
        if let Some(resting) = self.requests.get_mut(&number)
            && resting.asked.is_none()
        {
            let request = &resting.record.request.message;
            self.index.remove(number, request, &resting.found);
            self.index.insert(number, request, &found);
            resting.found = found;
        }
    }

    /// Providers that were asked did not sign: the request waits for other offers than these.
    pub(crate) fn rest_on(&mut self, number: u64, tried: Vec<OfferId>) {
        if let Some(resting) = self.requests.get_mut(&number) {
            resting.asked = None;
            resting.tried = tried;
            // What a proposal is made unique by must not come twice.
            resting.record.seed = keccak256(resting.record.seed);
            let request = &resting.record.request.message;
            self.index.insert(number, request, &resting.found);
        }
    }

    /// This payer has too many unstarted deals.
    pub(crate) fn hold_back(&mut self, payer: Address) {
        self.held_back.insert(payer);
    }

    /// This payer may have one unstarted deal less.
    pub(crate) fn wake(&mut self, payer: Address) {
        if !self.held_back.remove(&payer) {
            return;
        }
        let own = self.by_payer.get(&payer).into_iter().flatten().copied();
        self.awake.extend(own);
    }

    /// A request is to be held against all offers.
    pub(crate) fn wake_one(&mut self, number: u64) {
        if self.requests.contains_key(&number) {
            self.awake.insert(number);
        }
    }

    /// Whether any request is to be held against all offers.
    pub(crate) fn is_awake(&self) -> bool {
        !self.awake.is_empty()
    }

    /// The requests that are to be held against all offers, the oldest first; no longer once they were.
    pub(crate) fn take_awake(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.awake)
    }

    /// Requests that an offer may fit, in the order of age.
    pub(crate) fn candidates(&self, offer: &impl Facts, prices: &Prices) -> RoaringTreemap {
        self.index.candidates(offer, prices)
    }

    /// The last second of the one that ends first.
    pub(crate) fn next_end(&self) -> Option<UnixSeconds> {
        self.by_end.first().map(|(at, _)| *at)
    }

    /// One that has ended before `now`.
    pub(crate) fn ended(&self, now: UnixSeconds) -> Option<u64> {
        let (at, number) = self.by_end.first()?;
        (*at < now).then_some(*number)
    }

    fn of_payer(&self, payer: Address) -> impl Iterator<Item = u64> {
        self.by_payer.get(&payer).into_iter().flatten().copied()
    }
}

/// A request as it comes to rest.
pub fn at_rest(number: u64, request: SignedRequest, seed: B256, now: UnixSeconds) -> RequestRecord {
    RequestRecord {
        number,
        request,
        seed,
        since: now,
        status: RequestStatus::Resting,
        reason: None,
        changed_at: now,
    }
}

#[cfg(test)]
#[path = "resting/index_tests.rs"]
mod index_tests;
