//! A broker that is rushed: agents with places to sell, and customers who take one lease after the other.

use std::time::{Duration, Instant};

use ipsx_settlement::{Signer, Wallet};
use tokio::runtime::Runtime;

use crate::crowd::{Crowd, Plan};
use crate::customers::{Customers, Problems};
use crate::market::Market;
use crate::requester::Requester;
use crate::told::{Held, Told};

/// Token units of each customer's deposit.
const DEPOSIT: u128 = 1_000_000_000_000;
/// Until what must happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many rush it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Agents, each with one offer.
    pub agents: usize,
    /// Leases of each offer.
    pub leases: u32,
    /// Customers.
    pub customers: usize,
}

/// A market with load.
pub struct Rush {
    /// The broker's.
    pub market: Market,
    /// Who sells.
    pub crowd: Crowd,
    /// Who buys.
    pub customers: Customers,
    /// A requester that buys nothing by itself.
    pub onlooker: Requester,
    told: Told,
    agents: usize,
}

/// A market whose customers have gone.
pub struct Aftermath {
    /// The broker's.
    pub market: Market,
    /// Who sells.
    pub crowd: Crowd,
    /// What was refused.
    pub problems: Problems,
    requesters: Vec<Requester>,
    told: Told,
    agents: usize,
}

impl Rush {
    /// Starts a new market's broker, agents and customers. Call it within the runtime.
    pub fn begin(runtime: &Runtime, mut market: Market, size: Size) -> Self {
        market.open_keystore_quickly();
        // What is not signed or not started is over soon, so that there are places again.
        market.tell_broker(&["--propose-seconds", "2"]);
        market.tell_broker(&["--sign-seconds", "5", "--start-seconds", "10"]);
        market.tell_broker(&["--max-unstarted-deals", "1000"]);
        for limit in ["address", "wallet"] {
            market.tell_broker(&[&format!("--max-{limit}-requests-per-second"), "0"]);
        }
        let wallets: Vec<_> = (0..=size.customers).map(|_| Wallet::random()).collect();
        for wallet in &wallets {
            market.fund(&wallet.address().to_string());
        }
        market.start_broker();
        let told = Told::default();
        let plan = Plan {
            agents: size.agents,
            leases: size.leases,
            // They notice soon that a broker was killed.
            keep_alive: Duration::from_millis(100),
            witness: Some(told.witness()),
            ..Plan::default()
        };
        let crowd = Crowd::gather(market.agents().parse().unwrap(), plan);
        let mut requesters = runtime.block_on(open_accounts(&market, wallets));
        wait_until("all agents are placed", &crowd, || {
            crowd.placed() == size.agents
        });
        let onlooker = requesters.pop().unwrap();
        Self {
            market,
            crowd,
            onlooker,
            customers: Customers::come(requesters, &told),
            told,
            agents: size.agents,
        }
    }

    /// kill -9; returns once it is started again, and every agent is back.
    pub fn kill_broker(&mut self) {
        kill(&mut self.market, &self.crowd, self.agents);
    }

    /// Lets the customers finish what they are at, and go.
    pub fn end(self, runtime: &Runtime) -> Aftermath {
        let (requesters, problems) = runtime.block_on(self.customers.leave());
        Aftermath {
            market: self.market,
            crowd: self.crowd,
            problems,
            requesters,
            told: self.told,
            agents: self.agents,
        }
    }
}

impl Aftermath {
    /// kill -9; returns once it is started again, and every agent is back.
    pub fn kill_broker(&mut self) {
        kill(&mut self.market, &self.crowd, self.agents);
    }

    /// Whether everything that was said is held.
    pub fn check(&self, runtime: &Runtime) -> Held {
        runtime.block_on(self.told.check(&self.market, &self.requesters))
    }
}

fn kill(market: &mut Market, crowd: &Crowd, agents: usize) {
    let before = crowd.connects();
    market.broker.as_mut().unwrap().kill();
    market.start_broker();
    wait_until("all agents are back", crowd, || {
        crowd.connects() >= before + agents && crowd.placed() == agents
    });
}

/// Waits until something holds; panics with what the agents met if it does not.
pub fn wait_until(what: &str, crowd: &Crowd, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        let late = begun.elapsed() > PATIENCE;
        assert!(!late, "{what} within a minute: {:?}", crowd.losses());
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn open_accounts(market: &Market, wallets: Vec<Wallet>) -> Vec<Requester> {
    let http = market.http().parse().unwrap();
    let info = Requester::network(http).await;
    let mut requesters = Vec::new();
    for wallet in wallets {
        let mut requester = Requester::at(wallet, http, info.clone());
        requester.deposit(DEPOSIT).await;
        requester.sign_in().await;
        requesters.push(requester);
    }
    requesters
}
