//! A market that hears any messages of agents and any bodies of requesters, in any order: nobody's word moves what is not
//! theirs, nobody hears of others' deals, what is held is bounded, and in the end nothing is held.

use std::collections::BTreeMap;

use ipsx_market::avoid::Distinct;
use ipsx_market::book::BookLimits;
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::check::CheckContext;
use ipsx_market::codec;
use ipsx_market::deal::{Binding, Deal, Outcome, Proposal, ProviderTerms};
use ipsx_market::http::{
    Connected, EndDeal, Frames, PostRequest, PostWithdrawal, SignBundle, SignDeal, SignIn,
};
use ipsx_market::market::{Command, DealRefusal, Market, MarketConfig, Ticket};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndReport, Ready};
use ipsx_market::offer::{Offer, Placement, WeeklyHours};
use ipsx_market::record::DealRecord;
use ipsx_market::request::{SignedRequest, TunnelKey};
use ipsx_market::resting::{RequestStatus, RestingLimits};
use ipsx_market::search::OfferQuery;
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Address, Amount, B256, DealId, Domain, Reservation, SecretKey, Signed, TypedData, UnixSeconds,
};

use crate::bytes::Bytes;

const START: UnixSeconds = UnixSeconds(1_899_990_000);
/// Deals of one payer that have not started.
const UNSTARTED: usize = 4;
const OFFERS: usize = 4;
/// Requests that wait for an offer.
const RESTING: usize = 3;
const PROVIDERS: u8 = 3;
const REQUESTERS: u8 = 2;

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

fn provider(number: u8) -> SecretKey {
    key(1 + number % PROVIDERS)
}

fn requester(number: u8) -> SecretKey {
    key(50 + number % REQUESTERS)
}

/// The bodies and messages that are frozen, to begin with.
struct Examples {
    offer: Offer,
    request: SignedRequest,
    ready: Ready,
    report: EndReport,
}

impl Examples {
    fn new() -> Self {
        let offer = include_str!("../../golden/messages/agent-publish-offer.json");
        let AgentMessage::PublishOffer { offer } = serde_json::from_str(offer).unwrap() else {
            panic!("that is an offer");
        };
        let request = include_str!("../../golden/http/request.json");
        let ready = include_str!("../../golden/messages/agent-lease-ready.json");
        let AgentMessage::LeaseReady { ready, .. } = serde_json::from_str(ready).unwrap() else {
            panic!("that is a lease that is ready");
        };
        let report = include_str!("../../golden/http/end-deal.json");
        Self {
            offer: offer.message,
            request: serde_json::from_str::<PostRequest>(request)
                .unwrap()
                .request,
            ready,
            report: serde_json::from_str::<EndDeal>(report).unwrap().report,
        }
    }
}

/// Two or three addresses at once, of different providers.
fn bundle(who: u8) -> Bundle {
    let leg = |number: u8| Leg {
        tunnel_key: TunnelKey(B256::repeat_byte(200 + number)),
        channel_salt: B256::repeat_byte(200 + number),
    };
    Bundle {
        legs: (0..=who % 2).map(leg).collect(),
        distinct: Distinct::Provider,
        all_or_nothing: who % 8 < 6,
    }
}

struct World {
    market: Market,
    context: CheckContext,
    examples: Examples,
    proposals: Vec<(Address, u64, Proposal)>,
    records: BTreeMap<DealId, DealRecord>,
    nonce: u64,
}

pub(crate) fn check(input: &[u8]) {
    let mut input = Bytes(input);
    let mut world = World::new();
    // Longer histories find nothing that these don't.
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.holds_no_more_than_it_may();
    }
    world.comes_to_an_end();
}

impl World {
    fn new() -> Self {
        let examples = Examples::new();
        let config = MarketConfig {
            network: examples.offer.network,
            domain: Domain {
                chain_id: 1,
                contract: Address::repeat_byte(7),
            },
            timers: Default::default(),
            book: BookLimits {
                offers: OFFERS,
                offers_per_provider: 2,
            },
            resting: RestingLimits {
                requests: RESTING,
                requests_per_payer: 2,
            },
            unstarted_deals: UNSTARTED,
            attempts: 3,
        };
        Self {
            market: Market::new(config, Vec::new(), START),
            context: CheckContext {
                network: config.network,
                domain: config.domain,
                now: START,
            },
            examples,
            proposals: Vec::new(),
            records: BTreeMap::new(),
            nonce: 0,
        }
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        let (act, who) = (input.u8() % 16, input.u8());
        let wallet = provider(who);
        let now = self.context.now;
        match act {
            0 => {
                // As it came over the wire.
                if let Ok(message) = codec::decode(input.block()) {
                    self.hear(&wallet, message);
                }
            }
            1 => self.publish(&wallet, input),
            2 => self.accept(&wallet, input.u8()),
            3..=8 => {
                let deal_id = self.pick(input.u8());
                let message = self.about(act, deal_id);
                self.hear(&wallet, message);
            }
            9 => self.bodies(who, input.block()),
            10 => self.ask(who),
            11 => self.sign(who, input.u8()),
            12 => self.bind(input.u8()),
            13 => {
                let (id, own) = (self.pick(input.u8()), requester(who).address());
                let report = self.examples.report.clone();
                let done = if input.u8().is_multiple_of(2) {
                    self.market.connected(own, id, now)
                } else {
                    self.market.requester_ended(own, id, report, now)
                };
                let theirs = self.records.get(&id).map(|record| record.deal.requester);
                self.moved(done, theirs, own);
            }
            14 => {
                self.context.now = now.after(u64::from(input.u8()));
                let commands = self.market.handle_timeout(self.context.now);
                self.run(commands);
            }
            _ => {
                let commands = self.market.agent_left(wallet.address(), now);
                self.run(commands);
                let (unfinished, commands) = self.market.agent_joined(wallet.address());
                for id in unfinished {
                    assert_eq!(self.records[&id].deal.provider, wallet.address());
                }
                self.run(commands);
            }
        }
    }

    /// A deal that there was, or a name of none.
    fn pick(&self, number: u8) -> DealId {
        let at = usize::from(number) % (self.records.len() + 1);
        self.records.keys().nth(at).copied().unwrap_or_default()
    }

    fn about(&self, act: u8, deal_id: DealId) -> AgentMessage {
        let (ready, report) = (self.examples.ready.clone(), self.examples.report.clone());
        match act {
            3 => AgentMessage::LeaseReady { deal_id, ready },
            4 => AgentMessage::LeaseServing { deal_id },
            5 => AgentMessage::LeaseEnded { deal_id, report },
            6 => AgentMessage::Frame {
                deal_id,
                sealed: vec![0; 64],
            },
            7 => AgentMessage::WithdrawOffer {
                offer: self.examples.offer.id(),
            },
            _ => AgentMessage::DeclineDeal {
                proposal: self.proposals.last().map_or(0, |(_, number, _)| *number),
                reason: "no\n".repeat(300),
            },
        }
    }

    /// What the broker does with a message.
    fn hear(&mut self, wallet: &SecretKey, message: AgentMessage) {
        let (own, now) = (wallet.address(), self.context.now);
        match message {
            AgentMessage::PublishOffer { offer } => self.place(own, offer),
            AgentMessage::WithdrawOffer { offer } => {
                let of = self.market.book().get(offer).map(|l| l.offer.provider);
                assert_eq!(self.market.withdraw(own, offer), of == Some(own));
            }
            AgentMessage::AcceptDeal {
                proposal,
                terms,
                signature,
            } => {
                let commands = self.market.accept(own, proposal, &terms, signature, now);
                self.run(commands);
            }
            AgentMessage::DeclineDeal { proposal, reason } => {
                let asked = self.proposals.iter().find(|(_, n, _)| *n == proposal);
                let theirs = asked.is_some_and(|(who, ..)| *who == own);
                let commands = self.market.decline(own, proposal, &reason, now);
                assert!(theirs || commands.is_empty());
                self.run(commands);
            }
            AgentMessage::LeaseReady { deal_id, ready } => {
                let done = self.market.ready(own, deal_id, ready, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::LeaseServing { deal_id } => {
                let done = self.market.serving(own, deal_id, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::LeaseEnded { deal_id, report } => {
                let done = self.market.provider_ended(own, deal_id, report, now);
                self.moved(done, self.lender(deal_id), own);
            }
            AgentMessage::RenewReservation { deal_id, .. } => {
                let renewable = self.market.may_renew(own, deal_id);
                assert!(renewable.is_err() || self.lender(deal_id) == Some(own));
            }
            AgentMessage::Hello { .. }
            | AgentMessage::Authenticate { .. }
            | AgentMessage::CloseChannel { .. }
            | AgentMessage::Frame { .. } => {}
        }
    }

    fn lender(&self, id: DealId) -> Option<Address> {
        self.records.get(&id).map(|record| record.deal.provider)
    }

    /// Only whose deal it is has moved it.
    fn moved(
        &mut self,
        done: Result<Vec<Command>, DealRefusal>,
        theirs: Option<Address>,
        own: Address,
    ) {
        match done {
            Ok(commands) => {
                assert!(theirs == Some(own) || commands.is_empty());
                self.run(commands);
            }
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }

    fn publish(&mut self, wallet: &SecretKey, input: &mut Bytes<'_>) {
        let mut offer = self.examples.offer.clone();
        offer.provider = wallet.address();
        offer.prefixes = Vec::new();
        offer.weekly_hours = WeeklyHours::always();
        offer.nonce = input.u8().into();
        offer.capacity.leases = u32::from(input.u8() % 4);
        offer.expires_at = self.context.now.after(input.u16().into());
        let offer = Signed::sign(offer, &self.context.domain, wallet);
        self.place(wallet.address(), offer);
    }

    fn place(&mut self, own: Address, offer: Signed<Offer>) {
        let placement = Placement::at([203, 0, 113, 5].into());
        if self.context.offer(&offer, own, &placement).is_ok() {
            assert_eq!(offer.message.provider, own);
            // A refusal says that there is no room, or that it is there already.
            let _ = self
                .market
                .place(offer.message, placement, self.context.now);
        }
    }

    fn accept(&mut self, wallet: &SecretKey, which: u8) {
        let count = self.proposals.len().max(1);
        let Some((asked, number, proposal)) = self.proposals.get(usize::from(which) % count) else {
            return;
        };
        let (asked, number) = (*asked, *number);
        let terms = ProviderTerms {
            payout: wallet.address(),
            agent_key: wallet.address(),
            tunnel_key: TunnelKey(B256::repeat_byte(3)),
        };
        let Some(listing) = self.market.book().get(proposal.offer) else {
            return;
        };
        let deal = Deal::new(proposal, &listing.offer, &terms);
        let signature = wallet.sign_hash(deal.signing_hash(&self.context.domain));
        let own = wallet.address();
        let commands = self
            .market
            .accept(own, number, &terms, signature, self.context.now);
        assert!(own == asked || commands.is_empty());
        self.run(commands);
    }

    /// A body is read as each that the interface takes, and used where it can be.
    fn bodies(&mut self, who: u8, text: &[u8]) {
        let own = requester(who).address();
        if let Ok(body) = serde_json::from_slice::<PostRequest>(text)
            && self.context.request(&body.request, own).is_ok()
        {
            assert_eq!(body.request.message.requester, own);
            self.request(body.request);
        }
        let _ = serde_json::from_slice::<SignDeal>(text);
        let _ = serde_json::from_slice::<SignBundle>(text);
        let _ = serde_json::from_slice::<EndDeal>(text);
        let _ = serde_json::from_slice::<SignIn>(text);
        let _ = serde_json::from_slice::<PostWithdrawal>(text);
        let _ = serde_json::from_slice::<Frames>(text);
        let _ = serde_json::from_slice::<Connected>(text);
        let pairs = std::str::from_utf8(text).unwrap_or_default().split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        if let Ok(query) = OfferQuery::parse(pairs) {
            let again = OfferQuery::parse(query.pairs());
            assert_eq!(again.as_ref(), Ok(&query));
            let (book, now) = (self.market.book(), self.context.now);
            let found = book.page(&query.wanted(), now, query.limit, query.after);
            assert!(found.len() <= query.limit.min(OFFERS));
        }
    }

    fn ask(&mut self, who: u8) {
        self.nonce += 1;
        let (wallet, mut message) = (requester(who), self.examples.request.message.clone());
        message.filter = Default::default();
        message.requester = wallet.address();
        message.payer = wallet.address();
        message.nonce = self.nonce;
        message.channel_salt = B256::repeat_byte(who);
        message.seconds = 60;
        message.expires_at = self.context.now.after(3_600);
        message.rest_until = match who {
            128.. => self.context.now.after(u64::from(who)),
            _ => UnixSeconds(0),
        };
        if (64..128).contains(&who) {
            message.start = StartWindow::NOW;
            message.bundle = bundle(who);
        }
        let request = SignedRequest::sign(message, &self.context.domain, &wallet, &wallet);
        self.context.request(&request, wallet.address()).unwrap();
        self.request(request);
    }

    fn request(&mut self, request: SignedRequest) {
        self.nonce += 1;
        let (ticket, now) = (Ticket(self.nonce), self.context.now);
        let seed = B256::from(ipsx_metering::U256::from(self.nonce));
        let commands = self.market.request(ticket, request, seed, now);
        self.run(commands);
    }

    fn sign(&mut self, who: u8, which: u8) {
        let (id, wallet) = (self.pick(which), requester(who));
        let Some(record) = self.records.get(&id) else {
            return;
        };
        let (theirs, hash) = (
            record.deal.requester,
            record.deal.signing_hash(&self.context.domain),
        );
        let (own, now) = (wallet.address(), self.context.now);
        let legs = self.legs(id).into_iter();
        let signatures: Vec<_> = legs
            .map(|leg| {
                let hash = leg.deal.signing_hash(&self.context.domain);
                (leg.deal_id, wallet.sign_hash(hash))
            })
            .collect();
        let done = match signatures.len() {
            0 | 1 => self.market.sign(id, own, wallet.sign_hash(hash), now),
            _ => {
                let request = record.deal.request;
                self.market.sign_bundle(request, own, &signatures, now)
            }
        };
        self.moved(done, Some(theirs), own);
    }

    /// The deals that are good for anything only together with one, itself included.
    fn legs(&self, id: DealId) -> Vec<&DealRecord> {
        let known = self.records.get(&id).filter(|record| record.together > 0);
        let others = self
            .market
            .deals()
            .filter(|other| known.is_some_and(|record| record.deal.request == other.deal.request));
        others.collect()
    }

    fn bind(&mut self, which: u8) {
        let (id, now) = (self.pick(which), self.context.now);
        if which.is_multiple_of(8) {
            let commands = self.market.give_up(id, now);
            return self.run(commands);
        }
        let mut legs: Vec<_> = self.legs(id).iter().map(|leg| leg.deal_id).collect();
        if legs.is_empty() {
            legs.push(id);
        }
        let bound = |leg: &DealId| self.market.may_bind(*leg, now).is_ok();
        if legs.iter().all(bound) {
            legs.into_iter().for_each(|leg| self.bind_one(leg));
        }
    }

    fn bind_one(&mut self, id: DealId) {
        let now = self.context.now;
        let record = self.market.may_bind(id, now).unwrap();
        let outcome = Outcome {
            deal_id: id,
            outcome: Binding::Bound,
        };
        let reservation = Reservation {
            channel_id: record.deal.channel().id(),
            capacity: Amount(1),
            valid_until: now.after(3_600),
        };
        let (domain, operator) = (self.context.domain, key(99));
        let outcome = Signed::sign(outcome, &domain, &operator);
        let reservation = Signed::sign(reservation, &domain, &operator);
        let bound = self
            .market
            .bind(id, outcome, reservation, Amount::ZERO, None, now);
        self.run(bound.unwrap());
    }

    /// Does what the market wants; whoever is told of a deal is its provider.
    fn run(&mut self, mut commands: Vec<Command>) {
        while {
            self.execute(commands);
            commands = self.market.match_resting(self.context.now);
            !commands.is_empty()
        } {}
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send { provider, message } => self.tell(provider, *message),
                Command::Store { record, .. } => {
                    self.records.insert(record.deal_id, *record);
                }
                Command::Abort { provider, deal_id } => {
                    assert_eq!(self.lender(deal_id), Some(provider));
                }
                Command::StoreRequest { record } => {
                    let rests = self.market.resting().get(record.id()).is_some();
                    assert!(rests || record.status != RequestStatus::Resting);
                }
                Command::Answer { .. } | Command::Forfeit { .. } | Command::StoreProof { .. } => {}
            }
        }
    }

    fn tell(&mut self, provider: Address, message: BrokerMessage) {
        // Whatever is sent can be.
        assert!(codec::encode(&message).is_ok());
        match message {
            BrokerMessage::Propose { proposal, terms } => {
                let listing = self.market.book().get(terms.offer);
                let lender = listing.map(|listing| listing.offer.provider);
                assert_eq!(lender, Some(provider));
                self.proposals.push((provider, proposal, *terms));
            }
            BrokerMessage::DealBound { deal, .. } => assert_eq!(deal.provider, provider),
            BrokerMessage::EndLease { deal_id, .. }
            | BrokerMessage::Forfeited { deal_id, .. }
            | BrokerMessage::DealAborted { deal_id, .. } => {
                assert_eq!(self.lender(deal_id), Some(provider));
            }
            other => panic!("{other:?} was not asked for"),
        }
    }

    fn holds_no_more_than_it_may(&self) {
        let market = &self.market;
        assert!(market.book().len() <= OFFERS);
        let held = market.book().leases_held();
        assert_eq!(held, market.deals().count() + market.pending());
        assert!(market.pending() <= UNSTARTED * usize::from(REQUESTERS));
        assert!(market.resting().len() <= RESTING);
        for record in market.deals() {
            assert_eq!(self.records.get(&record.deal_id), Some(record));
            // All of them are bound, or none.
            let legs = self.legs(record.deal_id);
            assert!(legs.iter().all(|leg| leg.is_bound() == record.is_bound()));
        }
    }

    /// With time everything is given back.
    fn comes_to_an_end(&mut self) {
        for _ in 0..8 {
            self.context.now = self.context.now.after(40 * 24 * 3_600);
            let commands = self.market.handle_timeout(self.context.now);
            self.run(commands);
        }
        assert_eq!(self.market.deals().count(), 0);
        assert_eq!(self.market.pending(), 0);
        assert!(self.market.resting().is_empty());
        assert_eq!(self.market.book().leases_held(), 0);
    }
}
