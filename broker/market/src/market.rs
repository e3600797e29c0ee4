//! The market of one network as a machine: what agents and requesters say goes in, what the broker must do comes out.
//!
//! Nothing is done here: the caller executes the returned [`Command`]s in order, each store before the message that
//! follows it, and drives the clock with [`Market::handle_timeout`]. A deal is bound in two steps, because the
//! money stands between them: [`Market::sign`] takes the requester's signature, and [`Market::bind`] the network's
//! signed word and reservation, once the caller has written both down. After whatever was called, requests that rest may
//! fit offers that have changed by it: [`Market::match_resting`] looks.

mod agents;
mod appeals;
mod bundling;
mod clock;
mod command;
mod exit_address;
mod lease;
mod proposals;
mod proposing;
mod proving;
mod quoting;
mod reaching;
mod refusal;
mod resting;
mod shards;
mod signing;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipsx_metering::{Address, B256, DealId, Domain, NetworkId, OfferId, UnixSeconds};

use crate::book::{BookLimits, HoldId, Listing, OfferBook};
use crate::deal::Proposal;
use crate::proof::Proofs;
use crate::reach::Reach;
use crate::record::{DealRecord, Transition};
use crate::resting::{RequestBook, RestingLimits};
use crate::status::{DealTimers, Side, silence_deadline};
pub use appeals::AppealRefusal;
use bundling::Bundling;
pub use command::{Answered, Command, Ticket};
use proposals::Proposals;
pub use proving::{Placed, ProbeRefusal};
pub use refusal::{DealRefusal, RequestFailure};
pub use resting::RequestRefusal;
pub use shards::Disputed;

/// What a market is told once.
#[derive(Clone, Copy, Debug)]
pub struct MarketConfig {
    /// The network.
    pub network: NetworkId,
    /// Its chain and contract.
    pub domain: Domain,
    /// Limits of silence.
    pub timers: DealTimers,
    /// Bounds of the book of offers.
    pub book: BookLimits,
    /// Bounds of the book of requests that rest.
    pub resting: RestingLimits,
    /// Deals of one payer that are proposed or agreed and not yet active.
    pub unstarted_deals: usize,
    /// Providers that are asked, one after the other, for one request.
    pub attempts: usize,
}

/// Who waits for a provider's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// Whoever posted the request, for an answer.
    Ticket(Ticket),
    /// A prober, for an answer; only the offer that it was sent to will do.
    Probe {
        ticket: Ticket,
        task: B256,
        offer: OfferId,
    },
    /// A request that rests, by its number.
    Resting(u64),
    /// A request for several addresses, for one of them.
    Leg { bundle: u64, leg: u8 },
}

impl Asker {
    /// Which of a request's leases it asks for.
    fn leg(self) -> u8 {
        match self {
            Self::Leg { leg, .. } => leg,
            Self::Ticket(_) | Self::Probe { .. } | Self::Resting(_) => 0,
        }
    }
}

/// A request that waits for a provider's signature.
#[derive(Clone, Debug)]
struct Pending {
    asker: Asker,
    provider: Address,
    listing: Listing,
    hold: HoldId,
    proposal: Proposal,
    asked_at: UnixSeconds,
    seed: B256,
    tried: Vec<OfferId>,
    /// What the provider has signed, while others of the same bundle have not yet.
    signed: Option<Box<DealRecord>>,
}

impl Pending {
    /// Whether it is this provider's turn.
    fn waits_for(&self, provider: Address) -> bool {
        self.provider == provider && self.signed.is_none()
    }
}

/// A deal that still holds capacity.
#[derive(Clone, Debug)]
struct Live {
    record: DealRecord,
    hold: HoldId,
    away_since: Option<UnixSeconds>,
    deadline: Option<UnixSeconds>,
    /// What has changed it and is written down with the next change.
    unwritten: Vec<Transition>,
}

impl Live {
    /// Which side becomes silent next, and the last second before it does.
    fn silence(&self, timers: &DealTimers) -> Option<(UnixSeconds, Side)> {
        let (record, clock) = (&self.record, self.record.clock(self.away_since));
        silence_deadline(timers, &clock, record.provider, record.requester)
    }
}

/// Everything that goes on in one network.
#[derive(Clone, Debug)]
pub struct Market {
    config: MarketConfig,
    book: OfferBook,
    /// Requests that rest.
    resting: RequestBook,
    /// Whether other brokers have other parts of it.
    shared: bool,
    /// The hour of which it is known which offers are for sale in it, in hours since 1970.
    hour: u64,
    pending: Proposals,
    /// Requests for several addresses whose providers are asked.
    bundles: BTreeMap<u64, Bundling>,
    deals: HashMap<DealId, Live>,
    by_provider: HashMap<Address, BTreeSet<DealId>>,
    by_payer: HashMap<Address, BTreeSet<DealId>>,
    deadlines: BTreeSet<(UnixSeconds, DealId)>,
    counter: u64,
    proofs: Proofs,
    reach: Reach,
}

impl Market {
    /// An empty market, or one that goes on where the records left it: with every agent away since `now`.
    ///
    /// Records that are closed are skipped. The commands of the first [`Self::handle_timeout`] settle what ran out
    /// meanwhile.
    pub fn new(config: MarketConfig, records: Vec<DealRecord>, now: UnixSeconds) -> Self {
        let mut market = Self {
            config,
            book: OfferBook::new(config.book),
            resting: RequestBook::new(config.resting),
            shared: false,
            hour: now.0 / 3_600,
            pending: Proposals::default(),
            bundles: BTreeMap::new(),
            deals: HashMap::new(),
            by_provider: HashMap::new(),
            by_payer: HashMap::new(),
            deadlines: BTreeSet::new(),
            counter: 0,
            proofs: Proofs::default(),
            reach: Reach::default(),
        };
        market.adopt(records, now);
        market
    }

    /// The offers.
    pub fn book(&self) -> &OfferBook {
        &self.book
    }

    /// A deal that is going on.
    pub fn deal(&self, id: DealId) -> Option<&DealRecord> {
        self.deals.get(&id).map(|live| &live.record)
    }

    /// Deals that are going on.
    pub fn deals(&self) -> impl Iterator<Item = &DealRecord> {
        self.deals.values().map(|live| &live.record)
    }

    /// The requests that rest.
    pub fn resting(&self) -> &RequestBook {
        &self.resting
    }

    /// Requests that wait for a provider.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn insert(&mut self, live: Live) {
        let (id, deal) = (live.record.deal_id, &live.record.deal);
        self.by_provider
            .entry(deal.provider)
            .or_default()
            .insert(id);
        self.by_payer.entry(deal.payer).or_default().insert(id);
        self.deals.insert(id, live);
        self.reschedule(id);
    }

    /// A payer's deals that are going on.
    fn deals_by(&self, payer: Address) -> impl Iterator<Item = &DealRecord> {
        let ids = self.by_payer.get(&payer).into_iter().flatten();
        ids.filter_map(|id| self.deal(*id))
    }

    /// Unstarted deals of a payer and its requests under way: a deposit is rarer than a requester's wallet.
    fn unstarted(&self, payer: Address) -> usize {
        let unstarted = self.deals_by(payer).filter(|record| record.is_unstarted());
        unstarted.count() + self.pending.of_payer(payer)
    }

    /// Whether a deal that still counts pays through the same channel: one serves one lease at a time.
    fn channel_is_busy(&self, record: &DealRecord) -> bool {
        let channel = record.deal.channel();
        let mut others = self
            .deals_by(record.deal.payer)
            .chain(self.pending.signed());
        others.any(|other| other.deal.channel() == channel)
    }
}

#[cfg(test)]
#[path = "market_history_tests.rs"]
mod history_tests;
#[cfg(test)]
mod start_tests;
#[cfg(test)]
#[path = "market_tests.rs"]
mod tests;
#[cfg(test)]
pub(crate) mod world;
