//! What a broker has told its requesters and agents, and whether it holds all of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::http::{BoundDeal, DealView, OfferView, ProposedDeal};
use ipsx_market::messages::BrokerMessage;
use ipsx_metering::{Amount, DealId, Reservation, Signed};
use tokio::time::sleep;

use crate::crowd::Witness;
use crate::market::Market;
use crate::requester::Requester;

/// Looks at deals and offers, which are not of the same instant, and the time between two.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// Everything that anybody was told.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Words>>);

#[derive(Clone, Debug, Default)]
struct Words {
    /// Deals that requesters were to sign.
    proposed: HashSet<DealId>,
    /// What anybody was told of a deal, each different word once.
    outcomes: HashMap<DealId, Vec<Signed<Outcome>>>,
    reservations: HashMap<DealId, Vec<Signed<Reservation>>>,
    /// Deals that an agent was told to serve.
    served: HashSet<DealId>,
}

/// How much was told, and held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Deals that a requester was to sign.
    pub proposed: usize,
    /// Deals that somebody was told are bound.
    pub bound: usize,
    /// Deals that an agent was told are not.
    pub aborted: usize,
    /// Deals that the broker has, whoever was told of them.
    pub deals: usize,
    /// Those of them that still count against an offer's capacity.
    pub open: usize,
}

impl Told {
    /// For a crowd: listens to what its agents are told.
    pub fn witness(&self) -> Witness {
        let told = self.clone();
        Arc::new(move |_, message| match message {
            BrokerMessage::DealBound {
                deal,
                outcome,
                reservation,
                ..
            } => {
                told.words().served.insert(deal.id());
                told.outcome(outcome);
                told.reservation(deal.id(), reservation);
            }
            BrokerMessage::DealAborted { outcome, .. } => told.outcome(outcome),
            _ => {}
        })
    }

    /// A requester was given a deal to sign.
    pub fn proposed(&self, deal: &ProposedDeal) {
        self.words().proposed.insert(deal.deal_id);
    }

    /// A requester was told that a deal is bound.
    pub fn bound(&self, bound: BoundDeal) {
        let id = bound.outcome.message.deal_id;
        self.outcome(bound.outcome);
        if let Some(reservation) = bound.reservation {
            self.reservation(id, reservation);
        }
    }

    fn outcome(&self, outcome: Signed<Outcome>) {
        let mut words = self.words();
        let of_deal = words.outcomes.entry(outcome.message.deal_id).or_default();
        if !of_deal.contains(&outcome) {
            of_deal.push(outcome);
        }
    }

    fn reservation(&self, id: DealId, reservation: Signed<Reservation>) {
        let mut words = self.words();
        let of_deal = words.reservations.entry(id).or_default();
        if !of_deal.contains(&reservation) {
            of_deal.push(reservation);
        }
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap()
    }

    /// Asks the broker for everything that was told, and for what must be true beside it: one word on each deal, one deal
    /// for each request, one lease on each channel, of each offer as much taken as there are deals that count, and of the
    /// deposits as much promised as the reservations say.
    ///
    /// All who asked must be among `requesters`, nobody may ask meanwhile, and every agent must be connected.
    ///
    /// # Panics
    ///
    /// If anything is not as it must be.
    #[allow(clippy::float_arithmetic, reason = "metrics are floats")]
    pub async fn check(&self, market: &Market, requesters: &[Requester]) -> Held {
        let deals = all_deals(requesters).await;
        let words = self.words().clone();
        for id in words.proposed.iter().chain(&words.served) {
            assert!(deals.contains_key(id), "{id} was told of and is forgotten");
        }
        let mut promised = BTreeMap::new();
        for (id, (requester, view)) in &deals {
            let told = words.outcomes.get(id).map_or(&[][..], Vec::as_slice);
            assert!(told.len() <= 1, "different words on one deal: {told:?}");
            let Some(held) = outcome(requester, *id).await else {
                assert!(told.is_empty(), "{id}: {told:?} is forgotten");
                continue;
            };
            assert!(told.iter().all(|told| *told == held.outcome), "{id}");
            let told = words.reservations.get(id).into_iter().flatten();
            let kept = held.reservation;
            assert!(told.into_iter().all(|told| Some(told) == kept.as_ref()));
            if let Some(kept) = kept {
                let of_channel = promised.entry(view.deal.channel().id()).or_default();
                *of_channel = kept.message.capacity.max(*of_channel);
            }
        }
        let promised: Amount = promised.into_values().sum();
        let counted = market.metric("ipsx_promised_tokens") * 1e18;
        assert_eq!(counted.round() as u128, promised.0);
        let requests: HashSet<_> = deals.values().map(|(_, view)| view.deal.request).collect();
        assert_eq!(requests.len(), deals.len(), "one deal for each request");
        let open = open_deals(requesters).await;
        let told = |binding| {
            let is = |words: &&Vec<Signed<Outcome>>| words[0].message.outcome == binding;
            words.outcomes.values().filter(is).count()
        };
        Held {
            proposed: words.proposed.len(),
            bound: told(Binding::Bound),
            aborted: told(Binding::Aborted),
            deals: deals.len(),
            open,
        }
    }
}

/// The network's word on a deal, if it was given.
async fn outcome(requester: &Requester, id: DealId) -> Option<BoundDeal> {
    let held = requester.get(&format!("/v1/deals/{id}/outcome")).await;
    match held {
        Ok(held) => Some(held),
        Err(problem) if problem.status == 409 => None,
        Err(problem) => panic!("{id}: {problem:?}"),
    }
}

async fn all_deals(requesters: &[Requester]) -> HashMap<DealId, (&Requester, DealView)> {
    let mut deals = HashMap::new();
    for requester in requesters {
        let of_it = requester.deals().await.into_iter();
        deals.extend(of_it.map(|view| (view.deal_id, (requester, view))));
    }
    deals
}

/// How many deals count against capacity: as many as the offers say, and no two on one channel.
async fn open_deals(requesters: &[Requester]) -> usize {
    let mut difference = String::new();
    for _ in 0..ATTEMPTS {
        let deals = all_deals(requesters).await;
        let views = deals.values().map(|(_, view)| view);
        let open: Vec<_> = views.filter(|view| !view.status.is_over()).collect();
        let channels: HashSet<_> = open.iter().map(|view| view.deal.channel().id()).collect();
        assert_eq!(channels.len(), open.len(), "one lease on each channel");
        let offers: Vec<OfferView> = requesters[0].get("/v1/offers").await.unwrap();
        let taken = |offer: &OfferView| {
            let of_it = open.iter().filter(|view| view.deal.offer == offer.offer);
            of_it.count() as u32
        };
        let exact = |offer: &OfferView| taken(offer) + offer.free_leases == offer.capacity.leases;
        let of_offers: u32 = offers.iter().map(taken).sum();
        if offers.iter().all(exact) && of_offers as usize == open.len() {
            return open.len();
        }
        difference = format!("{} deals, {offers:#?}", open.len());
        // One may have lapsed between the two answers.
        sleep(PAUSE).await;
    }
    panic!("capacity is not what the deals say: {difference}");
}
