//! Why there was no deal, in the words of what was asked for.

use ipsx_agent_core::requester::Wishes;
use ipsx_market::http::ProblemKind;
use ipsx_market::request::{CounterSource, Filter};
use ipsx_market::search::OfferQuery;
use ipsx_metering::Prices;

use crate::amount;
use crate::broker::{Broker, BrokerError};
use crate::cli::duration;
use crate::exit_code::{ExitCode, Failure};

/// The failure of a request that got no deal: says what was asked for and what would do.
pub(super) async fn no_deal(error: BrokerError, broker: &Broker, wishes: &Wishes) -> Failure {
    match error.kind() {
        Some(ProblemKind::NoMatch) => {
            let asked = asked(&wishes.filter, wishes.seconds);
            Failure::new(
                ExitCode::NoMatch,
                format!(
                    "no offer matches {asked}; widen the filters, `ipsx search` shows what there is"
                ),
            )
        }
        Some(ProblemKind::PriceTooLow)
            if wishes.counter_source == CounterSource::Provider && free_traffic(wishes) =>
        {
            Failure::new(
                ExitCode::PriceTooLow,
                "every matching offer charges for traffic, which this program cannot count when another client runs the tunnel; raise --max-price-per-second, or believe the provider's count with --trust-provider-bytes",
            )
        }
        Some(ProblemKind::PriceTooLow) => {
            let query = OfferQuery {
                filter: wishes.filter.clone(),
                seconds: Some(wishes.seconds),
                expected_bytes: wishes.expected_bytes,
                ..OfferQuery::default()
            };
            let offers = broker.offers(&query).await.unwrap_or_default();
            match offers
                .iter()
                .map(|offer| offer.prices)
                .min_by_key(|prices| (prices.per_second, prices.per_gib))
            {
                Some(prices) => Failure::new(
                    ExitCode::PriceTooLow,
                    format!(
                        "every matching offer costs more than was allowed; the cheapest asks {}; raise --max-price-per-second, --max-price-per-gib or --budget",
                        price(&prices)
                    ),
                ),
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

fn free_traffic(wishes: &Wishes) -> bool {
    wishes.max_prices.per_gib.0.0 == 0
}

/// Prices as people read them.
pub fn price(prices: &Prices) -> String {
    let second = format!("{} a second", amount::tokens(prices.per_second.0));
    if prices.per_gib.0.0 == 0 {
        return second;
    }
    format!("{second} and {} a GiB", amount::tokens(prices.per_gib.0))
}

/// Refusals to end a lease which mean that the broker holds it for over.
pub(super) fn is_settled(kind: ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::NotFound | ProblemKind::Conflict | ProblemKind::Forbidden
    )
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn asked(filter: &Filter, seconds: u32) -> String {
    let mut asked = Vec::new();
    let list = |values: Vec<String>| values.join(" or ");
    if !filter.countries.is_empty() {
        asked.push(format!("country {}", list(texts(&filter.countries))));
    }
    let places = [
        ("region", texts(&filter.regions)),
        ("city", texts(&filter.cities)),
        ("a circle around", texts(&filter.circles)),
        ("type", texts(&filter.address_types)),
    ];
    for (name, values) in places.into_iter().filter(|(_, values)| !values.is_empty()) {
        asked.push(format!("{name} {}", list(values)));
    }
    if !filter.asns.is_empty() {
        asked.push(format!("AS{}", list(texts(&filter.asns))));
    }
    if !filter.prefixes.is_empty() {
        asked.push(format!("prefix {}", list(texts(&filter.prefixes))));
    }
    if !filter.protocols.is_empty() {
        let protocols: Vec<ipsx_market::offer::Protocol> = filter.protocols.into();
        let names: Vec<_> = protocols.iter().map(ToString::to_string).collect();
        asked.push(names.join(" and "));
    }
    if filter.tier != Default::default() {
        asked.push(format!("tier {}", filter.tier));
    }
    let exits = [
        ("ports", texts(&filter.ports)),
        ("services", texts(&filter.services)),
    ];
    for (name, values) in exits.into_iter().filter(|(_, values)| !values.is_empty()) {
        asked.push(format!("{name} {}", values.join(" and ")));
    }
    if filter.max_latency_ms > 0 {
        asked.push(format!(
            "a round trip of at most {} ms",
            filter.max_latency_ms
        ));
    }
    if filter.min_reputation > 0 {
        asked.push(format!("a reputation of {}", filter.min_reputation));
    }
    if let Some(way) = filter.reachability {
        asked.push(format!("reached {way}"));
    }
    if filter.mbit_down > 0 || filter.mbit_up > 0 {
        asked.push(format!(
            "{}/{} Mbit/s down/up",
            filter.mbit_down, filter.mbit_up
        ));
    }
    asked.push(format!("for {}", duration::format(u64::from(seconds))));
    asked.join(", ")
}
