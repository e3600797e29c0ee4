//! Three brokers as processes over PostgreSQL and NATS, with agents and requesters that come to any of them.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::{Duration, Instant};

use ipsx_market::fleet::ShardId;
use ipsx_settlement::Wallet;
use ipsx_tests::nats::Nats;
use ipsx_tests::port;
use ipsx_tests::postgres::Server;
use ipsx_tests::requester::Requester;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

use crate::cable::{Cable, End};
use crate::parties::agent::TestAgent;
use crate::parties::program::Program;
use crate::parties::{self, TestBroker, TestRequester};
use crate::parts::Parts;
use crate::people::{Customer, Deals, LEASES, Seen, lend};

pub const COUNTRIES: [&str; 3] = ["FR", "DE", "JP"];
/// Agents, as many in each country.
pub const AGENTS: usize = 9;
/// Of each requester.
pub const DEPOSIT: u128 = 100_000_000;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One broker, and what connects it to the others.
pub struct Member {
    _directory: tempfile::TempDir,
    pub http: SocketAddr,
    pub agents: SocketAddr,
    words: Vec<String>,
    pub to_postgres: Cable,
    pub to_nats: Cable,
    program: Option<Program>,
}

impl Member {
    pub fn start(&mut self) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ipsx-broker"));
        program.env_clear().args(&self.words);
        program.env("IPSX_BROKER_LOG", log());
        self.program = Some(Program::start_command(program));
    }

    pub fn kill(&mut self) {
        self.program.take().unwrap().kill();
    }

    /// Sends a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let process = self.program.as_ref().unwrap().child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &process])
            .status();
        assert!(sent.unwrap().success());
    }
}

fn log() -> String {
    std::env::var("IPSX_BROKER_LOG").unwrap_or_else(|_| "warn".into())
}

/// Each test measures times, so they take turns.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A fleet, with nothing else beside it for as long as the guard lives; `None` where tests are to do without its servers.
pub async fn alone() -> Option<(MutexGuard<'static, ()>, World)> {
    let alone = ALONE.lock().await;
    Some((alone, World::start().await?))
}

/// An agent that comes from an address to one of the brokers.
pub async fn agent(world: &World, from: &str, at: usize) -> TestAgent {
    let to = world.members[at].agents;
    let come = || {
        let from = from.to_owned();
        async move { TestAgent::connect_as(Wallet::random(), to, &from).await }
    };
    until_heard(come).await
}

/// An agent that connects again for as long as it is told to: its broker may still be taking over. Its helpers panic then.
pub async fn until_heard<F>(come: impl Fn() -> F) -> TestAgent
where
    F: Future<Output = TestAgent> + Send + 'static,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match tokio::spawn(come()).await {
            Ok(agent) => return agent,
            Err(refused) => assert!(Instant::now() < until, "{refused}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

pub struct World {
    pub postgres: Server,
    pub nats: Nats,
    pub chain: TestBroker,
    pub members: Vec<Member>,
    seen: Vec<Arc<SyncMutex<Seen>>>,
    deals: Arc<SyncMutex<Deals>>,
}

impl World {
    /// `None` where tests are to do without the servers.
    pub async fn start() -> Option<Self> {
        let nats = Nats::for_test()?;
        let postgres = Server::for_test()?;
        postgres.database("market");
        // Its embedded chain is the one that all brokers are on.
        let chain = TestBroker::start().await;
        let mut members = Vec::new();
        for name in ["b1", "b2", "b3"] {
            members.push(member(name, &postgres, &nats, &chain).await);
        }
        let mut world = Self {
            postgres,
            nats,
            chain,
            members,
            seen: Vec::new(),
            deals: Arc::default(),
        };
        for member in &mut world.members {
            member.start();
        }
        world.all_owned_by(3).await;
        Some(world)
    }

    pub fn sql(&self, sql: &str) -> String {
        self.postgres.sql("market", sql).join("\n")
    }

    pub async fn wait_until(&self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + limit;
        while !holds(self) {
            assert!(Instant::now() < until, "{what} within {limit:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until so many brokers live and each has what should be its own: then nothing moves any more.
    pub async fn all_owned_by(&self, brokers: usize) -> Parts {
        let until = Instant::now() + PATIENCE;
        loop {
            let sql = "SELECT instance FROM brokers WHERE expires_at > clock_timestamp()
                 ORDER BY instance";
            let parts = Parts::new(self.sql(sql).lines());
            let owners = self.sql("SELECT coalesce(owner, '') FROM shards ORDER BY shard");
            let should = |shard| parts.name(parts.owner(shard));
            // Every shard, also one that nobody has had yet.
            if parts.count() == brokers && ShardId::all().map(should).eq(owners.lines()) {
                return parts;
            }
            assert!(Instant::now() < until, "{parts:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn populate(&mut self) {
        let agents: Vec<_> = self.members.iter().map(|member| member.agents).collect();
        for number in 0..AGENTS {
            let seen = Arc::new(SyncMutex::new(Seen::default()));
            self.seen.push(Arc::clone(&seen));
            let from = format!("127.0.{}.{}", number % 3 + 1, number + 1);
            // Each begins at another broker, so that most belong to one that they are not connected to.
            tokio::spawn(lend(agents.clone(), from, number, seen));
        }
        let brokers: Vec<_> = self.members.iter().map(|member| member.http).collect();
        let mut customers = Vec::new();
        for number in 0..6 {
            let requester = self.requester(number % 3).await;
            let customer = Customer {
                requester,
                brokers: brokers
                    .iter()
                    .cycle()
                    .skip(number)
                    .take(3)
                    .copied()
                    .collect(),
                country: COUNTRIES[number % 3],
                deals: Arc::clone(&self.deals),
            };
            customers.push(customer);
        }
        // Afterwards only the brokers send from the operator's account.
        for customer in customers {
            tokio::spawn(customer.lease());
        }
    }

    /// Signed in at a broker, with a deposit.
    pub async fn requester(&self, at: usize) -> TestRequester {
        let http = self.members[at].http;
        let info = Requester::network(http).await;
        let mut requester = TestRequester::at(Wallet::random(), http, info);
        requester.deposit(&self.chain, DEPOSIT).await;
        requester.sign_in().await;
        requester
    }

    /// Where a broker is asked.
    pub fn url(&self, at: usize) -> String {
        format!("http://{}", self.members[at].http)
    }

    /// Leases that were bound so far.
    pub fn leases(&self) -> usize {
        self.deals.lock().unwrap().bound.len()
    }

    /// Offers that a broker finds in all parts of the market; `None` if it can't say.
    async fn offers(&self, at: usize) -> Option<usize> {
        let url = format!("http://{}/v1/offers", self.members[at].http);
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
        let client = client.build_http::<http_body_util::Empty<hyper::body::Bytes>>();
        let asked = client.get(url.parse().unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
        let answer = answer.ok()?.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        let offers: Vec<serde_json::Value> =
            serde_json::from_slice(&body.ok()?.to_bytes()).unwrap();
        Some(offers.len())
    }

    /// Waits until all that is offered is found at a broker again; how long it took.
    pub async fn back(&self, at: usize, since: Instant, limit: Duration) -> Duration {
        loop {
            let offers = self.offers(at).await;
            if offers == Some(AGENTS) {
                return since.elapsed();
            }
            assert!(since.elapsed() < limit, "{offers:?} offers after {limit:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The longest time without a new lease in any of the countries, from a moment on.
    pub fn longest_pause(&self, since: Instant) -> Duration {
        let deals = self.deals.lock().unwrap();
        let pauses = COUNTRIES.iter().map(|country| {
            let times = deals
                .times
                .iter()
                .filter(|(of, at)| of == country && *at > since);
            let mut last = since;
            let mut longest = Duration::ZERO;
            for at in times.map(|(_, at)| *at).chain([Instant::now()]) {
                longest = longest.max(at - last);
                last = at;
            }
            longest
        });
        pauses.max().unwrap()
    }

    /// Nothing was sold twice, and all that was promised is on disk.
    pub fn check(&self) {
        let deals = self.deals.lock().unwrap();
        println!(
            "{} leases, failures {:#?}",
            deals.bound.len(),
            deals.failures
        );
        assert!(deals.bound.len() > 20, "{:#?}", deals.failures);
        // Before the database is read: agents go on hearing of new leases meanwhile.
        let seen = self.seen.iter().map(|seen| {
            let seen = seen.lock().unwrap();
            (seen.bound.clone(), seen.most)
        });
        let seen: Vec<_> = seen.collect();
        let known = self.sql(
            "SELECT d.deal_id FROM deals d JOIN outcomes o ON o.deal_id = d.deal_id
             WHERE o.outcome = 'bound'",
        );
        let known: HashSet<_> = known.lines().collect();
        for id in deals.bound.keys() {
            assert!(known.contains(id.to_string().as_str()), "deal {id} is lost");
        }
        for (bound, most) in seen {
            assert!(most <= LEASES, "{most} leases at once");
            for id in bound {
                assert!(
                    known.contains(id.to_string().as_str()),
                    "lease {id} is lost"
                );
            }
        }
    }

    /// Leases that requesters hold and no agent has heard of.
    pub fn unheard(&self) -> usize {
        let seen = self.seen.iter();
        let heard: HashSet<_> = seen
            .flat_map(|seen| seen.lock().unwrap().bound.clone())
            .collect();
        let deals = self.deals.lock().unwrap();
        deals.bound.keys().filter(|id| !heard.contains(*id)).count()
    }
}

/// A hundred for each: those of `b1` begin at 21400.
fn relay_ports(name: &str) -> String {
    let number: u16 = name[1..].parse().unwrap();
    let first = 21_300 + 100 * number;
    format!("{first}-{}", first + 99)
}

async fn member(name: &str, postgres: &Server, nats: &Nats, chain: &TestBroker) -> Member {
    let directory = tempfile::tempdir().unwrap();
    let to_postgres = Cable::lay(End::Unix(postgres.socket())).await;
    let to_nats = Cable::lay(End::Tcp(nats.address)).await;
    let free = || port::free(Ipv4Addr::LOCALHOST.into());
    let (http, agents) = (free(), free());
    // Writes the database of places.
    parties::config(directory.path());
    let here = |name: &str| directory.path().join(name).display().to_string();
    let info = chain.broker.network_info();
    let own = chain.directory.path().join("data");
    let file = |name: &str| own.join(name).display().to_string();
    let words = [
        (
            "--store",
            format!("postgres://ipsx@{}/market", to_postgres.address),
        ),
        ("--nats", format!("nats://{}", to_nats.address)),
        ("--name", name.to_string()),
        ("--data-dir", here("data")),
        ("--country-db", here("places.mmdb")),
        ("--http-listen", http.to_string()),
        ("--agents-listen", agents.to_string()),
        ("--admin-listen", "127.0.0.1:0".to_string()),
        ("--chain", "rpc".to_string()),
        ("--rpc-url", format!("{}/rpc", chain.url())),
        ("--rpc-finality", "0".to_string()),
        ("--centralizer", info.domain.contract.to_string()),
        ("--network", info.network.to_string()),
        ("--wallet", file("operator.json")),
        ("--passphrase-file", file("operator.passphrase")),
        ("--max-address-requests-per-second", "0".to_string()),
        ("--max-wallet-requests-per-second", "0".to_string()),
        ("--max-unstarted-deals", "1000".to_string()),
        ("--relay-ports", relay_ports(name)),
    ];
    let words = words
        .into_iter()
        .flat_map(|(key, value)| [key.to_string(), value]);
    Member {
        http,
        agents,
        words: words.collect(),
        to_postgres,
        to_nats,
        program: None,
        _directory: directory,
    }
}
