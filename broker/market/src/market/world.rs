//! A market with the world around it, for the tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipsx_metering::{
    Amount, ChannelId, NetworkId, PricePerGib, PricePerSecond, Prices, RequestId, Reservation,
    SecretKey, Signature, Signed, TypedData, Usage, Voucher,
};

use super::*;
use crate::deal::{Binding, Deal, Outcome, ProviderTerms};
use crate::messages::{BrokerMessage, EndCause, EndReport, Ready};
use crate::offer::{Capacity, Offer, Placement, Protocols, Tier, WeeklyHours};
use crate::proof::{Proof, Subject};
use crate::record::DealRecord;
use crate::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};
use crate::resting::{RequestRecord, RequestStatus};
use crate::start::StartWindow;
use crate::status::DealStatus;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_795_183_200);

pub(crate) fn config() -> MarketConfig {
    MarketConfig {
        network: NetworkId(B256::repeat_byte(1)),
        domain: Domain {
            chain_id: 5,
            contract: Address::repeat_byte(2),
        },
        timers: DealTimers::default(),
        book: BookLimits::default(),
        resting: RestingLimits {
            requests: 8,
            requests_per_payer: 3,
        },
        unstarted_deals: 3,
        attempts: 3,
    }
}

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

pub(crate) fn offer(provider: u8, per_second: u128, leases: u32) -> Offer {
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

pub(crate) fn placement(provider: u8) -> Placement {
    Placement::at([192, 0, 2, provider].into())
}

pub(super) fn request(requester: u8, nonce: u64) -> SignedRequest {
    resting(requester, nonce, |_| ())
}

/// The same with a change.
pub(crate) fn resting(
    requester: u8,
    nonce: u64,
    change: impl FnOnce(&mut Request),
) -> SignedRequest {
    let mut message = Request {
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
        start: StartWindow::NOW,
        expected_bytes: 0,
        payer: key(requester).address(),
        payer_signer: Address::repeat_byte(requester),
        channel_salt: B256::from(ipsx_metering::U256::from(nonce)),
        tunnel_key: TunnelKey(B256::repeat_byte(4)),
        counter_source: CounterSource::Both,
        expires_at: NOW.after(100_000),
        rest_until: UnixSeconds(0),
        bundle: Default::default(),
    };
    change(&mut message);
    SignedRequest::sign(message, &config().domain, &key(requester), &key(requester))
}

pub(super) fn terms(provider: u8) -> ProviderTerms {
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

/// Which offers are asked for which requests.
fn proposals(commands: &[Command]) -> Vec<(RequestId, OfferId)> {
    let proposal = |command: &Command| match command {
        Command::Send { message, .. } => match &**message {
            BrokerMessage::Propose { terms, .. } => Some((terms.request.message.id(), terms.offer)),
            _ => None,
        },
        _ => None,
    };
    commands.iter().filter_map(proposal).collect()
}

/// A market with the world around it: it answers what the market asks, and remembers what was stored.
pub(super) struct World {
    pub(super) market: Market,
    pub(super) now: UnixSeconds,
    pub(super) proposals: Vec<(Address, u64, Proposal)>,
    /// What was asked for.
    pub(super) posted: BTreeMap<Ticket, Request>,
    pub(super) answers: BTreeMap<Ticket, Result<Answered, RequestFailure>>,
    /// Requests that rest or rested, as they were stored.
    pub(super) requests: BTreeMap<RequestId, RequestRecord>,
    pub(super) stored: BTreeMap<DealId, DealRecord>,
    pub(super) outcomes: BTreeMap<DealId, Binding>,
    /// What was prepaid and is the provider's, by channel.
    pub(super) forfeited: BTreeMap<ChannelId, Voucher>,
    pub(super) told: Vec<(Address, BrokerMessage)>,
    /// Tokens, and where they were sent.
    pub(super) tried: Vec<(SocketAddr, u64)>,
    pub(super) proofs: BTreeMap<Subject, Proof>,
    pub(super) tickets: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            market: Market::new(config(), Vec::new(), NOW),
            now: NOW,
            proposals: Vec::new(),
            posted: BTreeMap::new(),
            answers: BTreeMap::new(),
            requests: BTreeMap::new(),
            stored: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            forfeited: BTreeMap::new(),
            told: Vec::new(),
            tried: Vec::new(),
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

    /// Does what the market wants, and lets it look for requests that fit by now.
    pub(super) fn run(&mut self, mut commands: Vec<Command>) {
        while {
            self.execute(commands);
            let expected = self.slow_matches();
            commands = self.market.match_resting(self.now);
            // However many fit: one look makes so many proposals, and the next ones the others.
            let found = proposals(&commands);
            assert_eq!(found, expected[..expected.len().min(64)]);
            !commands.is_empty()
        } {}
    }

    fn execute(&mut self, commands: Vec<Command>) {
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
                Command::Forfeit { channel, voucher } => {
                    assert_eq!(voucher.message.channel_id, channel.id());
                    let again = self.forfeited.insert(channel.id(), voucher.message);
                    assert!(again.is_none(), "forfeited twice");
                }
                Command::StoreProof { subject, proof } => {
                    self.proofs.insert(subject, *proof);
                }
                Command::Try { to, token } => self.tried.push((to, token)),
                Command::Answer { ticket, answer } => {
                    let again = self.answers.insert(ticket, answer);
                    assert!(again.is_none(), "answered twice");
                }
                Command::StoreRequest { record } => {
                    let before = self.requests.insert(record.id(), *record);
                    assert!(
                        before.is_none_or(|b| b.status == RequestStatus::Resting),
                        "a request that was over changed"
                    );
                }
                Command::Abort { deal_id, .. } => {
                    let kept = self.outcomes.insert(deal_id, Binding::Aborted);
                    assert!(kept.is_none(), "two outcomes");
                }
            }
        }
    }

    pub(super) fn ask(&mut self, requester: u8) -> Ticket {
        self.post(request(requester, self.tickets + 1))
    }

    pub(super) fn post(&mut self, request: SignedRequest) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.posted.insert(ticket, request.message.clone());
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
        let signed = self.market.sign(deal.id(), address, signature, self.now);
        signed.unwrap();
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
        let first = Voucher {
            channel_id: deal.channel().id(),
            cumulative: deal.terms().first_slice(),
            receipt_hash: B256::ZERO,
        };
        let prepaid = deal.is_prepaid().then_some(Signed {
            message: first,
            signature: Signature([0; 65]),
        });
        let (id, paid) = (deal.id(), Amount::ZERO);
        let commands = self
            .market
            .bind(id, outcome, reservation, paid, prepaid, self.now);
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
        let rest = self.requests.values();
        let rest = rest.filter(|r| r.status == RequestStatus::Resting);
        self.market.restore(rest.cloned().collect());
        self.proposals.clear();
    }

    pub(super) fn status(&self, deal: &Deal) -> DealStatus {
        self.stored[&deal.id()].status()
    }

    pub(super) fn free(&self) -> u64 {
        self.market.book().leases_free()
    }
}
