//! A broker with agents and requesters who have money.

use std::process::Command;
use std::time::{Duration, Instant};

use ipsx_benches::time_of_process;
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::crowd::{Crowd, Plan};
use ipsx_tests::market::Market;
use ipsx_tests::nats::Nats;
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
/// Sockets of the agents of each broker, each in a /24 of its own.
const SOCKETS: u16 = 40;
/// Where they are, and what is asked for, in a fleet.
const COUNTRIES: [&str; 20] = [
    "AR", "AU", "BR", "CA", "CH", "CL", "DE", "EG", "ES", "FR", "GB", "IN", "IT", "JP", "KR", "MX",
    "NL", "PL", "TR", "US",
];
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
    pub(crate) countries: &'static [&'static str],
    /// The broker that is measured, or the one whose chain the others are on.
    market: Market,
    /// The brokers of a fleet.
    members: Vec<Market>,
    _crowds: Vec<Crowd>,
    nats: Option<Nats>,
    _database: Option<Server>,
}

impl Scene {
    /// `None` where the store's program is not installed.
    pub(crate) async fn set(
        store: Store,
        brokers: Option<usize>,
        requesters: usize,
        agents: usize,
    ) -> Option<Self> {
        let (database, url) = match store {
            Store::Sqlite => (None, "sqlite".to_owned()),
            Store::Postgres => {
                let server = Server::start(&[])?;
                let url = server.database("broker");
                (Some(server), url)
            }
        };
        let nats = match brokers {
            None => None,
            Some(_) => Some(Nats::start()?),
        };
        let own_store = match brokers {
            None => url.clone(),
            // It only has the chain.
            Some(_) => "sqlite".into(),
        };
        let program = move |name: &str| {
            let own = std::env::current_exe().unwrap();
            let mut command = Command::new(own.with_file_name(name));
            command.env("IPSX_BROKER_STORE", &own_store);
            command.envs(SETTINGS.map(|(key, value)| (format!("IPSX_BROKER_{key}"), value)));
            command
        };
        let countries: &[_] = match brokers {
            None => &["FR"],
            Some(_) => &COUNTRIES,
        };
        let places = (0..SOCKETS).map(|n| format!("127.{}.{}.0/24", (n >> 8) + 1, n & 0xff));
        let places: Vec<_> = places.collect();
        let cycle = countries.iter().cycle();
        let places: Vec<_> = places
            .iter()
            .map(String::as_str)
            .zip(cycle.copied())
            .collect();
        let mut market = Market::new("127.0.0.1", &places, Box::new(program));
        let wallets: Vec<_> = (0..requesters).map(|_| Wallet::random()).collect();
        for wallet in &wallets {
            market.fund(&wallet.address().to_string());
        }
        market.start_broker();
        let mut members: Vec<_> = (0..brokers.unwrap_or(0))
            .map(|_| market.sibling())
            .collect();
        for (number, member) in members.iter_mut().enumerate() {
            let (name, nats) = (format!("b{number}"), nats.as_ref().unwrap().address);
            let nats = format!("nats://{nats}");
            member.tell_broker(&["--store", &url, "--name", &name, "--nats", &nats]);
            member.start_broker();
        }
        let measured = if members.is_empty() {
            std::slice::from_ref(&market)
        } else {
            &members
        };
        let plan = Plan {
            agents: agents / measured.len(),
            sockets: SOCKETS,
            leases: LEASES,
            ..Plan::default()
        };
        let gather = |one: &Market| Crowd::gather(one.agents().parse().unwrap(), plan.clone());
        let crowds: Vec<_> = measured.iter().map(gather).collect();
        let mut requesters = open_accounts(&market, wallets, measured).await;
        let begun = Instant::now();
        let placed = || crowds.iter().map(Crowd::placed).sum::<usize>();
        while placed() < plan.agents * crowds.len() {
            let losses: Vec<_> = crowds.iter().map(Crowd::losses).collect();
            assert!(begun.elapsed() < PATIENCE, "{losses:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Each has its session key authorised on the chain once, with its first lease.
        let first = Load {
            rate: 100,
            seconds: requesters.len() as u64 / 100,
        };
        let answers = first.run(&mut requesters, countries).await;
        assert!(answers.failures.is_empty(), "{:?}", answers.failures);
        tokio::time::sleep(crate::LAPSE).await;
        Some(Self {
            requesters,
            countries,
            market,
            members,
            _crowds: crowds,
            nats,
            _database: database,
        })
    }

    /// What the brokers have used since their start.
    pub(crate) fn usage(&self) -> Usage {
        let measured = match self.members.as_slice() {
            [] => std::slice::from_ref(&self.market),
            members => members,
        };
        let process = |one: &Market| one.broker.as_ref().unwrap().id();
        let commits = |one: &Market| one.metric("ipsx_store_commits_total") as u64;
        Usage {
            processor: measured
                .iter()
                .map(|one| time_of_process(process(one)))
                .sum(),
            commits: measured.iter().map(commits).sum(),
            messages: self.nats.as_ref().map_or(0, Nats::messages),
            own: time_of_process(std::process::id()),
        }
    }
}

pub(crate) struct Usage {
    pub(crate) processor: Duration,
    pub(crate) commits: u64,
    /// Between brokers.
    pub(crate) messages: u64,
    /// This program's: agents and requesters.
    pub(crate) own: Duration,
}

impl Usage {
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            processor: self.processor - earlier.processor,
            commits: self.commits - earlier.commits,
            messages: self.messages - earlier.messages,
            own: self.own - earlier.own,
        }
    }
}

/// Deposits, and a session for each at one of the brokers that are measured.
async fn open_accounts(
    market: &Market,
    wallets: Vec<Wallet>,
    measured: &[Market],
) -> Vec<Requester> {
    let http = market.http().parse().unwrap();
    let info = Requester::network(http).await;
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for (wallet, at) in wallets.into_iter().zip(measured.iter().cycle()) {
        if opening.len() == TOGETHER {
            open.extend(opening.join_next().await.map(Result::unwrap));
        }
        let mut requester = Requester::at(wallet, http, info.clone());
        let url = format!("http://{}", at.http());
        opening.spawn(async move {
            requester.deposit(DEPOSIT).await;
            requester.url = url;
            requester.sign_in().await;
            requester
        });
    }
    open.extend(opening.join_all().await);
    open
}
