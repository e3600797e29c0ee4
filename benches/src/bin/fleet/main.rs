//! What a fleet of so many brokers could carry, and where its servers end.
//!
//!     cargo build --release --workspace && target/release/fleet [--lease-ms 2.9] [--message-us 100]
//!
//! The first table is drawn with the pure core: each member of a fleet claims its shards and has the offers of these in a
//! book; requests of the mix of `matching` come to any member, every owner that their filter concerns looks for its best
//! offer, and the one with the best of all has the lease. What is counted is who had to do what. From that, and from what a
//! lease and a message cost a broker (`lease_requests --brokers` measures both), follows what the fleet carries until its
//! busiest member has no time left. The second table is measured: PostgreSQL writes what a lease changes, NATS passes
//! messages on.

mod members;
mod servers;

use clap::Parser;
use ipsx_benches::questions::{Question, questions};
use ipsx_benches::spread::{SEED, Spread};

use members::{Costs, Members, Work};

const FLEETS: [usize; 7] = [1, 2, 3, 5, 10, 30, 100];
/// Requests of each of the twenty kinds.
const ASKED: usize = 200;

#[derive(Parser)]
struct Args {
    /// Offers of the market that is drawn
    #[arg(long, default_value_t = 200_000)]
    offers: usize,
    /// A processor's time that a lease takes a broker that is alone, in milliseconds
    #[arg(long, default_value_t = 2.9)]
    lease_ms: f64,
    /// A processor's time that a message to another broker takes at both ends together, in microseconds
    #[arg(long, default_value_t = 100.0)]
    message_us: f64,
    /// A processor's time that news take each broker that hears them, in microseconds
    #[arg(long, default_value_t = 10.0)]
    news_us: f64,
    /// Seconds that each server is measured; 0 leaves them out
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() {
    let args = Args::parse();
    let mut spread = Spread::new(SEED);
    let offers: Vec<_> = (0..args.offers).map(|_| spread.offer()).collect();
    let kinds = questions(&mut spread, ASKED);
    let mix: Vec<&Question> = kinds.iter().flat_map(|(_, asked)| asked).collect();
    let countries = &kinds
        .iter()
        .find(|(name, _)| *name == "a country")
        .unwrap()
        .1;
    let countries: Vec<&Question> = countries.iter().collect();
    let costs = Costs {
        lease: args.lease_ms * 1e3,
        message: args.message_us,
        news: args.news_us,
    };
    for (name, asked) in [("the mix", &mix), ("a country each", &countries)] {
        println!("\n{} offers, requests for {name}", args.offers);
        println!(
            "| brokers | the busiest one's offers | owners asked | best offer elsewhere | messages a lease | news heard a lease | quotes, µs a lease | the busiest one's ms, per lease of all | leases a second | of one broker's, times |"
        );
        println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        let mut alone = None;
        for brokers in FLEETS {
            let mut members = Members::new(brokers, &offers);
            let work = members.work(asked, &mut spread.random);
            let busiest = work.busiest(&costs);
            let rate = 1e6 / busiest;
            let Work { leases, quotes, .. } = &work;
            let done = *leases as f64;
            println!(
                "| {brokers} | {:.1} % | {:.1} | {:.0} % | {:.1} | {:.0} | {:.0} | {:.2} | {rate:.0} | {:.1} |",
                100.0 * members.largest_share(),
                work.asked as f64 / asked.len() as f64,
                100.0 * work.elsewhere as f64 / done,
                work.messages as f64 / done,
                work.news as f64 / done,
                quotes.as_secs_f64() * 1e6 / done,
                busiest / 1e3,
                rate / *alone.get_or_insert(rate),
            );
        }
    }
    if args.seconds > 0 {
        servers::measure(args.seconds);
    }
}
