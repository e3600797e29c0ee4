//! A market that hears any messages of agents and any bodies of requesters, in any order: nobody's word moves what is not
//! theirs, nobody hears of others' deals, what is held is bounded, and in the end nothing is held.

mod agents;
mod examples;
mod requesters;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipsx_market::book::BookLimits;
use ipsx_market::check::CheckContext;
use ipsx_market::codec;
use ipsx_market::deal::Proposal;
use ipsx_market::market::{Command, Market, MarketConfig};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::record::DealRecord;
use ipsx_market::resting::{RequestStatus, RestingLimits};
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, DealId, Domain, SecretKey, UnixSeconds};

use crate::bytes::Bytes;
use examples::Examples;

const START: UnixSeconds = UnixSeconds(1_899_990_000);
/// Deals of one payer that have not started.
const UNSTARTED: usize = 4;
const OFFERS: usize = 4;
/// Leases that are waited for.
const RESTING: usize = 5;
/// Where every agent is seen.
const SEEN: [u8; 4] = [203, 0, 113, 5];
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
                requests_per_payer: 3,
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
                // Nobody is sent anything who is not an agent here.
                Command::Try { to, .. } => assert_eq!(to.ip(), IpAddr::from(SEEN)),
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
            // Of an endpoint that it has named.
            BrokerMessage::Reached { .. } => {
                let mut all = (0..PROVIDERS).map(self::provider);
                assert!(all.any(|one| one.address() == provider));
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
        let waited_for = market.resting().ids();
        let waited_for = waited_for.filter_map(|id| market.resting().get(id));
        let leases: usize = waited_for.map(|r| r.request.message.count()).sum();
        assert!(leases <= RESTING);
        for record in market.deals() {
            let written = self.records.get(&record.deal_id).unwrap();
            let mut here = record.clone();
            if !record.is_bound() && record.status() == DealStatus::Proposed {
                // A signature is written down with what comes of it.
                here.requester_signature = written.requester_signature;
                here.requester = written.requester;
            }
            assert_eq!(here, *written);
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
