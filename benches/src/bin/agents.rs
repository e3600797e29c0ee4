//! What a connected agent costs the broker, and how fast all of them come back after it was killed.
//!
//! `cargo build --release --workspace && target/release/agents [--agents 20000]`. The broker is the real program, this one is
//! the agents: each has a wallet, signs the handshake and an offer, and keeps its connection. Broker and agents share the
//! machine, so each second is paid for twice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use ipsx_benches::{Samples, time_of_process};
use ipsx_tests::crowd::{Crowd, Plan};
use ipsx_tests::market::Market;
use ipsx_tests::program::status_figure;

/// Longer than this, and something is wrong.
const PATIENCE: Duration = Duration::from_secs(170);
/// Between two looks at the agents.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Parser)]
struct Args {
    /// Agents that connect
    #[arg(long, default_value_t = 20_000)]
    agents: usize,
    /// Sockets that they share, each in a /24 of its own
    #[arg(long, default_value_t = 200)]
    sockets: u16,
    /// Seconds between an agent's keep-alives
    #[arg(long, default_value_t = 5)]
    keep_alive: u64,
    /// Seconds that they only stay
    #[arg(long, default_value_t = 20)]
    idle: u64,
    /// Does not kill the broker
    #[arg(long)]
    without_storm: bool,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut market = Market::new("127.0.0.1", &[("127.0.0.0/8", "FR")], Box::new(program));
    market.start_broker();
    let broker = id(&market);
    let empty = status_figure(broker, "RssAnon");
    println!("{empty} KiB of its own, the broker without agents");

    let before = Load::of(broker);
    let requester = Requester::start(market.http());
    let crowd = runtime.block_on(async {
        let agents = market.agents().parse().unwrap();
        let plan = Plan {
            agents: args.agents,
            sockets: args.sockets,
            keep_alive: Duration::from_secs(args.keep_alive),
            ..Plan::default()
        };
        Crowd::gather(agents, plan)
    });
    wait_for(&crowd, args.agents);
    before.print("first connects", broker, args.agents);
    requester.print();

    std::thread::sleep(Duration::from_secs(2));
    let before = Load::of(broker);
    std::thread::sleep(Duration::from_secs(args.idle));
    before.print("idle", broker, args.agents);
    let full = status_figure(broker, "RssAnon");
    let each = (full - empty) as f64 / args.agents as f64;
    println!("{full} KiB with {} agents: {each:.2} KiB each", args.agents);

    if !args.without_storm {
        storm(&mut market, &crowd, args.agents);
    }
    println!("losses: {:#?}", crowd.losses());
}

fn storm(market: &mut Market, crowd: &Crowd, agents: usize) {
    let done = crowd.connects();
    let killed = Instant::now();
    market.broker.as_mut().unwrap().kill();
    market.start_broker();
    let broker = id(market);
    println!(
        "broker ready again {:.1} s after the kill",
        killed.elapsed().as_secs_f64()
    );
    let requester = Requester::start(market.http());
    // The broker's time from its start on.
    let before = Load {
        cpu: Duration::ZERO,
        since: killed,
    };
    while crowd.connects() < done + agents || crowd.placed() < agents {
        if killed.elapsed() > PATIENCE {
            println!("gave up: {} placed; {:#?}", crowd.placed(), crowd.losses());
            std::process::exit(1);
        }
        std::thread::sleep(LOOK);
    }
    before.print("all back after kill -9", broker, agents);
    requester.print();
    let own = status_figure(broker, "RssAnon");
    println!("{own} KiB of its own");
}

fn wait_for(crowd: &Crowd, agents: usize) {
    let start = Instant::now();
    while crowd.placed() < agents {
        if start.elapsed() > PATIENCE {
            println!("gave up: {} placed; {:#?}", crowd.placed(), crowd.losses());
            std::process::exit(1);
        }
        std::thread::sleep(LOOK);
    }
}

/// The program beside this one.
fn program(name: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own.with_file_name(name));
    command.env("IPSX_BROKER_LOG", "warn");
    command
}

fn id(market: &Market) -> u32 {
    market.broker.as_ref().unwrap().id()
}

/// Where a process stood.
struct Load {
    cpu: Duration,
    since: Instant,
}

impl Load {
    fn of(process: u32) -> Self {
        Self {
            cpu: time_of_process(process),
            since: Instant::now(),
        }
    }

    fn print(&self, what: &str, process: u32, agents: usize) {
        let cpu = (time_of_process(process).saturating_sub(self.cpu)).as_secs_f64();
        let wall = self.since.elapsed().as_secs_f64();
        let each = cpu * 1e6 / agents as f64;
        println!(
            "{what}: {wall:.1} s, {cpu:.2} s of the broker's processor time ({:.0} % of one), {each:.0} µs an agent, {:.0} agents/s",
            100.0 * cpu / wall,
            agents as f64 / wall
        );
    }
}

/// Somebody who asks what is for sale all the while.
struct Requester {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<f64>>,
}

impl Requester {
    fn start(http: &str) -> Self {
        let (stop, http) = (Arc::new(AtomicBool::new(false)), http.to_owned());
        let stopped = stop.clone();
        let asking = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                ask(&http);
                took.push(asked.elapsed().as_secs_f64() * 1e3);
                std::thread::sleep(Duration::from_millis(20));
            }
            took
        });
        Self { stop, asking }
    }

    fn print(self) {
        self.stop.store(true, Ordering::Relaxed);
        let took = Samples::new(self.asking.join().unwrap()).unwrap();
        println!(
            "  meanwhile a requester got offers in {:.1} ms (median), {:.1} ms (p99), {:.1} ms (most)",
            took.median(),
            took.at(0.99),
            took.most()
        );
    }
}

fn ask(http: &str) {
    let mut stream = TcpStream::connect(http).unwrap();
    let request =
        "GET /v1/offers?country=FR&limit=10 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
