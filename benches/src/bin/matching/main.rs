//! How fast the order book finds the best of a million offers, beside databases with good indexes.
//!
//!     cargo run --release -p ipsx-benches --bin matching [-- --offers 1000000 --rounds 3 --databases 1]
//!
//! Prints a Markdown table. SQLite runs in this process, in memory; PostgreSQL is started on a socket in a temporary folder,
//! where it is installed. Both have an index for each attribute, in the order that is wanted; they answer a sample of the
//! same questions, and all must name the same offer. `--databases 0` leaves them out.

// Measuring is what clocks are for, and a table is what this prints.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    clippy::print_stdout
)]

mod postgres;
mod questions;
mod spread;
mod sql;
mod sqlite;

use std::time::{Duration, Instant};

use ipsx_benches::Samples;
use ipsx_market::book::{BookLimits, HoldId, Listing, OfferBook};
use ipsx_market::matching::Wanted;
use ipsx_market::offer::WeeklyHours;

use questions::{Question, questions};
use spread::{NOW, Spread};

/// Questions of each kind in a round.
const ASKED: usize = 2_000;

/// Offers replaced in a round.
const REPLACED: usize = 100_000;

/// Questions of each kind that a database answers.
const COMPARED: usize = 40;

/// What a database says to a question.
pub(crate) struct Answer {
    micros: f64,
    /// The offer's id, if any fits; nothing at all when the question was stopped.
    found: Option<Option<String>>,
}

/// A database with the same offers.
pub(crate) trait Asked {
    /// Asks twice, and times the second.
    fn ask(&mut self, question: &Question) -> Result<Answer, Failed>;
}

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let offers: usize = argument("--offers", 1_000_000)?;
    let rounds: usize = argument("--rounds", 3)?;
    let mut spread = Spread::new(1);
    let mut book = fill(&mut spread, offers)?;
    let kinds = questions(&mut spread, ASKED);

    let mut databases: Vec<(&str, Box<dyn Asked>)> = Vec::new();
    if argument("--databases", 1)? > 0 {
        databases.push(("SQLite", Box::new(sqlite::Sqlite::fill(offers)?)));
        match postgres::Postgres::fill(offers)? {
            Some(postgres) => databases.push(("PostgreSQL", Box::new(postgres))),
            None => println!("PostgreSQL is not installed (Debian: postgresql)."),
        }
    }
    let names = databases
        .iter()
        .map(|(name, _)| format!(" {name} p50 µs | {name} most µs |"));
    let lines = "---:|---:|".repeat(databases.len());
    println!(
        "| asked for | fit the first | found | p50 µs | p99 µs | most µs |{}",
        names.collect::<String>()
    );
    println!("|---|---:|---:|---:|---:|---:|{lines}");
    let mut all = vec![Vec::new(); rounds];
    for (name, asked) in &kinds {
        let ours = times(&book, asked, &mut all)?;
        let found = asked.iter().filter(|q| best(&book, q).is_some()).count();
        let fit = book.search(&asked[0].wanted(), NOW, usize::MAX).len();
        let mut line = format!("| {name} | {fit} | {} % |{ours}", found * 100 / asked.len());
        for (_, database) in &mut databases {
            line += &compared(&book, database.as_mut(), &asked[..COMPARED])?;
        }
        println!("{line}");
    }
    let (mut mix50, mut mix99) = (Vec::new(), Vec::new());
    for round in &mut all {
        round.sort_by(f64::total_cmp);
        mix50.push(round[round.len() / 2]);
        mix99.push(round[round.len() * 99 / 100]);
    }
    println!(
        "| **all of them, mixed** | | | **{:.1}** | **{:.1}** | |\n",
        median(mix50)?,
        median(mix99)?
    );
    println!(
        "Offers replaced by others at another price: {:.0} a second",
        replaced(&mut book, &mut spread, offers, rounds)?
    );
    println!(
        "Leases taken and given back: {:.0} a second",
        leases(&mut book, &kinds, rounds)?
    );
    Ok(())
}

fn fill(spread: &mut Spread, offers: usize) -> Result<OfferBook, Failed> {
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
    Ok(book)
}

/// Columns with what the book takes; each time is also put to those of its round.
fn times(book: &OfferBook, asked: &[Question], all: &mut [Vec<f64>]) -> Result<String, Failed> {
    let (mut p50, mut p99, mut most) = (Vec::new(), Vec::new(), Vec::new());
    for round in all {
        let mut times: Vec<f64> = asked.iter().map(|q| micros(ask(book, q))).collect();
        round.extend_from_slice(&times);
        times.sort_by(f64::total_cmp);
        p50.push(times[times.len() / 2]);
        p99.push(times[times.len() * 99 / 100]);
        most.push(times[times.len() - 1]);
    }
    let (p50, p99, most) = (median(p50)?, median(p99)?, median(most)?);
    Ok(format!(" {p50:.1} | {p99:.1} | {most:.0} |"))
}

/// Columns with what a database takes. Fails if it answers otherwise than the book.
fn compared(
    book: &OfferBook,
    database: &mut dyn Asked,
    asked: &[Question],
) -> Result<String, Failed> {
    let (mut times, mut stopped) = (Vec::new(), false);
    for question in asked {
        let answer = database.ask(question)?;
        times.push(answer.micros);
        stopped |= answer.found.is_none();
        let ours = book.best(&question.wanted(), NOW, &[]).ok();
        // The databases only know offers that are always for sale.
        let always = |listing: &Listing| listing.offer.weekly_hours == WeeklyHours::always();
        if let (Some(theirs), Some(ours)) = (answer.found, ours.filter(always))
            && theirs.as_deref() != Some(ours.id.to_string().as_str())
        {
            return Err(format!(
                "{theirs:?} instead of {}: {}",
                ours.id,
                sql::select(question)
            )
            .into());
        }
    }
    times.sort_by(f64::total_cmp);
    let (half, most) = (times[times.len() / 2], times[times.len() - 1]);
    let mark = if stopped { " (stopped)" } else { "" };
    Ok(format!(" {half:.0} | {most:.0}{mark} |"))
}

fn replaced(
    book: &mut OfferBook,
    spread: &mut Spread,
    offers: usize,
    rounds: usize,
) -> Result<Samples, Failed> {
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let replacing: Vec<_> = (0..REPLACED).map(|_| spread.replacement(offers)).collect();
        let started = Instant::now();
        for (offer, placement) in replacing {
            book.place(offer, placement)?;
        }
        rates.push(REPLACED as f64 / started.elapsed().as_secs_f64());
    }
    Ok(samples(rates)?)
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
