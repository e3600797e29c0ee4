//! What a domain list costs: memory for each domain, and time to build it and to look a name up.
//!
//! `cargo run --release -p ipsx-tunnel-core --example domain_lists -- [DOMAINS]`
#![allow(
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    clippy::print_stdout,
    reason = "a program for measuring"
)]

use std::time::{Duration, Instant};

use ipsx_tunnel_core::DomainSetBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

const LOOK_UPS: usize = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_000), |n| n.parse())?;
    let mut random = StdRng::seed_from_u64(7);
    let names: Vec<String> = (0..count).map(|_| name(&mut random)).collect();
    let letters: usize = names.iter().map(String::len).sum();

    let begin = Instant::now();
    let mut builder = DomainSetBuilder::default();
    for name in &names {
        builder.add_line(name)?;
    }
    let set = builder.build();
    let built = begin.elapsed();
    println!(
        "{} domains of {count}, {:.1} bytes each in the list, {:.1} in memory; built in {built:.1?}",
        set.len(),
        letters as f64 / count as f64,
        set.size() as f64 / set.len() as f64,
    );

    let below: Vec<String> = (0..LOOK_UPS)
        .map(|_| {
            format!(
                "www.{}",
                names.choose(&mut random).map_or("", String::as_str)
            )
        })
        .collect();
    let others: Vec<String> = (0..LOOK_UPS)
        .map(|_| format!("www.{}", name(&mut random)))
        .collect();
    for (what, asked) in [("denied", below), ("other", others)] {
        let begin = Instant::now();
        let found = asked.iter().filter(|name| set.covers(name)).count();
        println!(
            "{what} names: {found} of {LOOK_UPS} found, {:.2?} each",
            each(begin.elapsed())
        );
    }
    Ok(())
}

fn each(all: Duration) -> Duration {
    all / LOOK_UPS as u32
}

/// A name as such lists have them: mostly two labels, some more, under few endings.
fn name(random: &mut StdRng) -> String {
    let mut name = String::new();
    for _ in 0..random.gen_range(0..2) {
        name.push_str(&label(random, 3..8));
        name.push('.');
    }
    name.push_str(&label(random, 6..16));
    let endings = [
        ".com", ".com", ".com", ".net", ".org", ".de", ".ru", ".co.uk", ".info", ".xyz",
    ];
    name.push_str(endings.choose(random).unwrap_or(&".com"));
    name
}

fn label(random: &mut StdRng, length: std::ops::Range<usize>) -> String {
    let length = random.gen_range(length);
    (0..length)
        .map(|_| char::from(random.gen_range(b'a'..=b'z')))
        .collect()
}
