//! The explorer: the network on one page, rendered here. It loads nothing from anywhere and runs no script.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use ipsx_metering::{Amount, UnixSeconds};
use time::OffsetDateTime;

use super::App;
use super::problem::{Answer, ProblemResponse};
use crate::desk::Overview;

const STYLE: &str = include_str!("explorer.css");
/// Nothing may be loaded, framed or run, whatever a page should come to contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
/// Decimals of the token.
const UNIT: u128 = 10u128.pow(18);

/// `GET /explorer`
#[utoipa::path(
    get,
    path = "/explorer",
    operation_id = "getExplorer",
    summary = "The network on one page.",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")),
)]
pub(super) async fn page(State(app): State<Arc<App>>) -> Result<Response, ProblemResponse> {
    let overview = app.desk.overview().await?;
    let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    Ok((policy, Html(render(&overview))).into_response())
}

/// `GET /v1/overview`
#[utoipa::path(
    get,
    path = "/v1/overview",
    operation_id = "getOverview",
    summary = "The same as JSON.",
    responses((status = 200, description = "The network, at most two seconds old.", body = Overview)),
)]
pub(super) async fn overview(State(app): State<Arc<App>>) -> Answer<Overview> {
    Ok(Json(app.desk.overview().await?))
}

fn render(view: &Overview) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>ipsx network</title><style>{STYLE}</style></head>\
         <body>\n<header><h1>ipsx network</h1><p><code>{}</code></p></header>\n{}{}{}{}\
         <footer>The same as JSON: <a href=\"/v1/overview\">/v1/overview</a>. Amounts in IPSX, times in UTC. \
         Channels are named by their ids alone.</footer></body></html>\n",
        view.network,
        tiles(view),
        holdings(view),
        channels(view),
        claims(view),
    )
}

fn tiles(view: &Overview) -> String {
    let running: usize = view.deals.values().sum();
    let tiles = [
        ("height", view.height.to_string()),
        ("offers", view.offers.to_string()),
        ("for sale", view.for_sale.to_string()),
        ("deals going on", running.to_string()),
        ("promised", tokens(view.promised)),
        ("claimed", tokens(view.claimed)),
        ("fees", tokens(view.fees)),
        ("bond", tokens(view.bond)),
    ];
    let tiles: String = tiles
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!("<dl class=\"tiles\">{tiles}</dl>\n")
}

fn holdings(view: &Overview) -> String {
    let mut rows = vec![
        ("chain", view.domain.chain_id.to_string()),
        ("contract", code(view.domain.contract)),
        ("operator", code(view.operator)),
        ("treasury", code(view.treasury)),
        (
            "fee",
            format!("{}.{:02} %", view.fee_bps / 100, view.fee_bps % 100),
        ),
        ("bond under notice", tokens(view.bond_leaving)),
        ("block time", utc(view.block_time)),
        ("deposits watched", view.payers.to_string()),
    ];
    if let Some(totals) = &view.totals {
        let adds_up = if totals.conserved() {
            "adds up"
        } else {
            "does not add up"
        };
        rows.push((
            "contract holds",
            format!(
                "{} = deposits {} + held {} + credits {} + bonds {}: {adds_up}",
                tokens(totals.tokens),
                tokens(totals.balances),
                tokens(totals.held),
                tokens(totals.credits),
                tokens(totals.bonds)
            ),
        ));
    }
    let databases: Vec<_> = view
        .databases
        .iter()
        .map(|build| {
            format!(
                "{} {} of {}",
                build.database,
                code(&build.name),
                utc(build.built_at)
            )
        })
        .collect();
    let databases = match databases.is_empty() {
        true => "none: no address has a place".into(),
        false => databases.join(", "),
    };
    rows.push(("places by", databases));
    let statuses: Vec<_> = view
        .deals
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    rows.push((
        "deals",
        if statuses.is_empty() {
            "none".into()
        } else {
            statuses.join(", ")
        },
    ));
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{value}</td></tr>"))
        .collect();
    format!("<section><h2>Network</h2><table class=\"facts\">{rows}</table></section>\n")
}

fn channels(view: &Overview) -> String {
    let mut rows = String::new();
    for line in &view.channels {
        // Writing to a string cannot fail.
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            code(line.channel),
            tokens(line.capacity),
            tokens(line.claimed),
            tokens(line.held),
            utc(line.valid_until)
        );
    }
    table(
        "Channels and their reservations",
        &["channel", "reserved to", "claimed", "held", "valid until"],
        &rows,
    )
}

fn claims(view: &Overview) -> String {
    let mut rows = String::new();
    for line in &view.claims {
        let _ = writeln!(
            rows,
            "<tr><td>{}<br>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            code(line.channel),
            code(format!("{:#x}", line.transaction)),
            line.block,
            tokens(line.paid),
            tokens(line.fee)
        );
    }
    table(
        "Claims",
        &["channel and transaction", "block", "paid", "fee"],
        &rows,
    )
}

fn table(title: &str, heading: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return format!("<section><h2>{title}</h2><p class=\"none\">none</p></section>\n");
    }
    let heading: String = heading
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let class = if column == 0 { "" } else { " class=\"n\"" };
            format!("<th{class}>{name}</th>")
        })
        .collect();
    format!(
        "<section><h2>{title}</h2><table><thead><tr>{heading}</tr></thead>\n<tbody>{rows}</tbody></table></section>\n"
    )
}

fn code(value: impl std::fmt::Display) -> String {
    format!("<code>{value}</code>")
}

/// To the second; a time that no calendar has stays a number.
fn utc(time: UnixSeconds) -> String {
    let known = i64::try_from(time.0).ok();
    match known.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) {
        Some(at) => format!(
            "{} {:02}:{:02}:{:02}",
            at.date(),
            at.hour(),
            at.minute(),
            at.second()
        ),
        None => time.to_string(),
    }
}

/// Whole tokens, exact.
fn tokens(amount: Amount) -> String {
    let (whole, fraction) = (amount.0 / UNIT, amount.0 % UNIT);
    if fraction == 0 {
        return whole.to_string();
    }
    let decimals = format!("{fraction:018}");
    format!("{whole}.{}", decimals.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        assert_eq!(tokens(Amount(0)), "0");
        assert_eq!(tokens(Amount(UNIT)), "1");
        assert_eq!(tokens(Amount(1)), "0.000000000000000001");
        assert_eq!(tokens(Amount(12 * UNIT + UNIT / 4)), "12.25");
    }

    #[test]
    fn times_are_of_a_calendar() {
        assert_eq!(utc(UnixSeconds(1_795_216_174)), "2026-11-20 23:09:34");
        assert_eq!(utc(UnixSeconds(u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn an_empty_table_says_so() {
        assert!(table("Claims", &["a"], "").contains("none"));
        let one = table("Claims", &["a", "b"], "<tr><td>1</td><td>2</td></tr>");
        assert!(one.contains("<th>a</th><th class=\"n\">b</th>"));
    }
}
