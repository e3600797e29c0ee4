//! A statement as a whole.

use std::collections::{BTreeMap, BTreeSet};

use ipsx_metering::{Amount, ChannelId, U256};

use super::document::{Account, Document};
use super::findings::Findings;
use super::lease::{self, Scope};
use super::money::wide;
use super::period;

/// The shape that this verifier knows.
const FORMAT: &str = "ipsx-statement-1";

/// Checks everything that a statement says.
pub(super) fn check(document: &Document) -> Findings {
    let mut found = Findings::default();
    let scope = Scope {
        domain: document.domain,
        network: document.network,
    };
    let known = document.format == FORMAT;
    found.check("statement", format!("its format is {FORMAT}"), known);
    for entry in &document.entries {
        lease::check(entry, scope, &mut found);
    }
    let once: BTreeSet<_> = document
        .entries
        .iter()
        .map(|entry| entry.account.deal_id)
        .collect();
    let distinct = once.len() == document.entries.len();
    found.check("statement", "no lease stands in it twice", distinct);
    let whole = "no payment counts for two leases";
    found.check("statement", whole, apart(document));
    if let Some(period) = &document.period {
        let bounds = period::bounds(period);
        let within = |account: &Account| {
            bounds.is_some_and(|(first, next)| (first..next).contains(&account.at.0))
        };
        let holds = bounds.is_some() && document.entries.iter().all(|entry| within(&entry.account));
        found.check("statement", format!("its leases are of {period}"), holds);
    } else {
        let single = document.entries.len() == 1;
        found.check("statement", "without a month it is of one lease", single);
    }
    found.check(
        "statement",
        "its totals are the sums of its leases",
        totals(document),
    );
    found.unproven(
        "side",
        "who wrote the statement; both sides state the same evidence",
    );
    found.unproven(
        "operator and session key",
        "that the network appointed the one and the payer the other is on the chain",
    );
    found.unproven(
        "completeness",
        "a statement may leave leases out; the other side's would show them",
    );
    found
}

/// The leases of one channel pay from disjoint parts of its vouchers.
fn apart(document: &Document) -> bool {
    let mut parts: BTreeMap<ChannelId, Vec<(U256, U256)>> = BTreeMap::new();
    for entry in &document.entries {
        let first = wide(entry.evidence.paid_before);
        let part = (first, first + wide(entry.account.promised));
        parts.entry(entry.account.channel).or_default().push(part);
    }
    parts.into_values().all(|mut parts| {
        parts.retain(|(first, last)| first < last);
        parts.sort();
        parts.windows(2).all(|pair| pair[0].1 <= pair[1].0)
    })
}

fn totals(document: &Document) -> bool {
    let (entries, totals) = (&document.entries, &document.totals);
    let count = |of: fn(&Account) -> u64, total: u64| {
        let sum: u128 = entries
            .iter()
            .map(|entry| u128::from(of(&entry.account)))
            .sum();
        sum == u128::from(total)
    };
    let money = |of: fn(&Account) -> Option<Amount>, total: Option<Amount>| {
        let parts: Option<Vec<_>> = entries.iter().map(|entry| of(&entry.account)).collect();
        let sum = parts.map(|parts| parts.into_iter().map(wide).fold(U256::ZERO, |a, b| a + b));
        sum == total.map(wide)
    };
    totals.leases == entries.len() as u64
        && count(|account| account.seconds, totals.seconds)
        && count(|account| account.bytes_up, totals.bytes_up)
        && count(|account| account.bytes_down, totals.bytes_down)
        && money(|account| Some(account.used), Some(totals.used))
        && money(|account| Some(account.promised), Some(totals.promised))
        && money(|account| account.claimed, totals.claimed)
        && money(|account| account.fee, totals.fee)
        && money(|account| account.earned, totals.earned)
}
