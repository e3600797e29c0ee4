//! What a fleet of so many brokers could carry, by the pure core: how evenly shards and offers fall on brokers, and how many
//! owners a request asks.
#![allow(clippy::print_stdout, reason = "prints a table")]
#![allow(clippy::float_arithmetic, reason = "ratios for people")]

use std::collections::{BTreeMap, BTreeSet};

use ipsx_market::fleet::{Instance, Member, Millis, Seen, ShardId, Timing, Wish};
use ipsx_market::place::Country;
use ipsx_market::request::Filter;
use ipsx_metering::Address;

/// Offers of the market that is drawn.
const OFFERS: usize = 200_000;
/// Countries, the n-th with a share of 1/n.
const COUNTRIES: usize = 200;
const FLEETS: [usize; 7] = [1, 2, 3, 5, 10, 30, 100];

fn main() {
    let countries = countries();
    let weights: Vec<f64> = (1..=COUNTRIES).map(|n| 1.0 / n as f64).collect();
    let all: f64 = weights.iter().sum();
    let mut offers = BTreeMap::<ShardId, usize>::new();
    let mut number = 0_u64;
    for (country, weight) in countries.iter().zip(&weights) {
        for _ in 0..(OFFERS as f64 * weight / all) as usize {
            number += 1;
            let wallet = Address::left_padding_from(&number.to_be_bytes());
            *offers
                .entry(ShardId::new(Some(*country), wallet))
                .or_default() += 1;
        }
    }
    println!(
        "{number} offers in {COUNTRIES} countries, the largest with {:.1} % of them",
        100.0 / all
    );
    println!(
        "| brokers | shards, most and fewest | busiest broker's offers | as many brokers' worth | owners asked, one country | none named |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    for brokers in FLEETS {
        let owners = share_out(brokers);
        let (mut shards, mut load) = (vec![0; brokers], vec![0; brokers]);
        for (shard, owner) in &owners {
            shards[*owner] += 1;
            load[*owner] += offers.get(shard).copied().unwrap_or(0);
        }
        let busiest = load.iter().copied().max().unwrap_or(0) as f64 / number as f64;
        let asked = |country: Option<Country>| {
            let filter = Filter {
                countries: country.into_iter().collect(),
                ..Filter::default()
            };
            let asked = ShardId::of_filter(&filter);
            let asked: BTreeSet<_> = asked.iter().filter_map(|shard| owners.get(shard)).collect();
            asked.len()
        };
        let one: f64 = countries
            .iter()
            .zip(&weights)
            .map(|(country, weight)| asked(Some(*country)) as f64 * weight / all)
            .sum();
        println!(
            "| {brokers} | {} and {} | {:.1} % | {:.1} | {one:.1} | {} |",
            shards.iter().max().unwrap_or(&0),
            shards.iter().min().unwrap_or(&0),
            busiest * 100.0,
            1.0 / busiest,
            asked(None)
        );
    }
}

fn countries() -> Vec<Country> {
    let letters = || (b'A'..=b'Z').map(char::from);
    let all = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
    all.step_by(3)
        .filter_map(|name| name.parse().ok())
        .take(COUNTRIES)
        .collect()
}

/// Which of so many brokers claims each shard.
fn share_out(brokers: usize) -> BTreeMap<ShardId, usize> {
    let names: Vec<Instance> = (0..brokers)
        .filter_map(|n| format!("b{n}-{:08x}", n * 0x9e37_79b9).parse().ok())
        .collect();
    let seen = Seen {
        live: names.iter().cloned().collect(),
        shards: Vec::new(),
    };
    let mut owners = BTreeMap::new();
    for (number, name) in names.iter().enumerate() {
        let mut member = Member::new(name.clone(), Timing::default());
        let turn = member.handle_beat(Millis(0), seen.clone());
        for wish in turn.wishes {
            if let Wish::Claim { shard, .. } = wish {
                owners.insert(shard, number);
            }
        }
    }
    owners
}
