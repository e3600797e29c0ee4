//! A statement as a table for spreadsheets (RFC 4180): one line for each lease, amounts in whole tokens.

use ipsx_metering::Amount;

use super::calendar;
use super::document::{Document, Entry};
use crate::amount;

const HEADING: [&str; 21] = [
    "time (UTC)",
    "deal",
    "channel",
    "requester",
    "payer",
    "provider",
    "payout",
    "address",
    "country",
    "price per second",
    "price per GiB",
    "seconds",
    "bytes up",
    "bytes down",
    "vouchers",
    "used",
    "promised",
    "claimed",
    "fee",
    "earned",
    "transactions",
];

/// The table, with a heading.
pub(super) fn render(document: &Document) -> String {
    let mut text = line(&HEADING.map(String::from));
    for entry in &document.entries {
        text.push_str(&line(&row(entry)));
    }
    text
}

fn row(entry: &Entry) -> [String; 21] {
    let (deal, account) = (&entry.evidence.deal, &entry.account);
    let money = |amount: Option<Amount>| amount.map_or_else(String::new, amount::format);
    let claims = entry.evidence.claims.iter().flatten();
    let transactions: Vec<_> = claims
        .map(|claim| format!("{:#x}", claim.transaction))
        .collect();
    let country = entry.notes.country;
    [
        calendar::minute(account.at),
        account.deal_id.to_string(),
        account.channel.to_string(),
        deal.requester.to_string(),
        deal.payer.to_string(),
        deal.provider.to_string(),
        deal.payout.to_string(),
        deal.exit_address.to_string(),
        country.map_or_else(String::new, |country| country.to_string()),
        amount::format(deal.prices.per_second.0),
        amount::format(deal.prices.per_gib.0),
        account.seconds.to_string(),
        account.bytes_up.to_string(),
        account.bytes_down.to_string(),
        entry
            .notes
            .vouchers
            .map_or_else(String::new, |n| n.to_string()),
        amount::format(account.used),
        amount::format(account.promised),
        money(account.claimed),
        money(account.fee),
        money(account.earned),
        transactions.join(" "),
    ]
}

/// No field has a comma, a quote or a line break in it: all are numbers, hashes, addresses and dates.
fn line(cells: &[String; 21]) -> String {
    format!("{}\r\n", cells.join(","))
}
