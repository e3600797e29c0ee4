//! A broker with agents and requesters who have money.

use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_benches::time_of_process;
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::crowd::{Crowd, Plan};
use ipsx_tests::market::Market;
use ipsx_tests::postgres::Server;
use ipsx_tests::requester::Requester;
use tokio::task::JoinSet;

use crate::Store;
use crate::load::Load;

/// Until all agents are there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requesters that deposit and sign in at the same time: a broker has four places for it.
const TOGETHER: usize = 4;
/// Token units of each requester's deposit.
const DEPOSIT: u128 = 1_000_000_000_000;
const LEASES: u32 = 100;
/// What is lifted or shortened; everything else is as it comes.
const SETTINGS: [(&str, &str); 9] = [
    ("LOG", "warn"),
    ("MAX_ADDRESS_REQUESTS_PER_SECOND", "0"),
    ("MAX_WALLET_REQUESTS_PER_SECOND", "0"),
    ("MAX_MESSAGES_PER_SECOND", "100000"),
    ("MAX_PREFIX_MESSAGES_PER_SECOND", "0"),
    ("MAX_PREFIX_CONNECTS_PER_SECOND", "0"),
    ("MAX_UNSTARTED_DEALS", "1000"),
    // Leases that nobody starts are over after this many seconds.
    ("START_SECONDS", "10"),
    ("SIGN_SECONDS", "8"),
];

pub(crate) struct Scene {
    pub(crate) requesters: Vec<Requester>,
    market: Market,
    _crowd: Crowd,
    _database: Option<Server>,
}

impl Scene {
    /// `None` where the store's program is not installed.
    pub(crate) async fn set(store: Store, requesters: usize, agents: usize) -> Option<Self> {
        let (database, url) = match store {
            Store::Sqlite => (None, "sqlite".to_owned()),
            Store::Postgres => {
                let server = Server::start(&[])?;
                let url = server.database("broker");
                (Some(server), url)
            }
        };
        let program = move |name: &str| {
            let own = std::env::current_exe().unwrap();
            let mut command = Command::new(own.with_file_name(name));
            command.env("IPSX_BROKER_STORE", &url);
            command.envs(SETTINGS.map(|(key, value)| (format!("IPSX_BROKER_{key}"), value)));
            command
        };
        let mut market = Market::new("127.0.0.1", &[("127.0.0.0/8", "FR")], Box::new(program));
        let wallets: Vec<_> = (0..requesters).map(|_| Wallet::random()).collect();
        for wallet in &wallets {
            market.fund(&wallet.address().to_string());
        }
        market.start_broker();
        let plan = Plan {
            agents,
            sockets: 40,
            leases: LEASES,
            ..Plan::default()
        };
        let crowd = Crowd::gather(market.agents().parse().unwrap(), plan);
        let mut requesters = open_accounts(&market, wallets).await;
        let begun = Instant::now();
        while crowd.placed() < agents {
            assert!(begun.elapsed() < PATIENCE, "{:?}", crowd.losses());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Each has its session key authorised on the chain once, with its first lease.
        let first = Load {
            rate: 100,
            seconds: requesters.len() as u64 / 100,
        };
        let answers = first.run(&mut requesters).await;
        assert!(answers.failures.is_empty(), "{:?}", answers.failures);
        tokio::time::sleep(crate::LAPSE).await;
        Some(Self {
            requesters,
            market,
            _crowd: crowd,
            _database: database,
        })
    }

    /// What the broker has used since its start.
    pub(crate) fn usage(&self) -> Usage {
        let process = self.market.broker.as_ref().unwrap().id();
        Usage {
            processor: time_of_process(process),
            commits: self.market.metric("ipsx_store_commits_total") as u64,
        }
    }
}

pub(crate) struct Usage {
    pub(crate) processor: Duration,
    pub(crate) commits: u64,
}

impl Usage {
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            processor: self.processor - earlier.processor,
            commits: self.commits - earlier.commits,
        }
    }
}

/// Deposits, and a session for each.
async fn open_accounts(market: &Market, wallets: Vec<Wallet>) -> Vec<Requester> {
    let http = market.http().parse().unwrap();
    let info = Requester::network(http).await;
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for wallet in wallets {
        if opening.len() == TOGETHER {
            open.extend(opening.join_next().await.map(Result::unwrap));
        }
        let mut requester = Requester::at(wallet, http, info.clone());
        opening.spawn(async move {
            requester.deposit(DEPOSIT).await;
            requester.sign_in().await;
            requester
        });
    }
    open.extend(opening.join_all().await);
    open
}
