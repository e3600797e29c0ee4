//! How fast the order book finds the best of a million offers, beside databases with good indexes.
//!
//!     cargo run --release -p ipsx-benches --bin matching [-- --offers 1000000 --rounds 3 --databases 1]
//!
//! Prints a Markdown table. SQLite runs in this process, in memory; PostgreSQL is started on a socket in a temporary folder,
//! where it is installed. Both have an index for each attribute, in the order that is wanted; they answer a sample of the
//! same questions, and all must name the same offer. `--databases 0` leaves them out. At the end it says which of the aims
//! are met.
//!
//! `--resting N` measures the other book instead: what an offer costs that arrives while N requests rest.

// Measuring is what clocks are for, and a table is what this prints.

mod postgres;
mod resting;
mod sql;
mod sqlite;
mod updates;

use std::time::{Duration, Instant};

use ipsx_benches::Samples;
use ipsx_benches::questions::{Question, questions};
use ipsx_benches::spread::{NOW, SEED, Spread};
use ipsx_market::book::{BookLimits, HoldId, Listing, OfferBook};
use ipsx_market::matching::Wanted;
use ipsx_market::offer::WeeklyHours;

/// Questions of each kind in a round.
const ASKED: usize = 2_000;

/// Questions of each kind that a database answers.
const COMPARED: usize = 10;

/// A database's question that takes longer is stopped.
pub(crate) const MOST_MILLIS: u32 = 500;

/// What the book is meant to reach with a million offers.
const AIMS: Figures = Figures {
    p50: 20.0,
    p99: 200.0,
    updates: 100_000.0,
    slowest: 100_000.0,
    bytes: 400,
};

/// What the book is judged by: microseconds of the mix, updates a second as in a day and of the slowest kind, and bytes of
/// memory an offer.
struct Figures {
    p50: f64,
    p99: f64,
    updates: f64,
    slowest: f64,
    bytes: u64,
}

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
    match argument("--resting", 0)? {
        0 => {}
        requests => return resting::measure(requests),
    }
    let offers: usize = argument("--offers", 1_000_000)?;
    let rounds: usize = argument("--rounds", 3)?;
    let mut spread = Spread::new(SEED);
    let (mut book, bytes) = fill(&mut spread, offers)?;
    let kinds = questions(&mut spread, ASKED);
    let mut databases = match argument("--databases", 1)? {
        0 => Vec::new(),
        _ => databases(offers)?,
    };
    let (p50, p99) = table(&book, &kinds, &mut databases, rounds)?;
    drop(databases);
    println!(
        "\nThe mix, each of these {} kinds equally often: p50 {p50:.1} µs, p99 {p99:.1} µs.\n",
        kinds.len()
    );
    println!("| offers put in, changed and taken out | a second, on one core |\n|---|---:|");
    let (mut updates, mut slowest) = (f64::INFINITY, f64::INFINITY);
    for (kind, rates) in updates::updates(&mut book, &mut spread, offers, rounds)?.samples() {
        println!("| {kind} | {rates:.0} |");
        if kind == updates::AS_IN_A_DAY {
            updates = rates.median();
        }
        slowest = slowest.min(rates.median());
    }
    let leases = leases(&mut book, &kinds, rounds)?;
    println!("| leases taken, with the search, and given back | {leases:.0} |\n");
    let reached = Figures {
        p50,
        p99,
        updates,
        slowest,
        bytes,
    };
    judge(offers, &reached);
    Ok(())
}

/// Says which aims are met. They are for a million offers, and by fewer none is.
fn judge(offers: usize, reached: &Figures) {
    if offers < 1_000_000 {
        println!("The aims are for 1,000,000 offers; {offers} say nothing about them.");
        return;
    }
    let say = |what: &str, met: bool| println!("{what}: {}", if met { "met" } else { "NOT MET" });
    say("p50 of the mix below 20 µs", reached.p50 < AIMS.p50);
    say("p99 of the mix below 200 µs", reached.p99 < AIMS.p99);
    say(
        "100,000 updates a second, of all kinds as often as in a day",
        reached.updates >= AIMS.updates,
    );
    say(
        "100,000 updates of every kind a second",
        reached.slowest >= AIMS.slowest,
    );
    say("less than 400 bytes an offer", reached.bytes < AIMS.bytes);
}

/// A database, by the name of its column.
type Named = (&'static str, Box<dyn Asked>);

/// Both, filled at the same time.
fn databases(offers: usize) -> Result<Vec<Named>, Failed> {
    let postgres = std::thread::spawn(move || {
        let filled = postgres::Postgres::fill(offers);
        filled.map_err(|error| error.to_string())
    });
    let mut databases: Vec<Named> = vec![("SQLite", Box::new(sqlite::Sqlite::fill(offers)?))];
    match postgres.join().map_err(|_| "PostgreSQL's thread ended")?? {
        Some(postgres) => databases.push(("PostgreSQL", Box::new(postgres))),
        None => println!("PostgreSQL is not installed (Debian: postgresql)."),
    }
    Ok(databases)
}

/// Prints a line for each kind of question. Returns p50 and p99 of all together.
fn table(
    book: &OfferBook,
    kinds: &[(&str, Vec<Question>)],
    databases: &mut [Named],
    rounds: usize,
) -> Result<(f64, f64), Failed> {
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
    for (name, asked) in kinds {
        let ours = times(book, asked, &mut all)?;
        let found = asked.iter().filter(|q| best(book, q).is_some()).count();
        let fit = book.search(&asked[0].wanted(), NOW, usize::MAX).len();
        let mut line = format!("| {name} | {fit} | {} % |{ours}", found * 100 / asked.len());
        for (_, database) in databases.iter_mut() {
            line += &compared(book, database.as_mut(), &asked[..COMPARED])?;
        }
        println!("{line}");
    }
    let (mut mix50, mut mix99) = (Vec::new(), Vec::new());
    for round in &mut all {
        round.sort_by(f64::total_cmp);
        mix50.push(round[round.len() / 2]);
        mix99.push(round[round.len() * 99 / 100]);
    }
    Ok((median(mix50)?, median(mix99)?))
}

/// A book with so many offers, and the bytes of memory of each.
fn fill(spread: &mut Spread, offers: usize) -> Result<(OfferBook, u64), Failed> {
    let before = resident()?;
    let mut book = OfferBook::new(BookLimits {
        offers: usize::MAX,
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
        "{} offers, {bytes} bytes each (resident memory), drawn and put in at {:.0} a second\n",
        book.len(),
        book.len() as f64 / filled.as_secs_f64()
    );
    Ok((book, bytes))
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
