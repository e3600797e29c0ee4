//! What requesters ask about requests that rest.

use std::collections::{BTreeSet, HashSet};

use ipsx_market::fleet::ShardId;
use ipsx_market::http::{RequestView, SignBundle};
use ipsx_market::market::{Answered, Disputed, RequestFailure, RequestRefusal};
use ipsx_market::record::DealRecord;
use ipsx_market::request::{Request, SignedRequest};
use ipsx_market::resting::{RequestRecord, RequestStatus, at_rest};
use ipsx_metering::{Address, B256, RequestId, UnixSeconds};

use super::{Desk, DeskError};
use crate::clock;
use crate::operator::random;
use crate::store::{Entries, Entry, FleetStore, RequestTurn};

impl Desk {
    /// Where a request stands, for its requester.
    pub(crate) async fn request_view(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<RequestView, DeskError> {
        let Some(record) = self.store.request(id).await? else {
            // It never rested, if there was one.
            let deals = self.deals_of_request(requester, id).await?;
            let changed_at = deals.iter().map(|record| record.proposed_at).max();
            return Ok(RequestView {
                request: id,
                status: RequestStatus::Matched,
                reason: None,
                rest_until: UnixSeconds(0),
                changed_at: changed_at.ok_or(RequestRefusal::Unknown(id))?,
                deals: deals.iter().map(DealRecord::proposed).collect(),
            });
        };
        if record.request.message.requester != requester {
            return Err(RequestRefusal::NotYours(id).into());
        }
        self.view(&record).await
    }

    /// Takes a request back that rests. Said again, it changes nothing.
    pub(crate) async fn cancel_request(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<RequestView, DeskError> {
        if let Some(shared) = &self.shared {
            self.cancel_everywhere(shared, requester, id).await?;
            return self.cancelled(requester, id).await;
        }
        let now = clock::now();
        let mut books = self.books().await?;
        match books.market.cancel(requester, id, now) {
            Ok(commands) => self.execute(books, commands, now).await?,
            Err(RequestRefusal::Unknown(_)) => {
                // What became of it may be in line for the disk.
                let settled = self.line_up(&mut books, Default::default()).await;
                drop(books);
                settled.await?;
            }
            Err(refusal) => return Err(refusal.into()),
        }
        self.cancelled(requester, id).await
    }

    async fn cancelled(&self, requester: Address, id: RequestId) -> Result<RequestView, DeskError> {
        let view = self.request_view(requester, id).await?;
        match view.status {
            RequestStatus::Cancelled => Ok(view),
            status => Err(RequestRefusal::Over(id, status).into()),
        }
    }

    /// What came of a request that was posted before, if anything did.
    pub(crate) async fn answered(&self, request: &Request) -> Result<Option<Answered>, DeskError> {
        let (requester, id) = (request.requester, request.id());
        let deals = self.deals_of_request(requester, id).await?;
        if let Some(last) = deals.last() {
            let all = deals.iter().map(DealRecord::proposed);
            return Ok(Some(match request.count() {
                1 => Answered::Deal(Box::new(last.proposed())),
                _ => Answered::Bundle(all.collect()),
            }));
        }
        let Some(record) = self.store.request(id).await? else {
            return Ok(None);
        };
        match record.reason {
            Some(reason) if !record.has_rested() => Err(DeskError::WasRefused(reason)),
            _ => {
                let view = self.view(&record).await?;
                Ok(Some(Answered::Rests(Box::new(view))))
            }
        }
    }

    /// The deals of a request that its requester has heard of, or may: in the order of its legs, and of each leg the oldest
    /// first.
    async fn deals_of_request(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<Vec<DealRecord>, DeskError> {
        let mut deals = self.store.deals_of_request(requester, id).await?;
        deals.retain(|record| !record.turned_down);
        Ok(deals)
    }

    /// Takes a request back that rests at several brokers, if none of them has matched it.
    async fn cancel_everywhere(
        &self,
        shared: &FleetStore,
        requester: Address,
        id: RequestId,
    ) -> Result<(), DeskError> {
        let turn = shared.request_turn(id).await?;
        if !turn.rests {
            return Ok(());
        }
        let Some(record) = self.store.request(id).await? else {
            return Ok(());
        };
        if record.request.message.requester != requester {
            return Err(RequestRefusal::NotYours(id).into());
        }
        let record = record.becomes(RequestStatus::Cancelled, clock::now());
        self.keep_request(record).await.map(drop)
    }

    /// Puts a request to rest that found no offer at any broker, unless something has come of it by now.
    pub(crate) async fn rest(&self, request: SignedRequest) -> Result<Answered, DeskError> {
        let _turn = match &self.shared {
            Some(shared) => Some(shared.request_turn(request.message.id()).await?),
            None => None,
        };
        if let Some(answer) = self.answered(&request.message).await? {
            return Ok(answer);
        }
        let seed = B256::from(random::<32>());
        let record = {
            let books = self.books().await?;
            books.market.rest_everywhere(request, seed, clock::now())
        };
        let record = record.map_err(RequestFailure::NoRest)?;
        let record = self.keep_request(record).await?;
        self.metrics.requested("rests");
        Ok(Answered::Rests(Box::new(record.view(Vec::new()))))
    }

    /// No broker could fill a bundle: what became of it is kept if deals of it are known.
    pub(crate) async fn none_filled(
        &self,
        request: &SignedRequest,
        reason: &str,
    ) -> Result<(), DeskError> {
        let (requester, id) = (request.message.requester, request.message.id());
        let deals = self.store.deals_of_request(requester, id).await?;
        if deals.is_empty() {
            return Ok(());
        }
        let (seed, now) = (B256::from(random::<32>()), clock::now());
        let record = at_rest(now.0, request.clone(), seed, now).refused(reason.into(), now);
        let entry = Entry::SharedRequest(Box::new(record.clone()));
        self.store.write(Entries(vec![entry])).await?;
        self.report_request(&record);
        Ok(())
    }

    /// The shards of those deals of a request that are named and go on.
    pub(crate) async fn shards_of_bundle(
        &self,
        requester: Address,
        id: RequestId,
        named: &SignBundle,
    ) -> Result<BTreeSet<ShardId>, DeskError> {
        let mut deals = self.store.deals_of_request(requester, id).await?;
        deals.retain(|record| {
            let mut named = named.signatures.iter();
            record.closed_at.is_none() && named.any(|signed| signed.deal_id == record.deal_id)
        });
        Ok(deals.iter().map(ShardId::of).collect())
    }

    /// Writes a request down, and has all brokers look at it.
    async fn keep_request(&self, record: RequestRecord) -> Result<RequestRecord, DeskError> {
        let entry = Entry::Request(Box::new(record.clone()));
        self.store.write(Entries(vec![entry])).await?;
        self.report_request(&record);
        Ok(record)
    }

    /// Looks up whether a request rests, and has it rest here or no more.
    pub(crate) async fn follow_request(&self, id: RequestId) -> Result<(), DeskError> {
        let record = self.store.request(id).await?;
        let now = clock::now();
        let mut books = self.books().await?;
        let commands = match record.filter(|record| books.concerns(record)) {
            Some(record) => {
                books.market.put_to_rest(record, now);
                Vec::new()
            }
            None => books.market.drop_request(id, now),
        };
        self.execute(books, commands, now).await
    }

    /// The same for all requests.
    pub(crate) async fn follow_requests(&self) -> Result<(), DeskError> {
        let records = self.store.resting_requests().await?;
        let now = clock::now();
        let mut books = self.books().await?;
        let records = records.into_iter().filter(|record| books.concerns(record));
        let records: Vec<_> = records.collect();
        let ids: HashSet<_> = records.iter().map(RequestRecord::id).collect();
        let over: Vec<_> = books.market.resting().ids().collect();
        let mut commands = Vec::new();
        for id in over.into_iter().filter(|id| !ids.contains(id)) {
            commands.extend(books.market.drop_request(id, now));
        }
        for record in records {
            books.market.put_to_rest(record, now);
        }
        self.execute(books, commands, now).await
    }

    /// Waits until no other broker decides on the request that a proposal is for, if one may. What is returned has to be kept
    /// until what is decided is on disk.
    pub(super) async fn take_turn(
        &self,
        provider: Address,
        proposal: u64,
    ) -> Result<Option<RequestTurn>, DeskError> {
        let Some(shared) = &self.shared else {
            return Ok(None);
        };
        let disputed = {
            let books = self.books().await?;
            books.market.disputed(provider, proposal)
        };
        let Some(disputed) = disputed else {
            return Ok(None);
        };
        let (turn, is_open) = self.turn_with(shared, disputed).await?;
        if is_open {
            return Ok(Some(turn));
        }
        let (mut books, now) = (self.books().await?, clock::now());
        let commands = match disputed.rests {
            true => books.market.drop_request(disputed.request, now),
            false => books.market.was_filled(provider, proposal, now),
        };
        self.execute(books, commands, now).await?;
        Ok(None)
    }

    /// Fills bundles with what is signed whose last providers did not sign, if no other broker has filled them.
    pub(crate) async fn fill_undecided(&self) -> Result<(), DeskError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        while let Some((bundle, disputed)) = { self.books().await?.market.undecided() } {
            let (_turn, is_open) = self.turn_with(shared, disputed).await?;
            self.store.room().left().await;
            let (mut books, now) = (self.books().await?, clock::now());
            let commands = match (is_open, disputed.rests) {
                (true, _) => books.market.fill(bundle, now),
                (false, true) => books.market.drop_request(disputed.request, now),
                (false, false) => books.market.filled_before(bundle, now),
            };
            self.execute(books, commands, now).await?;
        }
        Ok(())
    }

    /// Waits until no other broker decides on a request, and finds out whether it may be filled. To be kept until what is decided
    /// is on disk.
    async fn turn_with(
        &self,
        shared: &FleetStore,
        disputed: Disputed,
    ) -> Result<(RequestTurn, bool), DeskError> {
        let Disputed {
            request: id,
            requester,
            rests,
        } = disputed;
        let turn = shared.request_turn(id).await?;
        let is_open = match rests {
            true => turn.rests,
            // Posted again, it may have been filled, put to rest or refused meanwhile.
            false => {
                let deals = self.deals_of_request(requester, id).await?;
                deals.is_empty() && self.store.request(id).await?.is_none()
            }
        };
        Ok((turn, is_open))
    }

    async fn view(&self, record: &RequestRecord) -> Result<RequestView, DeskError> {
        let requester = record.request.message.requester;
        let deals = match record.status {
            RequestStatus::Matched => self.deals_of_request(requester, record.id()).await?,
            _ => Vec::new(),
        };
        Ok(record.view(deals.iter().map(DealRecord::proposed).collect()))
    }
}
