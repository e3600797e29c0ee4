//! `ipsx search`: what is for lease.

use ipsx_market::http::OfferView;
use ipsx_market::search::OfferQuery;
use ipsx_metering::{PricePerGib, PricePerSecond, Prices};
use serde_json::json;

use crate::amount;
use crate::broker::Broker;
use crate::cli::{SearchArgs, duration};
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::output::Output;

/// Runs it. Finding nothing is an answer, not a failure.
pub(crate) async fn run(
    args: SearchArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let query = query(&args);
    let offers = Broker::new(&settings.broker).offers(&query).await?;
    output.json(&json!({ "offers": offers }));
    if offers.is_empty() {
        output.line("no offer matches; widen the filters");
        return Ok(());
    }
    let heading = [
        "address",
        "cc",
        "city",
        "asn",
        "per second",
        "per GiB",
        "tier",
        "down/up Mbit/s",
        "free",
        "lease",
        "reached",
        "protocols",
    ];
    let rows: Vec<Vec<String>> = offers.iter().map(row).collect();
    output.table(&heading, &rows, &[4, 5, 7, 8]);
    Ok(())
}

fn query(args: &SearchArgs) -> OfferQuery {
    let any = OfferQuery::default();
    let price = &args.price;
    OfferQuery {
        filter: args.filter.filter(),
        max_prices: Prices {
            per_second: price
                .max_price_per_second
                .map_or(any.max_prices.per_second, PricePerSecond),
            per_gib: price
                .max_price_per_gib
                .map_or(any.max_prices.per_gib, PricePerGib),
        },
        seconds: args.duration,
        expected_bytes: price.expected_traffic,
        ..any
    }
}

fn row(offer: &OfferView) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let protocols: Vec<ipsx_market::offer::Protocol> = offer.protocols.into();
    let names: Vec<_> = protocols.iter().map(ToString::to_string).collect();
    let measured = offer.placement.measured;
    let (shortest, longest) = (u64::from(offer.min_seconds), u64::from(offer.max_seconds));
    vec![
        offer.placement.address.to_string(),
        or_dash(offer.placement.country.map(|country| country.to_string())),
        or_dash(offer.placement.city.as_ref().map(ToString::to_string)),
        or_dash(offer.placement.asn.map(|asn| format!("AS{asn}"))),
        amount::format(offer.prices.per_second.0),
        amount::format(offer.prices.per_gib.0),
        offer.tier.to_string(),
        format!("{}/{}", offer.capacity.mbit_down, offer.capacity.mbit_up),
        offer.free_leases.to_string(),
        format!(
            "{} to {}",
            duration::format(shortest),
            duration::format(longest)
        ),
        or_dash(measured.reachability.map(|way| way.to_string())),
        names.join(","),
    ]
}
