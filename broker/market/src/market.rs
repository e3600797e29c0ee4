//! The market of one network as a machine: what agents and requesters say goes in, what the broker must do comes out.
//!
//! Nothing is done here: the caller executes the returned [`Command`]s in order, each store before the message that
//! follows it, and drives the clock with [`Market::handle_timeout`]. A deal is bound in two steps, because the
//! money stands between them: [`Market::sign`] takes the requester's signature, and [`Market::bind`] the network's
//! signed word and reservation, once the caller has written both down. After whatever was called, requests that rest may
//! fit offers that have changed by it: [`Market::match_resting`] looks.

mod appeals;
mod bundling;
mod clock;
mod exit_address;
mod lease;
mod proposals;
mod proving;
mod resting;
mod shards;
mod signing;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipsx_metering::{
    Address, B256, Channel, DealId, Domain, NetworkId, OfferId, RequestId, Signed, UnixSeconds,
    Voucher,
};

use crate::book::{BookLimits, HoldId, Listing, NoMatch, OfferBook};
use crate::deal::Proposal;
use crate::http::{ProposedDeal, RequestView};
use crate::messages::BrokerMessage;
use crate::offer::Placement;
use crate::proof::{Proof, Proofs, Subject};
use crate::record::{Cause, DealRecord, Transition};
use crate::resting::{NoRest, RequestBook, RequestRecord, RestingLimits};
use crate::status::{
    DealStatus, DealTimers, ProviderStatus, RequesterStatus, Side, silence_deadline,
};
use bundling::Bundling;
use proposals::Proposals;
pub use resting::RequestRefusal;

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

/// Names the caller of [`Market::request`] in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the caller must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send to the agent of this provider, if it is connected.
    Send {
        /// The provider.
        provider: Address,
        /// What.
        message: Box<BrokerMessage>,
    },
    /// Write down, durably, before the next command.
    Store {
        /// The deal as it is now.
        record: Box<DealRecord>,
        /// What changed it, in order.
        transitions: Vec<Transition>,
    },
    /// Write down a request that rests, or what became of it, in the same way.
    StoreRequest {
        /// The request as it is now.
        record: Box<RequestRecord>,
    },
    /// Keep a voucher as one that its provider is owed, durably, before the next command.
    Forfeit {
        /// The provider's channel.
        channel: Box<Channel>,
        /// What was prepaid through it.
        voucher: Box<Signed<Voucher>>,
    },
    /// Write down what is known of an address, in the same way.
    StoreProof {
        /// The address.
        subject: Subject,
        /// What is known of it now.
        proof: Box<Proof>,
    },
    /// Answer a request.
    Answer {
        /// The ticket it was posted with.
        ticket: Ticket,
        /// What came of it, or why nothing did.
        answer: Result<Answered, RequestFailure>,
    },
    /// Sign `Outcome(aborted)`, write it down unless there is an outcome already, then tell the provider.
    Abort {
        /// The provider that signed the deal.
        provider: Address,
        /// The deal.
        deal_id: DealId,
    },
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A deal to sign.
    Deal(Box<ProposedDeal>),
    /// Several, of a request for several addresses.
    Bundle(Vec<ProposedDeal>),
    /// It waits for an offer.
    Rests(Box<RequestView>),
}

/// Why a request got no deal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    /// Nothing in the book.
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    /// The requester has enough deals that have not started.
    #[error(
        "{0} deals of yours have not started yet, and no more are allowed; start or end one of them, or wait for them to expire"
    )]
    TooManyUnstarted(usize),
    /// It could rest, but the book takes no more.
    #[error("no offer fits now, and {0}")]
    NoRest(#[from] NoRest),
    /// Several addresses were wanted, and too few were found.
    #[error(
        "{found} of {wanted} addresses were found ({reason}), and nothing is leased; ask for fewer, or loosen the filter"
    )]
    Incomplete {
        /// How many were, before it was given up.
        found: usize,
        /// How many are wanted.
        wanted: usize,
        /// Why there are no more.
        reason: String,
    },
    /// Providers matched, but none signed.
    #[error(
        "{asked} matching providers were asked and none signed (the last one: {reason}); try again"
    )]
    NoneSigned {
        /// How many.
        asked: usize,
        /// The last one's words.
        reason: String,
    },
}

/// Something was said about a deal that its state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DealRefusal {
    /// No such deal is going on.
    #[error("no deal {0} is going on")]
    Unknown(DealId),
    /// It belongs to others.
    #[error("deal {0} is not yours")]
    NotYours(DealId),
    /// It is of another request, or named twice.
    #[error("deal {0} is of another request than {1}, or named twice")]
    OtherRequest(DealId, RequestId),
    /// It is good for nothing without others.
    #[error(
        "deal {0} is one of {1} that are leased together: sign all of them at once, with POST /v1/bundles/{{id}}/signatures"
    )]
    Together(DealId, u8),
    /// Not in this state.
    #[error("deal {deal_id} is {status}: it can't be {wanted} now")]
    State {
        /// The deal.
        deal_id: DealId,
        /// Where it stands.
        status: DealStatus,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The requester's signature came after `sign_by`.
    #[error("the signature came {late} s after sign_by; request another deal")]
    TooLate {
        /// Seconds.
        late: u64,
    },
    /// The requester's signature does not hold.
    #[error("the deal's signature: {0}")]
    Signature(#[from] ipsx_metering::VerifyError),
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
}

pub use appeals::AppealRefusal;
pub use proving::{Placed, ProbeRefusal};

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

    /// Finds out anew where these offers are, and tells the providers of those that are elsewhere now; what was measured
    /// stays.
    pub fn place_anew(
        &mut self,
        offers: &[OfferId],
        place: impl Fn(IpAddr) -> Placement,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        for id in offers {
            let Some(mut listing) = self.book.get(*id) else {
                continue;
            };
            let mut placement = place(listing.placement.address);
            let subject = Subject::of(&listing.offer, listing.placement.address);
            match self.proofs.get(&subject) {
                Some(proof) => proof.complete(&mut placement),
                None => placement.measured = listing.placement.measured,
            }
            if placement == listing.placement {
                continue;
            }
            let was = std::mem::replace(&mut listing.placement, placement.clone());
            let (provider, offer) = (listing.offer.provider, listing.id);
            let subject = Subject::of(&listing.offer, was.address);
            let withheld = self.proofs.withheld(&subject, now);
            let placed = self.book.put_as(listing, withheld.is_none());
            if placed.is_ok() && !was.is_same_place(&placement) {
                let message = BrokerMessage::OfferPlaced {
                    offer,
                    placement,
                    withheld,
                };
                commands.push(Command::Send {
                    provider,
                    message: Box::new(message),
                });
            }
        }
        commands
    }

    /// Takes an offer back.
    pub fn withdraw(&mut self, provider: Address, offer: OfferId) -> bool {
        self.book.withdraw(provider, offer)
    }

    /// An agent has proved its wallet. Returns what it must be told, and the deals that the broker holds for
    /// unfinished, for [`BrokerMessage::Authenticated`], which goes out before the commands.
    pub fn agent_joined(&mut self, provider: Address) -> (Vec<DealId>, Vec<Command>) {
        let ids: Vec<_> = self.deals_of(provider);
        let mut commands = Vec::new();
        let mut unfinished = Vec::new();
        for id in ids {
            let Some(live) = self.deals.get_mut(&id) else {
                continue;
            };
            live.away_since = None;
            if live.record.is_bound() {
                unfinished.push(id);
            }
            commands.extend(lease::remind(&live.record));
            self.reschedule(id);
        }
        (unfinished, commands)
    }

    /// An agent's connection is gone: its offers leave at once, its leases wait for its return.
    pub fn agent_left(&mut self, provider: Address, now: UnixSeconds) -> Vec<Command> {
        self.book.withdraw_all(provider);
        let mut commands = Vec::new();
        for id in self.deals_of(provider) {
            let Some(live) = self.deals.get_mut(&id) else {
                continue;
            };
            live.away_since = Some(now);
            // Nobody should sign, and tie up a deposit, for a lease that may never begin.
            if live.record.requester == RequesterStatus::Requested {
                let cause = Cause::Disconnected;
                let moved = live
                    .record
                    .provider_becomes(ProviderStatus::Silent, cause, now);
                commands.extend(self.store(id, moved, now));
            } else {
                self.reschedule(id);
            }
        }
        for number in self.pending.of_provider(provider) {
            commands.extend(self.try_next(number, "it lost its connection", now));
        }
        commands
    }

    fn deals_of(&self, provider: Address) -> Vec<DealId> {
        self.by_provider
            .get(&provider)
            .into_iter()
            .flatten()
            .copied()
            .collect()
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
