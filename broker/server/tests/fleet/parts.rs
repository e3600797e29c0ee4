//! Which broker has which part of the market, and providers in a part that a test has chosen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipsx_market::fleet::ShardId;
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::request::Filter;
use ipsx_metering::{Signed, keccak256};
use ipsx_settlement::{Signer, Wallet};
use tokio::time::sleep;

use crate::parties::agent::TestAgent;
use crate::world::{COUNTRIES, World, until_heard};

/// Who has which shard once nothing moves any more.
#[derive(Debug)]
pub struct Parts {
    /// The names of the brokers that live, in their order: with all of them that of the members.
    names: Vec<String>,
    /// Shards of the countries, with the number of the country.
    shards: BTreeMap<ShardId, usize>,
}

/// A provider of one address.
pub struct Lender {
    wallet: Wallet,
    pub address: String,
    pub agent: TestAgent,
}

impl Parts {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            names: names.map(str::to_owned).collect(),
            shards: shards(),
        }
    }

    /// How many brokers share them.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The shards of the three countries that are a broker's.
    pub fn of(&self, member: usize) -> Vec<ShardId> {
        let shards = self.shards.keys().copied();
        shards
            .filter(|shard| self.owner(*shard) == member)
            .collect()
    }

    /// Whose a shard is, by the place among the brokers.
    pub fn owner(&self, shard: ShardId) -> usize {
        self.best(shard, |_| true)
    }

    /// Whose it will be when that one is gone.
    pub fn heir(&self, shard: ShardId) -> usize {
        let owner = self.owner(shard);
        self.best(shard, |member| member != owner)
    }

    /// What the others call a broker.
    pub fn name(&self, member: usize) -> &str {
        &self.names[member]
    }

    /// An address in the country of a shard.
    pub fn address(&self, shard: ShardId, number: u8) -> String {
        format!("127.0.{}.{number}", self.shards[&shard] + 1)
    }

    fn best(&self, shard: ShardId, lives: impl Fn(usize) -> bool) -> usize {
        let weight = |member: &usize| {
            keccak256([&[shard.number()], self.names[*member].as_bytes()].concat())
        };
        let members = (0..self.names.len()).filter(|member| lives(*member));
        members.max_by_key(weight).unwrap()
    }
}

impl World {
    /// Waits until each of the three brokers has the shards that should be its own.
    pub async fn parts(&self) -> Parts {
        let parts = self.all_owned_by(3).await;
        // Until they speak with one another, agents are told to connect again.
        sleep(Duration::from_secs(1)).await;
        parts
    }

    /// A provider whose offer is in a shard, by one of the brokers.
    pub async fn lender(&self, parts: &Parts, shard: ShardId, number: u8, at: usize) -> Lender {
        let placed = COUNTRIES[parts.shards[&shard]].parse().unwrap();
        let wallet = loop {
            let wallet = Wallet::random();
            if ShardId::new(Some(placed), wallet.address()) == shard {
                break wallet;
            }
        };
        let address = parts.address(shard, number);
        Lender {
            agent: self.come(&wallet, &address, at).await,
            wallet,
            address,
        }
    }

    /// A provider that was hung up on comes again.
    pub async fn come_again(&self, lender: &mut Lender, at: usize) {
        lender.agent = self.come(&lender.wallet, &lender.address, at).await;
    }

    async fn come(&self, wallet: &Wallet, address: &str, at: usize) -> TestAgent {
        let to = self.members[at].agents;
        let come = || {
            let wallet = Wallet::from_secret(&wallet.secret()).unwrap();
            offer(wallet, to, address.to_owned())
        };
        until_heard(come).await
    }
}

async fn offer(wallet: Wallet, to: SocketAddr, from: String) -> TestAgent {
    let mut agent = TestAgent::connect_as(wallet, to, &from).await;
    let offer = agent.offer(1_000, 1);
    let signed = Signed::sign(offer.clone(), &agent.domain, agent.wallet.key());
    agent.offers.push(offer);
    let publish = AgentMessage::PublishOffer { offer: signed };
    agent.say(&publish).await;
    // Before that it is told of its leases.
    while !matches!(agent.hear().await, BrokerMessage::OfferPlaced { .. }) {}
    agent
}

fn shards() -> BTreeMap<ShardId, usize> {
    let of = |(number, country): (usize, &&str)| {
        let filter = Filter {
            countries: vec![country.parse().unwrap()],
            ..Filter::default()
        };
        let shards = ShardId::of_filter(&filter).into_iter();
        shards.map(move |shard| (shard, number))
    };
    COUNTRIES.iter().enumerate().flat_map(of).collect()
}
