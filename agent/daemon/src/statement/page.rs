//! A statement as a page of HTML that prints well: nothing is loaded from anywhere, no script runs.

use std::fmt::Write;

use ipsx_metering::Amount;

use super::calendar;
use super::document::{Document, Entry, Side};
use crate::amount;
use crate::cli::duration;
use crate::measure::bytes;

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn render(document: &Document) -> String {
    let title = match &document.period {
        Some(month) => format!("Statement {month}"),
        None => "Statement of one lease".into(),
    };
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<header><h1>{title}</h1>{}</header>\n{}",
        parties(document),
        summary(document)
    );
    if document.entries.len() > 1 {
        page.push_str(&overview(document));
    }
    for entry in &document.entries {
        page.push_str(&lease(entry));
    }
    page.push_str(
        "<footer>Each amount follows from signed records. `ipsx statement --json` writes them down, \
         `ipsx verify FILE` computes all of it again, offline.</footer></body></html>\n",
    );
    page
}

fn parties(document: &Document) -> String {
    let side = match document.side {
        Side::Requester => "Leased and paid",
        Side::Provider => "Lent and earned",
    };
    format!(
        "<p>{side} on network <code>{}</code>, chain {}, contract <code>{}</code>. Times are UTC, amounts in {}.</p>",
        document.network,
        document.domain.chain_id,
        document.domain.contract,
        amount::SYMBOL
    )
}

fn summary(document: &Document) -> String {
    let totals = &document.totals;
    let data = bytes(totals.bytes_up.saturating_add(totals.bytes_down));
    let mut boxes = vec![
        ("leases", totals.leases.to_string()),
        ("time", duration::format(totals.seconds)),
        ("data", data),
        ("used", amount::format(totals.used)),
        ("promised", amount::format(totals.promised)),
    ];
    let known = [
        ("claimed", totals.claimed),
        ("fee", totals.fee),
        ("to providers", totals.earned),
    ];
    for (name, sum) in known {
        boxes.extend(sum.map(|sum| (name, amount::format(sum))));
    }
    let cells: String = boxes
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!("<dl class=\"sums\">{cells}</dl>\n")
}

fn overview(document: &Document) -> String {
    let mut rows = String::new();
    for entry in &document.entries {
        let account = &entry.account;
        let data = bytes(account.bytes_up.saturating_add(account.bytes_down));
        let _ = writeln!(
            rows,
            "<tr><td class=\"t\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{data}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            calendar::minute(account.at),
            entry.evidence.deal.exit_address,
            duration::format(account.seconds),
            amount::fixed(account.used),
            amount::fixed(account.promised),
            known(account.claimed),
        );
    }
    format!(
        "<div class=\"wide\"><table class=\"all\"><thead><tr><th>when</th><th>address</th><th class=\"n\">time</th><th class=\"n\">data</th>\
         <th class=\"n\">used</th><th class=\"n\">promised</th><th class=\"n\">claimed</th></tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
    )
}

fn known(amount: Option<Amount>) -> String {
    amount.map_or_else(|| "not asked".into(), amount::fixed)
}

fn lease(entry: &Entry) -> String {
    let (deal, account, notes) = (&entry.evidence.deal, &entry.account, &entry.notes);
    let place = notes.country.map_or_else(String::new, |c| format!(", {c}"));
    let vouchers = notes.vouchers.map_or_else(String::new, |n| match n {
        1 => " in 1 voucher".into(),
        n => format!(" in {n} vouchers"),
    });
    let ended = notes.cause.map_or("", ipsx_agent_core::requester::in_words);
    let code = |text: String| format!("<code>{text}</code>");
    let facts = [
        ("lease", code(account.deal_id.to_string())),
        ("address", format!("{}{place}", deal.exit_address)),
        ("requester", code(deal.requester.to_string())),
        ("payer", code(deal.payer.to_string())),
        ("provider", code(deal.provider.to_string())),
        ("paid to", code(deal.payout.to_string())),
        ("channel", code(account.channel.to_string())),
        (
            "price",
            format!(
                "{} a second, {} a GiB; at most {}",
                amount::format(deal.prices.per_second.0),
                amount::format(deal.prices.per_gib.0),
                amount::format(deal.budget)
            ),
        ),
        (
            "used",
            format!(
                "{}, {} up, {} down",
                duration::format(account.seconds),
                bytes(account.bytes_up),
                bytes(account.bytes_down)
            ),
        ),
        ("ended", ended.to_string()),
        ("connection record", connections(entry)),
    ];
    let facts: String = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{value}</td></tr>"))
        .collect();
    format!(
        "<section><h2>{} &middot; {}</h2><table class=\"facts\">{facts}</table>\n\
         <table class=\"money\"><tr><th>used, by the provider's last receipt</th><td class=\"n\">{}</td></tr>\
         <tr><th>prepaid and not used</th><td class=\"n\">{}</td></tr>\
         <tr class=\"sum\"><th>promised{vouchers}</th><td class=\"n\">{}</td></tr>{}</table>{}</section>\n",
        calendar::minute(account.at),
        deal.exit_address,
        amount::fixed(account.used),
        amount::fixed(account.prepaid),
        amount::fixed(account.promised),
        chain_rows(entry),
        transactions(entry),
    )
}

/// The last root that the provider signed, and how far this side looked under it.
fn connections(entry: &Entry) -> String {
    let root = entry
        .evidence
        .receipt
        .as_ref()
        .map(|receipt| receipt.message.connections_root);
    match root.filter(|root| !root.is_zero()) {
        Some(root) => {
            let checked = entry.notes.connections_checked.as_ref();
            let words = super::connections::in_words(checked);
            format!("<code>{root:#x}</code>, kept by the provider; {words}")
        }
        None => String::new(),
    }
}

fn chain_rows(entry: &Entry) -> String {
    let account = &entry.account;
    let rows = [
        ("claimed on the chain", account.claimed),
        ("of it to the provider", account.earned),
        ("of it the network's fee", account.fee),
    ];
    rows.iter()
        .filter_map(|(name, value)| Some((name, (*value)?)))
        .map(|(name, value)| {
            let value = amount::fixed(value);
            format!("<tr><th>{name}</th><td class=\"n\">{value}</td></tr>")
        })
        .collect()
}

fn transactions(entry: &Entry) -> String {
    let claims = entry.evidence.claims.as_deref().unwrap_or_default();
    if claims.is_empty() {
        return String::new();
    }
    let rows: String = claims
        .iter()
        .map(|claim| {
            format!(
                "<tr><td><code>{:#x}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                claim.transaction,
                claim.block,
                amount::fixed(claim.paid)
            )
        })
        .collect();
    format!(
        "<table class=\"all\"><thead><tr><th>claims on this channel</th><th class=\"n\">block</th>\
         <th class=\"n\">paid</th></tr></thead><tbody>{rows}</tbody></table>"
    )
}
