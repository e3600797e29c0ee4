//! How fast the order book finds the best of a million offers, beside databases with good indexes.
//!
//!     cargo run --release -p ipsx-benches --bin matching [-- --offers 1000000 --rounds 5]
//!
//! Prints a Markdown table. SQLite runs in this process, in memory, with an index for each attribute and a covering order;
//! it answers a sample of the same questions, and both must name the same offer.

// Measuring is what clocks are for, and a table is what this prints.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    clippy::print_stdout
)]

mod database;
mod questions;
mod spread;

use std::time::{Duration, Instant};

use ipsx_benches::Samples;
use ipsx_market::book::{BookLimits, HoldId, OfferBook};
use ipsx_market::matching::Wanted;

use questions::{Question, questions};
use spread::{NOW, Spread};

/// Questions of each kind in a round.
const ASKED: usize = 2_000;

/// Offers replaced in a round.
const REPLACED: usize = 100_000;

/// Questions of each kind that a database answers.
const COMPARED: usize = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let offers: usize = argument("--offers", 1_000_000)?;
    let rounds: usize = argument("--rounds", 5)?;
    let mut spread = Spread::new(1);
    let before = resident()?;
    let mut book = OfferBook::new(BookLimits {
        offers: offers + 1,
        offers_per_provider: usize::MAX,
    });
    let started = Instant::now();
    for _ in 0..offers {
        let (offer, placement) = spread.offer();
        book.place(offer, placement)?;
    }
    let filled = started.elapsed();
    let bytes = (resident()? - before) / book.len() as u64;
    println!(
        "{} offers, {bytes} bytes each (resident memory), put in at {:.0} a second\n",
        book.len(),
        book.len() as f64 / filled.as_secs_f64()
    );

    let kinds = questions(&mut spread, ASKED);
    println!(
        "| asked for | of the offers | finds | p50 µs | p99 µs | most µs | SQLite p50 µs | SQLite p99 µs |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let database = database::Database::fill(offers)?;
    let (mut mix50, mut mix99) = (Vec::new(), Vec::new());
    let mut all = vec![Vec::new(); rounds];
    for (name, asked) in &kinds {
        let (mut p50, mut p99, mut most) = (Vec::new(), Vec::new(), Vec::new());
        for round in &mut all {
            let mut times: Vec<f64> = asked.iter().map(|q| micros(ask(&book, q))).collect();
            round.extend_from_slice(&times);
            times.sort_by(f64::total_cmp);
            p50.push(times[times.len() / 2]);
            p99.push(times[times.len() * 99 / 100]);
            most.push(times[times.len() - 1]);
        }
        let found = asked.iter().filter(|q| best(&book, q).is_some()).count();
        let share = share(&book, &asked[0]);
        let theirs = database.times(&book, &asked[..COMPARED.min(asked.len())])?;
        println!(
            "| {name} | {share} | {:.0} % | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} |",
            found as f64 * 100.0 / asked.len() as f64,
            median(p50)?,
            median(p99)?,
            median(most)?,
            theirs.0,
            theirs.1,
        );
    }
    for round in &mut all {
        round.sort_by(f64::total_cmp);
        mix50.push(round[round.len() / 2]);
        mix99.push(round[round.len() * 99 / 100]);
    }
    println!(
        "| **all of them, mixed** | | | **{:.1}** | **{:.1}** | | | |\n",
        median(mix50)?,
        median(mix99)?
    );

    let mut rates = Vec::new();
    for _ in 0..rounds {
        let replacing: Vec<_> = (0..REPLACED).map(|_| spread.replacement(offers)).collect();
        let started = Instant::now();
        for (offer, placement) in replacing {
            book.place(offer, placement)?;
        }
        rates.push(REPLACED as f64 / started.elapsed().as_secs_f64());
    }
    println!(
        "Offers replaced by others at another price: {:.0} a second",
        samples(rates)?
    );
    println!(
        "Leases taken and given back: {:.0} a second",
        leases(&mut book, &kinds, rounds)?
    );
    Ok(())
}

fn ask(book: &OfferBook, question: &Question) -> Duration {
    let started = Instant::now();
    std::hint::black_box(best(book, question));
    started.elapsed()
}

fn best(book: &OfferBook, question: &Question) -> Option<ipsx_metering::OfferId> {
    let found = book.best(&question.wanted(), NOW, &[]);
    found.ok().map(|listing| listing.id)
}

/// How many offers a question fits, out of how many.
fn share(book: &OfferBook, question: &Question) -> String {
    let fits = book.search(&question.wanted(), NOW, usize::MAX).len();
    format!("{fits}")
}

fn leases(
    book: &mut OfferBook,
    kinds: &[(&str, Vec<Question>)],
    rounds: usize,
) -> Result<Samples, &'static str> {
    let mut rates = Vec::new();
    let mut next = 0;
    for _ in 0..rounds {
        let started = Instant::now();
        let mut taken = 0;
        for question in kinds.iter().flat_map(|(_, asked)| asked) {
            next += 1;
            let wanted: Wanted<'_> = question.wanted();
            if book.take(HoldId(next), &wanted, NOW, &[]).is_ok() {
                taken += 1;
                book.release(HoldId(next));
            }
        }
        rates.push(f64::from(taken) / started.elapsed().as_secs_f64());
    }
    samples(rates)
}

fn samples(values: Vec<f64>) -> Result<Samples, &'static str> {
    Samples::new(values).ok_or("nothing was measured: --rounds must be 1 or more")
}

fn median(values: Vec<f64>) -> Result<f64, &'static str> {
    samples(values).map(|samples| samples.median())
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1_000.0
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.ok_or("/proc/self/status has no VmRSS")?;
    Ok(kilobytes.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn argument(name: &str, default: usize) -> Result<usize, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(default),
        (Some(_), Some(value)) => value
            .parse()
            .map_err(|_| format!("{name} {value}: not a whole number")),
        (Some(_), None) => Err(format!("{name}: the number is missing")),
    }
}
