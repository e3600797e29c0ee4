//! The one writer: everything that changes the market or the ledger passes here, one thing at a time, and is on disk
//! before anybody hears of it (see [`release`]).

mod agents;
mod chain_view;
mod deals;
mod error;
mod lapsing;
mod money;
mod news;
mod overview;
mod places;
mod probing;
mod release;
mod resting;
mod shards;
mod signing;
mod timeouts;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipsx_market::book::BookLimits;
use ipsx_market::deal::Binding;
use ipsx_market::market::{Answered, Market, MarketConfig, RequestFailure, Ticket};
use ipsx_market::proof::Proofs;
use ipsx_market::resting::RestingLimits;
use ipsx_metering::{Amount, B256, CapacityLedger, CreditLine, DealId};
use ipsx_settlement::VoucherStore;
use tokio::sync::{Mutex, Notify, Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::agents::Registry;
use crate::clock;
use crate::config::BrokerConfig;
use crate::fleet::Fleet;
use crate::mailbox::Mailboxes;
use crate::metrics::Metrics;
use crate::operator::{Operator, random};
use crate::placement::Placer;
use crate::reflector::Reflector;
use crate::relay::Relay;
use crate::store::{Entries, Entry, FleetStore, Store, StoreError};

pub(crate) use deals::Page;
pub(crate) use error::DeskError;
pub(crate) use news::{Changed, News};
pub(crate) use overview::Overview;
pub(crate) use probing::ProofLine;

/// Providers that are asked for one request, one after the other.
const ATTEMPTS: usize = 3;
/// Searches at the same time.
const SEARCHES: usize = 4;
/// News of deals that a slow reader may fall behind.
const NEWS: usize = 1_024;

type Answer = Result<Answered, RequestFailure>;

/// What one thing at a time may change.
pub(crate) struct Books {
    market: Market,
    ledger: CapacityLedger,
    answers: HashMap<Ticket, oneshot::Sender<Answer>>,
    tickets: u64,
    /// Deals whose money is being looked at right now.
    funding: HashSet<DealId>,
    /// Steps whose order is fixed.
    line: release::Line,
    /// Which part of the market is done here; all of it, for a broker that is alone.
    part: Option<shards::Part>,
}

/// What a desk works with besides its books.
pub(crate) struct Surroundings {
    pub(crate) operator: Arc<Operator>,
    pub(crate) placer: Placer,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fleet: Option<Arc<Fleet>>,
    pub(crate) reflector: Option<Arc<Reflector>>,
    pub(crate) relay: Option<Arc<Relay>>,
}

/// The broker's desk.
pub(crate) struct Desk {
    books: Mutex<Books>,
    pub(crate) store: Store,
    /// What several brokers do in turns.
    pub(crate) shared: Option<FleetStore>,
    /// The other brokers.
    pub(crate) fleet: Option<Arc<Fleet>>,
    vouchers: Arc<VoucherStore>,
    /// Claims worth less are not submitted for others.
    claim_at_least: Amount,
    pub(crate) operator: Arc<Operator>,
    pub(crate) registry: Registry,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) placer: Arc<Placer>,
    reflector: Option<Arc<Reflector>>,
    pub(crate) relay: Option<Arc<Relay>>,
    news: broadcast::Sender<News>,
    timers: ipsx_market::status::DealTimers,
    /// Payers that are looked up on the chain take turns; several share a place.
    turns: [Mutex<()>; 64],
    /// Searches walk the whole book, and anybody may ask for one: only a few may stand in the others' way.
    searches: Semaphore,
    /// Anybody may ask for it, so it is kept for a moment.
    overview: Mutex<overview::Cached>,
    draining: AtomicBool,
    stopped: AtomicBool,
    failure: Notify,
}

impl Desk {
    /// Takes up everything where the store left it. The task says what is on disk; nothing is said without it.
    pub(crate) async fn open(
        config: &BrokerConfig,
        store: Store,
        vouchers: VoucherStore,
        surroundings: Surroundings,
    ) -> Result<(Arc<Self>, JoinHandle<()>), StoreError> {
        let Surroundings {
            operator,
            placer,
            metrics,
            fleet,
            reflector,
            relay,
        } = surroundings;
        let now = clock::now();
        let (line, released) = mpsc::unbounded_channel();
        let market_config = MarketConfig {
            network: operator.network(),
            domain: operator.domain(),
            timers: config.timers,
            book: BookLimits {
                offers: config.limits.offers as usize,
                offers_per_provider: config.limits.offers_per_provider as usize,
            },
            resting: RestingLimits {
                requests: config.limits.resting as usize,
                requests_per_payer: config.limits.resting_per_payer as usize,
            },
            unstarted_deals: config.limits.unstarted_deals as usize,
            attempts: ATTEMPTS,
        };
        let credit_line = CreditLine {
            total: config.credit_line,
            per_payer: config.credit_line,
        };
        let (accounts, damaged) = store.accounts().await?;
        if let Some(error) = damaged.into_iter().next() {
            return Err(error);
        }
        let ledger = CapacityLedger::restore(operator.network(), credit_line, accounts);
        for record in store.deals_without_outcome().await? {
            let outcome = operator.outcome(record.deal_id, Binding::Aborted);
            let entry = Entry::Outcome(Box::new(outcome), now);
            store.write(Entries(vec![entry])).await?;
        }
        let shared = match &fleet {
            None => None,
            Some(_) => {
                store.name_shards().await?;
                Some(FleetStore::open(&config.store).await?)
            }
        };
        // A broker of a fleet begins with nothing, and takes over shard by shard.
        let records = match &fleet {
            None => store.open_deals().await?,
            Some(_) => Vec::new(),
        };
        // The other end is below.
        let _ = line.send(release::Queued::promises(&records));
        let secret = B256::from(random::<32>());
        let proofs = Proofs::restore(config.proofs, secret, store.proofs().await?, now);
        let mut market = Market::new(market_config, records, now).with_proofs(proofs);
        match &fleet {
            None => market.restore(store.resting_requests().await?),
            // No two brokers count the ages of their offers by the same numbers.
            Some(_) => market.share(u64::from_be_bytes(random()) >> 2),
        }
        let books = Books {
            market,
            ledger,
            answers: HashMap::new(),
            tickets: 0,
            funding: HashSet::new(),
            line,
            part: fleet
                .as_ref()
                .map(|fleet| shards::Part::new(fleet.me().clone())),
        };
        let desk = Arc::new(Self {
            books: Mutex::new(books),
            store,
            shared,
            fleet,
            vouchers: Arc::new(vouchers),
            claim_at_least: config.claim_at_least,
            operator,
            registry: Registry::default(),
            mailboxes: Mailboxes::default(),
            metrics,
            placer: Arc::new(placer),
            reflector,
            relay,
            news: broadcast::channel(NEWS).0,
            timers: config.timers,
            turns: std::array::from_fn(|_| Mutex::new(())),
            searches: Semaphore::new(SEARCHES),
            overview: Mutex::default(),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            failure: Notify::new(),
        });
        let releasing = tokio::spawn(Arc::clone(&desk).release(released));
        Ok((desk, releasing))
    }

    /// News of deals.
    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Brings the gauges up to date.
    pub(crate) async fn measure(&self) {
        let books = self.books.lock().await;
        let book = books.market.book();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.agents.set(count(self.registry.len()));
        self.metrics.offers.set(count(book.len()));
        let resting = books.market.resting().len();
        self.metrics.resting.set(count(resting));
        let for_sale = i64::try_from(book.for_sale()).unwrap_or(i64::MAX);
        self.metrics.offers_for_sale.set(for_sale);
        self.metrics.leases_held.set(count(book.leases_held()));
        self.metrics
            .leases_free
            .set(i64::try_from(book.leases_free()).unwrap_or(i64::MAX));
        let full = !self.store.room().is_left();
        self.metrics.store_full.set(full.into());
        let commits = &self.metrics.store_commits;
        commits.inc_by(self.store.commits().saturating_sub(commits.get()));
        self.metrics
            .set_money(books.ledger.accounts().map(|(_, account)| account));
        self.metrics
            .set_open(books.market.deals().map(|r| r.status()));
    }

    /// Returns once the store has failed: the broker must be started again.
    pub(crate) async fn failed(&self) {
        loop {
            let failure = self.failure.notified();
            if self.has_stopped() {
                return;
            }
            failure.await;
        }
    }

    /// Takes no more, writes nothing more.
    pub(crate) async fn close(&self) {
        let _books = self.books.lock().await;
        self.halt();
        self.store.close().await;
        if let (Some(shared), Some(fleet)) = (&self.shared, &self.fleet)
            && let Err(error) = shared.depart(fleet.me()).await
        {
            tracing::info!(%error, "the others find out by themselves that this broker has gone");
        }
    }

    /// Takes no new requests, or takes them again.
    pub(crate) fn drain(&self, draining: bool) {
        tracing::info!(draining, "the operator's wish");
        self.draining.store(draining, Ordering::SeqCst);
    }

    /// Whether new requests are turned away.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// This broker has lost its place among the others, and does nothing more until it is started again.
    pub(crate) fn cut_off(&self, reason: &str) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            tracing::error!(reason, "cut off from the fleet; the broker stops answering");
        }
        self.failure.notify_waiters();
    }

    /// Begins nothing more.
    pub(crate) fn halt(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether it has stopped answering.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    async fn books(&self) -> Result<tokio::sync::MutexGuard<'_, Books>, DeskError> {
        let books = self.books.lock().await;
        if self.has_stopped() {
            return Err(DeskError::Stopped);
        }
        Ok(books)
    }

    /// For writes of what memory has already: one that failed leaves the two apart, and nothing more is released until
    /// the broker starts again.
    fn durable(&self, written: Result<(), DeskError>) -> Result<(), DeskError> {
        written.inspect_err(|error| {
            if !self.stopped.swap(true, Ordering::SeqCst) {
                tracing::error!(%error, "the store failed; the broker stops answering");
            }
            self.failure.notify_waiters();
        })
    }
}
