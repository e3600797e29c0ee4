//! Offers that arrive while very many requests rest.

use std::time::Instant;

use ipsx_benches::Samples;
use ipsx_market::book::BookLimits;
use ipsx_market::market::{Market, MarketConfig, Ticket};
use ipsx_market::request::{CounterSource, Request, SignedRequest, TunnelKey};
use ipsx_market::resting::RestingLimits;
use ipsx_market::start::StartWindow;
use ipsx_metering::{Address, Amount, B256, Domain, NetworkId, SecretKey, UnixSeconds};

use crate::{Failed, resident};
use ipsx_benches::questions::{KINDS, Question, questions};
use ipsx_benches::spread::{NOW, SEED, Spread};

/// Offers that arrive.
const OFFERS: usize = 5_000;

/// Lets so many requests of the mix rest, then offers of the spread come.
pub(crate) fn measure(requests: usize) -> Result<(), Failed> {
    let mut market = Market::new(config(requests), Vec::new(), NOW);
    let mut spread = Spread::new(SEED);
    let kinds = questions(&mut spread, requests.div_ceil(KINDS));
    let kinds = kinds.into_iter().flat_map(|(_, questions)| questions);
    let key = SecretKey::from_bytes(&[1; 32]).ok_or("no key")?;
    // One signature for all: nobody checks it here, and to sign takes longer than all the rest.
    let signed = SignedRequest::sign(request(0, some_question()), &config(1).domain, &key, &key);
    let before = resident()?;
    let started = Instant::now();
    for (number, question) in (0..requests as u64).zip(kinds) {
        let posted = SignedRequest {
            message: request(number, question),
            ..signed.clone()
        };
        market.request(Ticket(number), posted, B256::ZERO, NOW);
    }
    let there = market.resting().len();
    let each = started.elapsed().as_secs_f64() * 1e6 / there.max(1) as f64;
    let bytes = resident()?.saturating_sub(before) / there.max(1) as u64;
    println!("{there} requests rest: {each:.1} µs and {bytes} bytes each\n");
    let (mut idle, mut matched, mut proposals) = (Vec::new(), Vec::new(), 0);
    for _ in 0..OFFERS {
        let (offer, placement) = spread.offer();
        market.place(offer, placement, NOW)?;
        let started = Instant::now();
        let commands = market.match_resting(NOW);
        let took = started.elapsed().as_secs_f64() * 1e6;
        proposals += commands.len();
        match commands.is_empty() {
            true => idle.push(took),
            false => matched.push(took),
        }
    }
    println!("| an offer arrives | offers | p50 | p99 | most |\n|---|---:|---:|---:|---:|");
    for (what, took) in [("and fits nobody", idle), ("and is proposed", matched)] {
        let count = took.len();
        if let Some(took) = Samples::new(took) {
            let (p50, p99, most) = (took.median(), took.at(0.99), took.most());
            println!("| {what} | {count} | {p50:.1} µs | {p99:.1} µs | {most:.1} µs |");
        }
    }
    println!("\n{proposals} proposals in all");
    Ok(())
}

fn config(requests: usize) -> MarketConfig {
    MarketConfig {
        network: NetworkId(B256::ZERO),
        domain: Domain {
            chain_id: 1,
            contract: Address::ZERO,
        },
        timers: Default::default(),
        book: BookLimits::default(),
        resting: RestingLimits {
            requests,
            requests_per_payer: requests,
        },
        unstarted_deals: 8,
        attempts: 3,
    }
}

fn some_question() -> Question {
    Question {
        filter: Default::default(),
        max_prices: Default::default(),
        seconds: 60,
        gib: 0,
    }
}

/// A request of a payer of its own.
fn request(number: u64, question: Question) -> Request {
    let wallet = Address::left_padding_from(&(number + 1).to_be_bytes());
    Request {
        network: NetworkId(B256::ZERO),
        requester: wallet,
        nonce: number,
        filter: question.filter,
        max_prices: question.max_prices,
        budget: Amount(1 << 80),
        seconds: question.seconds,
        start: StartWindow::NOW,
        expected_bytes: question.gib << 30,
        payer: wallet,
        payer_signer: wallet,
        channel_salt: B256::ZERO,
        tunnel_key: TunnelKey(B256::ZERO),
        counter_source: CounterSource::Both,
        expires_at: NOW.after(86_400),
        rest_until: UnixSeconds(NOW.0 + 86_400),
        bundle: Default::default(),
    }
}
