//! The members of a fleet, each with the offers of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipsx_benches::questions::Question;
use ipsx_benches::spread::NOW;
use ipsx_market::book::{BookLimits, HoldId, OfferBook};
use ipsx_market::fleet::{Instance, Member, Millis, Quote, Seen, ShardId, Timing, Wish};
use ipsx_market::offer::{Offer, Placement};
use rand::Rng;
use rand::rngs::StdRng;

/// A question to another broker and its answer.
const CALL: u64 = 2;
/// What an agent and the owner of its shard say to each other for a lease: proposed, accepted, bound, ready, and the end
/// from each side.
const FRAMES: u64 = 6;
/// News of a lease that each other broker hears: a deal's changes from proposed to its end.
const NEWS: u64 = 6;

pub(crate) struct Members {
    books: Vec<OfferBook>,
    owners: BTreeMap<ShardId, usize>,
    offers: usize,
}

/// What was done for some requests.
pub(crate) struct Work {
    pub(crate) leases: usize,
    /// Owners that were asked for a quote.
    pub(crate) asked: usize,
    /// Leases whose owner is not the broker that the request came to.
    pub(crate) elsewhere: usize,
    /// That one broker sent to another.
    pub(crate) messages: u64,
    /// News that all others heard.
    pub(crate) news: u64,
    /// Time that the books took.
    pub(crate) quotes: Duration,
    /// Leases of each member.
    owned: Vec<u64>,
    /// Messages that each sent or heard, without news.
    carried: Vec<u64>,
    /// News that each heard.
    heard: Vec<u64>,
}

/// What things cost a broker, in microseconds of a processor.
pub(crate) struct Costs {
    /// A lease, at the owner of its shard.
    pub(crate) lease: f64,
    /// A message, at both ends together.
    pub(crate) message: f64,
    /// News, at each that hears it.
    pub(crate) news: f64,
}

impl Members {
    pub(crate) fn new(brokers: usize, offers: &[(Offer, Placement)]) -> Self {
        let owners = share_out(brokers);
        let mut books: Vec<_> = (0..brokers)
            .map(|_| OfferBook::new(BookLimits::default()))
            .collect();
        for (offer, placement) in offers {
            let shard = ShardId::new(placement.country, offer.provider);
            let book = &mut books[owners[&shard]];
            book.place(offer.clone(), placement.clone()).unwrap();
        }
        Self {
            books,
            owners,
            offers: offers.len(),
        }
    }

    /// The part of all offers that the busiest member has.
    pub(crate) fn largest_share(&self) -> f64 {
        let most = self.books.iter().map(|book| book.ids().count()).max();
        most.unwrap() as f64 / self.offers as f64
    }

    /// Each request comes to one of the members, its lender's agent to another.
    pub(crate) fn work(&mut self, questions: &[&Question], random: &mut StdRng) -> Work {
        let brokers = self.books.len();
        let mut work = Work {
            leases: 0,
            asked: 0,
            elsewhere: 0,
            messages: 0,
            news: 0,
            quotes: Duration::ZERO,
            owned: vec![0; brokers],
            carried: vec![0; brokers],
            heard: vec![0; brokers],
        };
        for question in questions {
            let (edge, agent) = (random.gen_range(0..brokers), random.gen_range(0..brokers));
            let shards = ShardId::of_filter(&question.filter);
            let owners: BTreeSet<_> = shards.iter().map(|shard| self.owners[shard]).collect();
            work.asked += owners.len();
            let wanted = question.wanted();
            let began = Instant::now();
            let quotes = owners.iter().filter_map(|owner| {
                let best = self.books[*owner].best(&wanted, NOW, &[]).ok()?;
                Some((Quote::new(&best, &wanted), *owner))
            });
            let best = quotes.min();
            work.quotes += began.elapsed();
            for owner in owners.into_iter().filter(|owner| *owner != edge) {
                work.say(edge, owner, CALL);
            }
            let Some((_, owner)) = best else {
                continue;
            };
            let hold = HoldId(work.leases as u64 + 1);
            self.books[owner].take(hold, &wanted, NOW, &[]).unwrap();
            work.leases += 1;
            work.owned[owner] += 1;
            if owner != edge {
                work.elsewhere += 1;
                // It is placed, signed, said to be connected and ended.
                work.say(edge, owner, 4 * CALL);
            }
            if owner != agent {
                work.say(agent, owner, FRAMES);
            }
            for other in (0..brokers).filter(|other| *other != owner) {
                work.news += NEWS;
                work.heard[other] += NEWS;
            }
        }
        work
    }
}

impl Work {
    fn say(&mut self, one: usize, other: usize, messages: u64) {
        self.messages += messages;
        self.carried[one] += messages;
        self.carried[other] += messages;
    }

    /// Microseconds that the busiest member is busy for each lease of all.
    pub(crate) fn busiest(&self, costs: &Costs) -> f64 {
        let busy = (0..self.owned.len()).map(|at| {
            self.owned[at] as f64 * costs.lease
                + self.carried[at] as f64 * costs.message / 2.0
                + self.heard[at] as f64 * costs.news
        });
        busy.fold(0.0, f64::max) / self.leases as f64
    }
}

/// Which of so many brokers claims each shard.
fn share_out(brokers: usize) -> BTreeMap<ShardId, usize> {
    let names: Vec<Instance> = (0..brokers)
        .map(|n| format!("b{n}-{:08x}", n * 0x9e37_79b9).parse().unwrap())
        .collect();
    let seen = Seen {
        live: names.iter().cloned().collect(),
        shards: Vec::new(),
    };
    let mut owners = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
        let mut member = Member::new(name.clone(), Timing::default());
        let turn = member.handle_beat(Millis(0), seen.clone());
        for wish in turn.wishes {
            if let Wish::Claim { shard, .. } = wish {
                owners.insert(shard, number);
            }
        }
    }
    owners
}
