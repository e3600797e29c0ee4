#![allow(clippy::unwrap_used)]

use super::*;
use crate::statement::fixture::{two_leases, voucherless};

#[test]
fn sums_follow_from_the_evidence() {
    let document = two_leases();
    let [first, second] = document.entries.as_slice() else {
        panic!("two leases")
    };
    // 90 s at 7 and 3 GiB and a byte at 1,000, rounded up.
    assert_eq!(first.account.used.0, 90 * 7 + 3_001);
    assert_eq!(first.account.promised.0, 4_000);
    assert_eq!(first.account.prepaid.0, 4_000 - 3_631);
    // The channel has moved 5,000: all of the first lease's 4,000 and a part of the second's.
    assert_eq!(first.account.claimed.unwrap().0, 4_000);
    assert_eq!(second.account.claimed.unwrap().0, 1_000);
    assert_eq!(first.account.fee.unwrap().0, 100);
    assert_eq!(document.totals.fee.unwrap().0, 5_000 * 250 / 10_000);
    assert_eq!(document.totals.leases, 2);
}

#[test]
fn a_lease_that_was_never_paid_costs_nothing() {
    let entry = voucherless();
    assert_eq!(entry.account.promised.0, 0);
    assert_eq!(entry.account.claimed, Some(ipsx_metering::Amount(0)));
    let document = two_leases();
    let mut unasked = document.entries[0].evidence.clone();
    unasked.claims = None;
    let entry = Entry::new(unasked, document.entries[0].notes.clone());
    assert_eq!(entry.account.fee, None, "unknown, not zero");
}

#[test]
fn the_table_has_a_line_for_each_lease_and_as_many_cells_as_its_heading() {
    let text = csv::render(&two_leases());
    let lines: Vec<_> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(line.split(',').count(), 21, "{line}");
    }
    assert!(lines[1].contains("192.0.2.7,FR,"), "{}", lines[1]);
}

#[test]
fn the_page_says_everything_and_loads_nothing() {
    let document = two_leases();
    let page = page::render(&document);
    for entry in &document.entries {
        assert!(page.contains(&entry.account.deal_id.to_string()));
        assert!(page.contains(&amount::fixed(entry.account.promised)));
    }
    for outside in [
        "http:", "https:", "src=", "url(", "<script", "<link", "@import",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
}
