//! What requesters do.

use std::net::SocketAddr;

use ipsx_market::book::{Found, Position};
use ipsx_market::check::CheckContext;
use ipsx_market::fleet::Quote;
use ipsx_market::http::{BoundDeal, OfferView, RelayedWay};
use ipsx_market::market::{Answered, DealRefusal, Ticket};
use ipsx_market::messages::{BrokerMessage, EndReport};
use ipsx_market::record::DealRecord;
use ipsx_market::request::{Request, SignedRequest};
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Address, B256, DealId};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::{ATTEMPTS, Desk, DeskError};
use crate::clock;
use crate::metrics::failure_label;
use crate::operator::random;
use crate::relay::{NoRelay, Parties};
use crate::store::{NonceState, UseNonce};

/// Offers with their positions, and where the next page begins, if there is one.
pub(crate) type Page = (Vec<(OfferView, Position)>, Option<Position>);

impl Desk {
    /// Who checks what is signed for this network, now.
    pub(crate) fn check_context(&self) -> CheckContext {
        CheckContext {
            network: self.operator.network(),
            domain: self.operator.domain(),
            now: clock::now(),
        }
    }

    /// A page of the offers that are what somebody wants, cheapest first.
    pub(crate) async fn search(&self, query: &OfferQuery) -> Result<Page, DeskError> {
        // Never closed, so there is always a place in time.
        let _place = self.searches.acquire().await;
        let books = self.books().await?;
        // One more than asked for tells whether there is another page.
        let (book, lines) = (books.market.book(), query.limit + 1);
        let mut found = book.page(&query.wanted(), clock::now(), lines, query.after);
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| more).map(|last| last.position);
        let lines = found.iter().map(|found| (view(found), found.position));
        Ok((lines.collect(), next))
    }

    /// Finds a deal for a request, and waits for the provider's signature, or puts it to rest. With `again`, the same may
    /// have been asked before without an answer: what came of it is the answer, and without that it is taken up anew. With
    /// a `probe`, only the offer that it is for will do.
    pub(crate) async fn request(
        &self,
        requester: Address,
        request: SignedRequest,
        again: bool,
        probe: Option<B256>,
    ) -> Result<Answered, DeskError> {
        match self.admit(requester, &request, again).await? {
            Some(answer) => Ok(answer),
            None => self.place(request, probe).await,
        }
    }

    /// Whether a request may be placed, once; the deal that came of it already, if it is asked again.
    pub(crate) async fn admit(
        &self,
        requester: Address,
        request: &SignedRequest,
        again: bool,
    ) -> Result<Option<Answered>, DeskError> {
        let admitted = self.try_admit(requester, request, again).await;
        match &admitted {
            Ok(None) => {}
            Ok(Some(answer)) => self.metrics.requested(came_of(answer)),
            Err(error) => self.metrics.requested(label(error)),
        }
        admitted
    }

    async fn try_admit(
        &self,
        requester: Address,
        request: &SignedRequest,
        again: bool,
    ) -> Result<Option<Answered>, DeskError> {
        let id = request.message.id();
        if again && let Some(answer) = self.answered(&request.message).await? {
            return Ok(Some(answer));
        }
        if self.is_draining() {
            return Err(DeskError::Draining);
        }
        let context = self.check_context();
        context
            .request(request, requester)
            .map_err(|reason| DeskError::Unusable {
                what: "request",
                reason,
            })?;
        self.check_appointed(&request.message).await?;
        self.check_deposit(&request.message).await?;
        let (nonce, expires_at) = (request.message.nonce, request.message.expires_at);
        let used = UseNonce {
            requester,
            nonce,
            request: id,
            expires_at,
        };
        // What comes of the request is written by this broker, after this, or, in a fleet, by another.
        let used = match self.fleet {
            None => self.store.write_unsynced(used).await,
            Some(_) => self.store.write(used).await,
        };
        match used? {
            NonceState::Fresh => Ok(None),
            // Begun before, and nothing came of it.
            NonceState::Same if again => Ok(None),
            NonceState::Same | NonceState::Other => Err(DeskError::Replayed(nonce)),
        }
    }

    /// The best that is in the book for a request.
    pub(crate) async fn quote(&self, request: &Request) -> Result<Quote, DeskError> {
        let mut books = self.books().await?;
        Ok(books.market.quote(request, clock::now())?)
    }

    /// How long a request may take to be placed.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs((self.timers.propose + 2) * ATTEMPTS as u64)
    }

    /// Proposes a request that was admitted, and waits for a provider's signature.
    pub(crate) async fn place(
        &self,
        request: SignedRequest,
        probe: Option<B256>,
    ) -> Result<Answered, DeskError> {
        let placed = self.try_place(request, probe).await;
        let outcome = placed.as_ref().map_or_else(label, came_of);
        self.metrics.requested(outcome);
        placed
    }

    async fn try_place(
        &self,
        request: SignedRequest,
        probe: Option<B256>,
    ) -> Result<Answered, DeskError> {
        let (answer, answered) = oneshot::channel();
        let now = clock::now();
        {
            let mut books = self.books().await?;
            books.tickets += 1;
            let ticket = Ticket(books.tickets);
            let seed = B256::from(random::<32>());
            let market = &mut books.market;
            let commands = match probe {
                Some(task) => market.request_for_probe(ticket, request, seed, task, now)?,
                None => market.request(ticket, request, seed, now),
            };
            books.answers.insert(ticket, answer);
            self.execute(books, commands, now).await?;
        }
        match timeout(self.patience(), answered).await {
            Ok(Ok(answer)) => Ok(answer?),
            _ => Err(DeskError::NoAnswer),
        }
    }

    /// The network's word on a deal of this requester or provider.
    pub(crate) async fn outcome(
        &self,
        wallet: Address,
        id: DealId,
    ) -> Result<BoundDeal, DeskError> {
        let record = self.deal(wallet, id).await?;
        let outcome = self.store.outcome(id).await?;
        let outcome = outcome.ok_or(DealRefusal::State {
            deal_id: id,
            status: record.status(),
            wanted: "told the outcome of",
        })?;
        Ok(BoundDeal {
            outcome,
            reservation: record.reservation,
        })
    }

    /// The requester's tunnel is up.
    pub(crate) async fn connected(
        &self,
        requester: Address,
        id: DealId,
    ) -> Result<DealRecord, DeskError> {
        {
            let now = clock::now();
            let mut books = self.books().await?;
            let commands = books.market.connected(requester, id, now)?;
            self.execute(books, commands, now).await?;
        }
        self.deal(requester, id).await
    }

    /// The requester's tunnel sends from here, as it was seen: its provider is told.
    pub(crate) async fn requester_endpoint(
        &self,
        requester: Address,
        id: DealId,
        endpoint: SocketAddr,
    ) -> Result<(), DeskError> {
        let books = self.books().await?;
        let commands = books.market.requester_endpoint(requester, id, endpoint)?;
        self.execute(books, commands, clock::now()).await
    }

    /// No way leads from the requester to the provider: both are told one by the relay. Asked again, it is the same, unless the
    /// lease has lost it.
    pub(crate) async fn relay(
        &self,
        requester: Address,
        id: DealId,
    ) -> Result<RelayedWay, DeskError> {
        let books = self.books().await?;
        let deal = books.market.may_be_relayed(requester, id)?;
        let parties = Parties {
            payer: deal.payer,
            provider: deal.provider,
        };
        let relay = self.relay.as_ref().ok_or(NoRelay::Off)?;
        let ways = relay.open(id, parties)?;
        let commands = books.market.relayed(id, ways.relay, ways.provider);
        self.execute(books, commands, clock::now()).await?;
        Ok(RelayedWay {
            relay: ways.relay,
            token: ways.requester,
        })
    }

    /// The requester ended the lease. Said again, or after the deal was closed, it changes nothing.
    pub(crate) async fn end(
        &self,
        requester: Address,
        id: DealId,
        report: EndReport,
    ) -> Result<DealRecord, DeskError> {
        let record = self.deal(requester, id).await?;
        if let Some(voucher) = &report.voucher
            && record.is_bound()
        {
            self.keep_voucher(&record, voucher).await?;
        }
        {
            let now = clock::now();
            let mut books = self.books().await?;
            match books.market.requester_ended(requester, id, report, now) {
                Ok(commands) => self.execute(books, commands, now).await?,
                Err(DealRefusal::Unknown(_)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        self.deal(requester, id).await
    }

    /// A deal, for its requester or its provider.
    pub(crate) async fn deal(&self, wallet: Address, id: DealId) -> Result<DealRecord, DeskError> {
        let found = self.store.deal(id).await?;
        let record = found.ok_or(DealRefusal::Unknown(id))?;
        if record.deal.requester == wallet || record.deal.provider == wallet {
            Ok(record)
        } else {
            Err(DealRefusal::NotYours(id).into())
        }
    }

    /// Carries sealed frames from the payer to the provider.
    pub(crate) async fn frames_to_provider(
        &self,
        requester: Address,
        id: DealId,
        frames: Vec<Vec<u8>>,
    ) -> Result<(), DeskError> {
        let provider = self.running(requester, id).await?;
        for sealed in frames {
            let message = BrokerMessage::Frame {
                deal_id: id,
                sealed,
            };
            let sent = self.registry.offer(provider, message);
            let outcome = if sent { "to_provider" } else { "dropped" };
            self.metrics.frames.with_label_values(&[outcome]).inc();
        }
        Ok(())
    }

    /// The provider of a deal that is going on, if it is this requester's.
    pub(crate) async fn running(
        &self,
        requester: Address,
        id: DealId,
    ) -> Result<Address, DeskError> {
        let books = self.books().await?;
        let record = books.market.deal(id).ok_or(DealRefusal::Unknown(id))?;
        if record.deal.requester != requester {
            return Err(DealRefusal::NotYours(id).into());
        }
        let status = record.status();
        if !record.is_bound() || status.is_over() {
            let wanted = "sent frames";
            return Err(DealRefusal::State {
                deal_id: id,
                status,
                wanted,
            }
            .into());
        }
        Ok(record.deal.provider)
    }
}

/// By which what came of a request is counted.
fn came_of(answer: &Answered) -> &'static str {
    match answer {
        Answered::Deal(_) | Answered::Bundle(_) => "matched",
        Answered::Rests(_) => "rests",
    }
}

/// By which a request that came to nothing is counted.
fn label(error: &DeskError) -> &'static str {
    match error {
        DeskError::Failure(failure) => failure_label(failure),
        DeskError::Deposit { .. } => "insufficient_deposit",
        DeskError::Unusable { .. } | DeskError::Replayed(_) => "unusable",
        _ => "failed",
    }
}

fn view(found: &Found) -> OfferView {
    let listing = &found.listing;
    let offer = &listing.offer;
    OfferView {
        offer: listing.id,
        provider: offer.provider,
        placement: listing.placement.clone(),
        protocols: offer.protocols,
        tier: offer.tier,
        ports: offer.ports.clone(),
        services: offer.services.clone(),
        prices: offer.prices,
        capacity: offer.capacity,
        free_leases: found.free_leases,
        min_seconds: offer.min_seconds,
        max_seconds: offer.max_seconds,
    }
}
