//! The market of one network as a machine: what agents and requesters say goes in, what the broker must do comes out.
//!
//! Nothing is done here: the caller executes the returned [`Command`]s in order, each store before the message that
//! follows it, and drives the clock with [`Market::handle_timeout`]. A deal is bound in two steps, because the
//! money stands between them: [`Market::sign`] takes the requester's signature, and [`Market::bind`] the network's
//! signed word and reservation, once the caller has written both down.

mod clock;
mod exit_address;
mod lease;
mod proving;
mod shards;
mod signing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipsx_metering::{Address, B256, DealId, Domain, NetworkId, OfferId, UnixSeconds};

use crate::book::{BookLimits, HoldId, Listing, NoMatch, OfferBook};
use crate::deal::Proposal;
use crate::http::ProposedDeal;
use crate::messages::BrokerMessage;
use crate::offer::Placement;
use crate::proof::{Proof, Proofs, Subject};
use crate::record::{Cause, DealRecord, Transition};
use crate::status::{DealStatus, DealTimers, ProviderStatus, RequesterStatus};

/// What a market is told once.
#[derive(Clone, Copy, Debug)]
pub struct MarketConfig {
    /// The network.
    pub network: NetworkId,
    /// Its chain and contract.
    pub domain: Domain,
    /// Limits of silence.
    pub timers: DealTimers,
    /// Bounds of the book.
    pub book: BookLimits,
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
    /// Write down, durably, before the next command.
    StoreProof {
        /// Of this address.
        subject: Subject,
        /// What is known of it now.
        proof: Box<Proof>,
    },
    /// Answer a request.
    Answer {
        /// The ticket it was posted with.
        ticket: Ticket,
        /// A deal to sign, or why there is none.
        answer: Result<Box<ProposedDeal>, RequestFailure>,
    },
    /// Sign `Outcome(aborted)`, write it down unless there is an outcome already, then tell the provider.
    Abort {
        /// The provider that signed the deal.
        provider: Address,
        /// The deal.
        deal_id: DealId,
    },
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

/// A request that waits for a provider's signature.
#[derive(Clone, Debug)]
struct Pending {
    ticket: Ticket,
    provider: Address,
    listing: Listing,
    hold: HoldId,
    proposal: Proposal,
    asked_at: UnixSeconds,
    seed: B256,
    tried: Vec<OfferId>,
    /// The probe that it is for, which no other offer will do for.
    probe: Option<(B256, OfferId)>,
}

/// A deal that still holds capacity.
#[derive(Clone, Debug)]
struct Live {
    record: DealRecord,
    hold: HoldId,
    away_since: Option<UnixSeconds>,
    deadline: Option<UnixSeconds>,
}

/// Everything that goes on in one network.
#[derive(Clone, Debug)]
pub struct Market {
    config: MarketConfig,
    book: OfferBook,
    /// Proposals, by their number.
    pending: BTreeMap<u64, Pending>,
    deals: HashMap<DealId, Live>,
    by_provider: HashMap<Address, BTreeSet<DealId>>,
    by_payer: HashMap<Address, BTreeSet<DealId>>,
    deadlines: BTreeSet<(UnixSeconds, DealId)>,
    counter: u64,
    proofs: Proofs,
}

pub use proving::{AppealRefusal, Placed, ProbeRefusal};

impl Market {
    /// An empty market, or one that goes on where the records left it: with every agent away since `now`.
    ///
    /// Records that are closed are skipped. The commands of the first [`Self::handle_timeout`] settle what ran out
    /// meanwhile.
    pub fn new(config: MarketConfig, records: Vec<DealRecord>, now: UnixSeconds) -> Self {
        let mut market = Self {
            config,
            book: OfferBook::new(config.book),
            pending: BTreeMap::new(),
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
            let for_sale = self.book.is_for_sale(offer);
            if self.book.put_as(listing, for_sale).is_ok() && !was.is_same_place(&placement) {
                let message = BrokerMessage::OfferPlaced {
                    offer,
                    placement,
                    for_sale,
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
        let asked = self.pending.iter().filter(|(_, p)| p.provider == provider);
        let asked: Vec<_> = asked.map(|(number, _)| *number).collect();
        for number in asked {
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
        let unstarted =
            |r: &&DealRecord| matches!(r.status(), DealStatus::Proposed | DealStatus::Agreed);
        let asked = self
            .pending
            .values()
            .filter(|p| p.proposal.request.message.payer == payer);
        self.deals_by(payer).filter(unstarted).count() + asked.count()
    }

    /// Whether a deal that still counts pays through the same channel: one serves one lease at a time.
    fn channel_is_busy(&self, record: &DealRecord) -> bool {
        let channel = record.deal.channel();
        self.deals_by(record.deal.payer)
            .any(|other| other.deal.channel() == channel)
    }
}

#[cfg(test)]
#[path = "market_history_tests.rs"]
mod history_tests;
#[cfg(test)]
#[path = "market_tests.rs"]
mod tests;
