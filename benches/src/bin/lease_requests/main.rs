//! Lease requests a second: how long each takes at one broker, and where that broker ends.
//!
//! `cargo build --release --workspace && target/release/lease_requests [--rates 500] [--store postgres]`. The broker is
//! the real program with a durable store; this one is its requesters and its agents, who sign what a lease needs. All share
//! the machine, and PostgreSQL as well. `TMPDIR` says on which disk the stores are; what a sync takes there is measured first.
//! With `--brokers 3` the broker is a fleet over PostgreSQL and NATS, to each of which a third of all agents and requesters
//! comes.
//!
//! Requests are sent when they are due, whether or not earlier ones were answered, and the time counts from then on: a broker
//! that falls behind can't slow down those who ask. Limits on how often one address, wallet or agent may ask are lifted.

mod load;
mod scene;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use ipsx_benches::Samples;

use load::{Answers, Load};
use scene::Scene;

/// What a lease request may take at most, for 99 of 100, at [`AIMED_RATE`].
const AIM: Duration = Duration::from_millis(5);
const AIMED_RATE: u32 = 500;
/// Leases that were not started lapse after this time, and their places are free again.
const LAPSE: Duration = Duration::from_secs(12);

#[derive(Parser)]
struct Args {
    /// Lease requests a second, one rate after the other
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200, 500, 1_000, 2_000])]
    rates: Vec<u32>,
    /// Seconds of each rate
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Wallets that ask, each with a deposit, a session and a connection
    #[arg(long, default_value_t = 1_000)]
    requesters: usize,
    /// Agents, each with an offer of 100 leases
    #[arg(long, default_value_t = 400)]
    agents: usize,
    /// Where the broker keeps its deals
    #[arg(long, value_delimiter = ',', default_values_t = [Store::Sqlite, Store::Postgres])]
    store: Vec<Store>,
    /// Brokers of a fleet, instead of one that is alone
    #[arg(long)]
    brokers: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    Sqlite,
    Postgres,
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sync = sync_time(&std::env::temp_dir());
    println!(
        "a sync of 8 KiB takes {:.2} ms here (median), {:.2} ms (p99)",
        sync.median(),
        sync.at(0.99)
    );
    let stores = match args.brokers {
        None => args.store.clone(),
        Some(_) => vec![Store::Postgres],
    };
    for store in stores {
        let brokers = args.brokers;
        let set = Scene::set(store, brokers, args.requesters, args.agents);
        let Some(mut scene) = runtime.block_on(set) else {
            println!("{store}: not installed");
            continue;
        };
        println!(
            "\n{store}, {}: {} requesters, {} agents",
            brokers.map_or_else(|| "one broker".into(), |n| format!("a fleet of {n}")),
            args.requesters,
            args.agents
        );
        println!(
            "| asked for, /s | answered, /s | lease request: p50 ms | p99 ms | p99.9 ms | until bound: p50 ms | p99 ms | the brokers' processors | ms a lease | agents and requesters: ms a lease | syncs a lease | messages a lease |"
        );
        println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        for rate in &args.rates {
            let before = scene.usage();
            let load = Load {
                rate: *rate,
                seconds: args.seconds,
            };
            let answers = runtime.block_on(load.run(&mut scene.requesters, scene.countries));
            report(&load, &answers, &scene.usage().since(&before));
            std::thread::sleep(LAPSE);
        }
    }
}

fn report(load: &Load, answers: &Answers, usage: &scene::Usage) {
    let proposed = Samples::new(answers.proposed.clone());
    let bound = Samples::new(answers.bound.clone());
    let (Some(proposed), Some(bound)) = (proposed, bound) else {
        println!(
            "{} /s: nothing was answered: {:?}",
            load.rate, answers.failures
        );
        return;
    };
    let done = answers.bound.len() as f64;
    println!(
        "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} % of one | {:.2} | {:.2} | {:.2} | {:.1} |",
        load.rate,
        done / answers.took.as_secs_f64(),
        proposed.median(),
        proposed.at(0.99),
        proposed.at(0.999),
        bound.median(),
        bound.at(0.99),
        100.0 * usage.processor.as_secs_f64() / answers.took.as_secs_f64(),
        1e3 * usage.processor.as_secs_f64() / done,
        1e3 * usage.own.as_secs_f64() / done,
        usage.commits as f64 / done,
        usage.messages as f64 / done,
    );
    if load.rate == AIMED_RATE {
        let verdict = if proposed.at(0.99) < AIM.as_secs_f64() * 1e3 {
            "met"
        } else {
            "not met"
        };
        println!("  p99 below {AIM:?} at {AIMED_RATE}/s: {verdict}");
    }
    if !answers.failures.is_empty() {
        println!("  without a lease: {:?}", answers.failures);
    }
}

/// How long it takes until 8 KiB of a file that has its length already are on disk, in milliseconds.
fn sync_time(folder: &Path) -> Samples {
    let path = folder.join(format!("ipsx-sync-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let block = [7; 8 << 10];
    let once = |_| {
        let begun = Instant::now();
        file.write_all_at(&block, 0).unwrap();
        file.sync_data().unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    };
    once(0);
    let samples = Samples::new((0..300).map(once).collect());
    std::fs::remove_file(&path).unwrap();
    samples.unwrap()
}
