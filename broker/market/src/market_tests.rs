#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use ipsx_metering::{
    Amount, NetworkId, PricePerGib, PricePerSecond, Prices, Reservation, SecretKey, Signature,
    Signed, TypedData, Usage,
};

use super::*;
use crate::deal::{Binding, Deal, Outcome, ProviderTerms};
use crate::messages::{EndCause, EndReport, Ready};
use crate::offer::{Capacity, Offer, Protocols, Tier, WeeklyHours};
use crate::record::DealRecord;
use crate::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};

const NOW: UnixSeconds = UnixSeconds(1_795_183_200);

pub(super) fn config() -> MarketConfig {
    MarketConfig {
        network: NetworkId(B256::repeat_byte(1)),
        domain: Domain {
            chain_id: 5,
            contract: Address::repeat_byte(2),
        },
        timers: DealTimers::default(),
        book: BookLimits::default(),
        unstarted_deals: 3,
        attempts: 3,
    }
}

pub(super) fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

pub(super) fn offer(provider: u8, per_second: u128, leases: u32) -> Offer {
    Offer {
        network: config().network,
        provider: key(provider).address(),
        nonce: 1,
        prefixes: Vec::new(),
        protocols: Protocols::all(),
        policy_hash: B256::ZERO,
        tier: Tier::Open,
        ports: Tier::Open.ports(),
        services: Vec::new(),
        capacity: Capacity {
            leases,
            mbit_up: 10,
            mbit_down: 10,
            bytes_per_month: u64::MAX,
        },
        prices: Prices {
            per_second: PricePerSecond(Amount(per_second)),
            per_gib: PricePerGib(Amount(1)),
        },
        min_seconds: 5,
        max_seconds: 600,
        weekly_hours: WeeklyHours::always(),
        expires_at: NOW.after(100_000),
    }
}

pub(super) fn placement(provider: u8) -> Placement {
    Placement::at([192, 0, 2, provider].into())
}

pub(super) fn request(requester: u8, nonce: u64) -> SignedRequest {
    let message = Request {
        network: config().network,
        requester: key(requester).address(),
        nonce,
        filter: Filter::default(),
        max_prices: Prices {
            per_second: PricePerSecond(Amount(10)),
            per_gib: PricePerGib(Amount(10)),
        },
        budget: Amount(10_000),
        seconds: 100,
        expected_bytes: 0,
        payer: key(requester).address(),
        payer_signer: Address::repeat_byte(requester),
        channel_salt: B256::from(ipsx_metering::U256::from(nonce)),
        tunnel_key: TunnelKey(B256::repeat_byte(4)),
        counter_source: CounterSource::Both,
        expires_at: NOW.after(100_000),
    };
    SignedRequest::sign(message, &config().domain, &key(requester), &key(requester))
}

fn terms(provider: u8) -> ProviderTerms {
    ProviderTerms {
        payout: Address::repeat_byte(100 + provider),
        agent_key: Address::repeat_byte(6),
        tunnel_key: TunnelKey(B256::repeat_byte(7)),
    }
}

pub(super) fn ready() -> Ready {
    Ready {
        endpoint: "192.0.2.1:51820".parse().unwrap(),
        address_v4: "10.0.0.2".parse().unwrap(),
        address_v6: None,
        gateway: "10.0.0.1".parse().unwrap(),
        control_port: 1,
        mtu: 1_420,
        latest_voucher: None,
        next_seq: 1,
    }
}

pub(super) fn report(cause: EndCause) -> EndReport {
    EndReport {
        cause,
        usage: Usage::default(),
        amount: Amount(5),
        voucher: None,
    }
}

/// A market with the world around it: it answers what the market asks, and remembers what was stored.
pub(super) struct World {
    pub(super) market: Market,
    pub(super) now: UnixSeconds,
    pub(super) proposals: Vec<(Address, u64, Proposal)>,
    pub(super) answers: BTreeMap<Ticket, Result<ProposedDeal, RequestFailure>>,
    pub(super) stored: BTreeMap<DealId, DealRecord>,
    pub(super) outcomes: BTreeMap<DealId, Binding>,
    pub(super) told: Vec<(Address, BrokerMessage)>,
    pub(super) proofs: BTreeMap<Subject, Proof>,
    pub(super) tickets: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            market: Market::new(config(), Vec::new(), NOW),
            now: NOW,
            proposals: Vec::new(),
            answers: BTreeMap::new(),
            stored: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            told: Vec::new(),
            proofs: BTreeMap::new(),
            tickets: 0,
        }
    }

    pub(super) fn with_offers(offers: &[(u8, u128, u32)]) -> Self {
        let mut world = Self::new();
        for (provider, price, leases) in offers {
            world.market.agent_joined(key(*provider).address());
            let offer = offer(*provider, *price, *leases);
            let place = placement(*provider);
            world.market.place(offer, place, NOW).unwrap();
        }
        world
    }

    pub(super) fn run(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send { provider, message } => {
                    if let BrokerMessage::Propose { proposal, terms } = &*message {
                        self.proposals
                            .push((provider, *proposal, (**terms).clone()));
                    }
                    self.told.push((provider, *message));
                }
                Command::Store {
                    record,
                    transitions,
                } => {
                    for t in &transitions {
                        assert_eq!(t.deal_id, record.deal_id);
                    }
                    if let Some(outcome) = &record.outcome {
                        let kept = self
                            .outcomes
                            .insert(record.deal_id, outcome.message.outcome);
                        assert!(
                            kept.is_none_or(|k| k == outcome.message.outcome),
                            "two outcomes"
                        );
                    }
                    if let Some(before) = self.stored.get(&record.deal_id)
                        && before.status().is_over()
                    {
                        assert_eq!(before.status(), record.status(), "a settled deal changed");
                        assert!(before.closed_at.is_none(), "a closed deal changed");
                    }
                    self.stored.insert(record.deal_id, *record);
                }
                Command::StoreProof { subject, proof } => {
                    self.proofs.insert(subject, *proof);
                }
                Command::Answer { ticket, answer } => {
                    let again = self.answers.insert(ticket, answer.map(|a| *a));
                    assert!(again.is_none(), "answered twice");
                }
                Command::Abort { deal_id, .. } => {
                    let kept = self.outcomes.insert(deal_id, Binding::Aborted);
                    assert!(kept.is_none(), "two outcomes");
                }
            }
        }
    }

    pub(super) fn ask(&mut self, requester: u8) -> Ticket {
        self.tickets += 1;
        let (ticket, request) = (Ticket(self.tickets), request(requester, self.tickets));
        let seed = B256::repeat_byte(self.tickets as u8);
        let commands = self.market.request(ticket, request, seed, self.now);
        self.run(commands);
        ticket
    }

    pub(super) fn accept(&mut self, provider: u8) -> Deal {
        let at = self
            .proposals
            .iter()
            .rposition(|(p, ..)| *p == key(provider).address())
            .unwrap();
        let (address, number, proposal) = self.proposals.remove(at);
        let offer = self
            .market
            .book()
            .get(proposal.offer)
            .unwrap()
            .offer
            .clone();
        let deal = Deal::new(&proposal, &offer, &terms(provider));
        let signature = key(provider).sign_hash(deal.signing_hash(&config().domain));
        let commands = self
            .market
            .accept(address, number, &terms(provider), signature, self.now);
        self.run(commands);
        deal
    }

    pub(super) fn sign(&mut self, requester: u8, deal: &Deal) {
        let signature = key(requester).sign_hash(deal.signing_hash(&config().domain));
        let address = key(requester).address();
        let commands = self
            .market
            .sign(deal.id(), address, signature, self.now)
            .unwrap();
        self.run(commands);
    }

    pub(super) fn bind(&mut self, deal: &Deal) {
        let outcome = Outcome {
            deal_id: deal.id(),
            outcome: Binding::Bound,
        };
        let reservation = Reservation {
            channel_id: deal.channel().id(),
            capacity: Amount(600),
            valid_until: self.now.after(1_000),
        };
        let (domain, operator) = (config().domain, key(99));
        let outcome = Signed::sign(outcome, &domain, &operator);
        let reservation = Signed::sign(reservation, &domain, &operator);
        let commands = self
            .market
            .bind(deal.id(), outcome, reservation, Amount::ZERO, self.now);
        self.run(commands.unwrap());
    }

    pub(super) fn bound_deal(&mut self, requester: u8, provider: u8) -> Deal {
        self.ask(requester);
        let deal = self.accept(provider);
        self.sign(requester, &deal);
        self.bind(&deal);
        deal
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(seconds);
        while self
            .market
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            let commands = self.market.handle_timeout(self.now);
            self.run(commands);
        }
    }

    pub(super) fn restart(&mut self) {
        let records = self.stored.values().cloned().collect();
        self.market = Market::new(config(), records, self.now);
        self.proposals.clear();
    }

    pub(super) fn status(&self, deal: &Deal) -> DealStatus {
        self.stored[&deal.id()].status()
    }

    pub(super) fn free(&self) -> u64 {
        self.market.book().leases_free()
    }
}

#[test]
fn a_deal_goes_from_the_request_to_its_end() {
    let mut world = World::with_offers(&[(1, 5, 1)]);
    let deal = world.bound_deal(50, 1);
    let (id, provider, requester) = (deal.id(), key(1).address(), key(50).address());
    assert_eq!(world.status(&deal), DealStatus::Agreed);
    assert_eq!(world.free(), 0);
    assert!(matches!(
        world.told.last().unwrap().1,
        BrokerMessage::DealBound { .. }
    ));
    let commands = world
        .market
        .ready(provider, id, ready(), world.now)
        .unwrap();
    world.run(commands);
    let commands = world.market.connected(requester, id, world.now).unwrap();
    world.run(commands);
    let commands = world.market.serving(provider, id, world.now).unwrap();
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Active);
    let commands =
        world
            .market
            .provider_ended(provider, id, report(EndCause::Completed), world.now);
    world.run(commands.unwrap());
    assert_eq!(world.status(&deal), DealStatus::Ended);
    assert_eq!(world.free(), 1);
    assert_eq!(world.stored[&id].view().amount, Some(Amount(5)));
    assert_eq!(
        world.market.poll_timeout(),
        world.market.book().next_expiry().map(|at| at.after(1))
    );
}

#[test]
fn the_next_best_is_asked_when_one_declines_is_silent_or_cheats() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 4, 1), (3, 5, 1)]);
    let ticket = world.ask(50);
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(1).address());
    let commands = world
        .market
        .decline(provider, number, "no\nlonger", world.now);
    world.run(commands);
    // The second one signs something else.
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(2).address());
    let wrong = Signature([1; 65]);
    let commands = world
        .market
        .accept(provider, number, &terms(2), wrong, world.now);
    world.run(commands);
    assert_eq!(world.proposals[0].0, key(3).address());
    assert_eq!(world.free(), 2, "the others are free again");
    world.wait(6);
    let failure = world.answers[&ticket].clone().unwrap_err();
    assert_eq!(
        failure,
        RequestFailure::NoneSigned {
            asked: 3,
            reason: "it did not answer".into()
        }
    );
    assert_eq!(world.free(), 3);
    assert!(world.stored.is_empty());
}

#[test]
fn nobody_else_can_answer_a_proposal() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 9, 1)]);
    world.ask(50);
    let (_, number, _) = world.proposals[0].clone();
    let stranger = key(2).address();
    assert!(
        world
            .market
            .decline(stranger, number, "x", world.now)
            .is_empty()
    );
    let signature = Signature([1; 65]);
    assert!(
        world
            .market
            .accept(stranger, number, &terms(2), signature, world.now)
            .is_empty()
    );
    assert_eq!(world.market.pending(), 1);
}

#[test]
fn a_requester_that_does_not_sign_frees_the_capacity() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    world.wait(20);
    assert_eq!(
        world.status(&deal),
        DealStatus::Proposed,
        "sign_by itself still counts"
    );
    let address = key(50).address();
    let stranger = world
        .market
        .sign(deal.id(), key(51).address(), Signature([1; 65]), world.now);
    assert_eq!(stranger, Err(DealRefusal::NotYours(deal.id())));
    let forged = world
        .market
        .sign(deal.id(), address, Signature([1; 65]), world.now);
    assert!(matches!(forged, Err(DealRefusal::Signature(_))));
    world.wait(1);
    assert_eq!(world.status(&deal), DealStatus::Expired);
    assert_eq!(world.outcomes[&deal.id()], Binding::Aborted);
    assert_eq!(world.free(), 1);
    assert!(
        world
            .market
            .sign(deal.id(), address, Signature([1; 65]), world.now)
            .is_err()
    );
}

#[test]
fn a_deal_is_bound_once_and_only_with_both_signatures() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    assert!(world.market.may_bind(deal.id(), world.now).is_err());
    world.sign(50, &deal);
    assert!(world.market.may_bind(deal.id(), world.now).is_ok());
    assert!(
        world
            .market
            .may_bind(deal.id(), deal.start_by.after(1))
            .is_err()
    );
    world.bind(&deal);
    assert!(world.market.may_bind(deal.id(), world.now).is_err());
    assert!(
        world.market.give_up(deal.id(), world.now).is_empty(),
        "bound deals are not given up"
    );
}

#[test]
fn a_deal_that_can_not_be_funded_is_aborted() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    world.sign(50, &deal);
    let commands = world.market.give_up(deal.id(), world.now);
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Aborted);
    assert_eq!(world.outcomes[&deal.id()], Binding::Aborted);
    assert_eq!(world.free(), 1);
}

#[test]
fn who_does_not_start_in_time_is_to_blame() {
    // The provider is never ready.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.bound_deal(50, 1);
    world.wait(61);
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert_eq!(world.free(), 1);
    // The requester never connects.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.bound_deal(50, 1);
    let provider = key(1).address();
    let commands = world
        .market
        .ready(provider, deal.id(), ready(), world.now)
        .unwrap();
    world.run(commands);
    world.wait(61);
    assert_eq!(world.status(&deal), DealStatus::NoShow);
    let end = world.told.last().unwrap();
    assert!(
        matches!(end, (p, BrokerMessage::EndLease { cause: EndCause::NotStarted, .. }) if *p == provider)
    );
    assert_eq!(world.free(), 0, "the peer may still be open");
    let late = world.market.serving(provider, deal.id(), world.now);
    assert!(matches!(late, Err(DealRefusal::State { .. })));
    let commands =
        world
            .market
            .provider_ended(provider, deal.id(), report(EndCause::NotStarted), world.now);
    world.run(commands.unwrap());
    assert_eq!((world.status(&deal), world.free()), (DealStatus::NoShow, 1));
}

#[test]
fn an_agent_that_vanishes_has_a_while_to_come_back() {
    let mut world = World::with_offers(&[(1, 3, 2)]);
    let deal = world.bound_deal(50, 1);
    let (id, provider) = (deal.id(), key(1).address());
    for commands in [
        world
            .market
            .ready(provider, id, ready(), world.now)
            .unwrap(),
        world.market.serving(provider, id, world.now).unwrap(),
    ] {
        world.run(commands);
    }
    assert_eq!(
        world.stored[&id].requester,
        RequesterStatus::Connected,
        "a voucher proves the tunnel"
    );
    let commands = world.market.agent_left(provider, world.now);
    world.run(commands);
    assert!(world.market.book().is_empty(), "its offers leave at once");
    world.wait(20);
    let (unfinished, commands) = world.market.agent_joined(provider);
    world.run(commands);
    assert_eq!(unfinished, [id]);
    world.wait(20);
    assert_eq!(world.status(&deal), DealStatus::Active);
    let commands = world.market.agent_left(provider, world.now);
    world.run(commands);
    world.wait(31);
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert_eq!(world.stored[&id].cause, Some(EndCause::NoService));
    assert_eq!(world.market.agent_joined(provider).0, []);
    let mut record = world.stored[&id].clone();
    record.late_report(report(EndCause::Unpaid), world.now);
    assert_eq!(
        (record.status(), record.view().amount),
        (DealStatus::ProviderFailed, Some(Amount(5)))
    );
}

#[test]
fn an_agent_that_vanishes_before_the_signature_costs_nobody_a_reservation() {
    let mut world = World::with_offers(&[(1, 3, 1), (2, 4, 1)]);
    world.ask(50);
    let deal = world.accept(1);
    let ticket = world.ask(51);
    let commands = world.market.agent_left(key(1).address(), world.now);
    world.run(commands);
    assert_eq!(world.status(&deal), DealStatus::Expired);
    // Another request that waits for a vanished agent goes on to the next offer.
    let commands = world.market.agent_left(key(2).address(), world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
}

#[test]
fn the_requester_ends_and_the_provider_confirms_or_not() {
    for confirms in [true, false] {
        let mut world = World::with_offers(&[(1, 3, 1)]);
        let deal = world.bound_deal(50, 1);
        let (id, provider, requester) = (deal.id(), key(1).address(), key(50).address());
        let commands = world
            .market
            .ready(provider, id, ready(), world.now)
            .unwrap();
        world.run(commands);
        let commands = world.market.requester_ended(
            requester,
            id,
            report(EndCause::RequesterEnded),
            world.now,
        );
        world.run(commands.unwrap());
        assert_eq!(world.status(&deal), DealStatus::Ended);
        assert!(matches!(
            world.told.last().unwrap().1,
            BrokerMessage::EndLease { .. }
        ));
        assert_eq!(world.free(), 0);
        if confirms {
            // Even a failure does not change how it came out.
            let commands =
                world
                    .market
                    .provider_ended(provider, id, report(EndCause::Restarted), world.now);
            world.run(commands.unwrap());
            assert_eq!(world.stored[&id].provider, ProviderStatus::Ended);
        } else {
            world.wait(61);
            assert_eq!(world.stored[&id].provider, ProviderStatus::Silent);
        }
        assert_eq!((world.status(&deal), world.free()), (DealStatus::Ended, 1));
    }
}

#[test]
fn one_channel_serves_one_lease_at_a_time() {
    let mut world = World::with_offers(&[(1, 3, 5)]);
    let mut posted = request(50, 1).message;
    let commands = [1, 2].map(|nonce| {
        posted.nonce = nonce;
        SignedRequest::sign(posted.clone(), &config().domain, &key(50), &key(50))
    });
    for (number, request) in commands.into_iter().enumerate() {
        let ticket = Ticket(number as u64 + 1);
        let commands =
            world
                .market
                .request(ticket, request, B256::repeat_byte(number as u8), world.now);
        world.run(commands);
    }
    world.accept(1);
    world.accept(1);
    let refused: Vec<_> = world.answers.values().filter(|a| a.is_err()).collect();
    assert_eq!((world.answers.len(), refused.len()), (2, 1));
    assert!(
        refused[0]
            .clone()
            .unwrap_err()
            .to_string()
            .contains("channel_salt")
    );
}

#[test]
fn unstarted_deals_are_limited() {
    let mut world = World::with_offers(&[(1, 3, 9)]);
    for _ in 0..3 {
        world.ask(50);
    }
    let ticket = world.ask(50);
    assert_eq!(
        world.answers[&ticket],
        Err(RequestFailure::TooManyUnstarted(3))
    );
    let other = world.ask(51);
    assert!(
        !world.answers.contains_key(&other),
        "others are asked for as ever"
    );
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut world = World::with_offers(&[(1, 3, 2)]);
    let bound = world.bound_deal(50, 1);
    world.ask(51);
    let unsigned = world.accept(1);
    world.restart();
    let provider = key(1).address();
    let (unfinished, commands) = world.market.agent_joined(provider);
    world.run(commands);
    assert_eq!(unfinished, [bound.id()]);
    assert!(
        matches!(&world.told.last().unwrap().1, BrokerMessage::DealBound { deal, .. } if **deal == bound)
    );
    world
        .market
        .place(offer(1, 3, 2), placement(1), NOW)
        .unwrap();
    assert_eq!(world.free(), 0, "held capacity is remembered");
    world.sign(51, &unsigned);
    world.bind(&unsigned);
    world.wait(61);
    assert_eq!(world.status(&bound), DealStatus::ProviderFailed);
    assert_eq!(world.status(&unsigned), DealStatus::ProviderFailed);
    assert_eq!(world.free(), 2);
}
