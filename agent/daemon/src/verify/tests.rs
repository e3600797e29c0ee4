#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{check, period};
use crate::statement::fixture::{two_leases, voucherless};
use crate::statement::{Document, Month, Side};

fn valid() -> Value {
    serde_json::to_value(two_leases()).unwrap()
}

fn failed(document: &Value) -> Vec<String> {
    match check(&document.to_string()) {
        Ok(found) => found
            .checked
            .into_iter()
            .filter(|check| !check.holds)
            .map(|check| check.what)
            .collect(),
        Err(reason) => vec![reason],
    }
}

/// The path of each value that has no parts, with list indexes as numbers.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, &format!("{path}/{index}"), found);
            }
        }
        _ => found.push(path.into()),
    }
}

/// Another value of the same kind.
fn mutated(value: &Value, random: &mut StdRng) -> Value {
    match value {
        Value::Null => Value::from(random.gen_range(1..1_000)),
        Value::Bool(value) => Value::from(!value),
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            let step = 1 << random.gen_range(0..12);
            Value::from(
                number
                    .checked_sub(step)
                    .filter(|_| random.r#gen())
                    .unwrap_or(number + step),
            )
        }
        Value::String(text) => Value::from(other_text(text, random)),
        Value::Array(_) | Value::Object(_) => unreachable!("not a leaf"),
    }
}

/// One digit changed to another one, in hex above 0x or in a number; in a name a letter.
fn other_text(text: &str, random: &mut StdRng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let hex = text.starts_with("0x");
    let place = random.gen_range(if hex { 2 } else { 0 }..bytes.len());
    let alphabet: &[u8] = if hex {
        b"0123456789abcdef"
    } else {
        b"0123456789"
    };
    loop {
        let new = alphabet[random.gen_range(0..alphabet.len())];
        if !bytes[place].eq_ignore_ascii_case(&new) {
            bytes[place] = new;
            return String::from_utf8(bytes).unwrap();
        }
    }
}

fn is_unproven(path: &str, unproven: &BTreeMap<String, &'static str>) -> bool {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    unproven.keys().any(|pattern| {
        let wanted: Vec<_> = pattern.split('.').collect();
        wanted.len() <= parts.len()
            && wanted
                .iter()
                .zip(&parts)
                .all(|(wanted, part)| *wanted == "*" || wanted == part)
    })
}

#[test]
fn a_valid_statement_holds_in_every_point() {
    let found = check(&valid().to_string()).unwrap();
    assert_eq!(failed(&valid()), Vec::<String>::new());
    let tied = found
        .checked
        .iter()
        .filter(|check| check.what == "the voucher answers a receipt of this lease");
    assert_eq!(tied.count(), 2);
    assert!(found.checked.len() > 30, "{}", found.checked.len());
    let mut single = two_leases();
    single.entries.truncate(1);
    let single = Document::new(
        Side::Provider,
        None,
        single.domain,
        single.network,
        single.entries,
    );
    assert!(failed(&serde_json::to_value(single).unwrap()).is_empty());
}

/// The second lease's voucher answers an earlier receipt than the last.
#[test]
fn what_the_voucher_answers_is_in_the_file_and_checked() {
    let document = valid();
    let untied = "that what was paid was used";
    let of_second = |document: &Value| document["entries"][1]["evidence"].clone();
    let evidence = of_second(&document);
    assert_ne!(evidence["answered"], evidence["receipt"]);
    let found = check(&document.to_string()).unwrap();
    assert!(!found.unproven.contains_key(untied), "{found:?}");
    // The last receipt in its place, or one of another lease.
    for other in [
        evidence["receipt"].clone(),
        document["entries"][0]["evidence"]["answered"].clone(),
    ] {
        let mut changed = document.clone();
        changed["entries"][1]["evidence"]["answered"] = other;
        let what = failed(&changed);
        let answers = "the voucher answers a receipt of this lease".to_owned();
        assert!(what.contains(&answers), "{what:?}");
    }
    // The last receipt cannot be older than the one that was answered.
    let mut changed = document.clone();
    let places = &mut changed["entries"][1]["evidence"];
    places["receipt"] = evidence["answered"].clone();
    places["answered"] = evidence["receipt"].clone();
    assert!(failed(&changed).contains(&"that receipt is none after the last".into()));
    // Without it nothing ties them, and that is said.
    let mut changed = document.clone();
    changed["entries"][1]["evidence"]["answered"] = Value::Null;
    assert!(failed(&changed).is_empty());
    let found = check(&changed.to_string()).unwrap();
    assert!(found.unproven.contains_key(untied), "{found:?}");
}

/// Changes each value of a valid document in several ways. Returns how many changes were caught, and how many made to
/// fields that are listed as unproven.
pub(crate) fn every_change_is_caught(document: &Value) -> (u32, u32) {
    let unproven = check(&document.to_string()).unwrap().unproven;
    let mut paths = Vec::new();
    leaves(document, "", &mut paths);
    let mut random = StdRng::seed_from_u64(7);
    let (mut caught, mut exempt) = (0, 0);
    for path in &paths {
        for _ in 0..8 {
            let mut changed = document.clone();
            let leaf = changed.pointer_mut(path).unwrap();
            *leaf = mutated(leaf, &mut random);
            assert_ne!(&changed, document);
            if is_unproven(path, &unproven) {
                exempt += 1;
            } else {
                let what = failed(&changed);
                assert!(
                    !what.is_empty(),
                    "{path} changed to {:?}",
                    changed.pointer(path)
                );
                caught += 1;
            }
        }
    }
    (caught, exempt)
}

#[test]
fn every_changed_field_is_caught_or_listed_as_unproven() {
    let document = valid();
    let mut paths = Vec::new();
    leaves(&document, "", &mut paths);
    assert!(paths.len() > 130, "{}", paths.len());
    let (caught, exempt) = every_change_is_caught(&document);
    // Only notes, transactions' names and whose statement it is.
    assert!(caught > 5 * exempt, "{caught} caught, {exempt} unproven");
}

#[test]
fn every_field_left_out_or_added_is_caught() {
    let document = valid();
    let mut paths = Vec::new();
    leaves(&document, "", &mut paths);
    for path in paths {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let mut changed = document.clone();
        let Some(fields) = changed.pointer_mut(parent).unwrap().as_object_mut() else {
            continue;
        };
        fields.remove(name);
        let lost = failed(&changed);
        assert!(
            !lost.is_empty() || path.contains("/notes/"),
            "{path} left out"
        );
    }
    for parent in [
        "",
        "/totals",
        "/entries/0",
        "/entries/0/evidence",
        "/entries/0/account",
    ] {
        let mut changed = document.clone();
        let fields = changed
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap();
        fields.insert("surprise".into(), Value::from(1));
        assert!(failed(&changed)[0].contains("surprise"), "{parent}");
    }
}

#[test]
fn leases_that_are_doubled_swapped_or_left_out_are_caught() {
    let document = valid();
    let entries = document["entries"].as_array().unwrap();
    let with = |entries: Vec<Value>| {
        let mut changed = document.clone();
        changed["entries"] = Value::from(entries);
        changed
    };
    let doubled = failed(&with(vec![entries[0].clone(), entries[0].clone()]));
    assert!(
        doubled.contains(&"no lease stands in it twice".into()),
        "{doubled:?}"
    );
    assert!(
        doubled.contains(&"no payment counts for two leases".into()),
        "{doubled:?}"
    );
    assert!(!failed(&with(vec![entries[0].clone()])).is_empty());
    // The evidence of one lease under another's account.
    let mut crossed = document.clone();
    crossed["entries"][0]["evidence"] = entries[1]["evidence"].clone();
    assert!(!failed(&crossed).is_empty());
    // A receipt of another lease on the same channel, although its signature is good.
    let mut borrowed = document.clone();
    borrowed["entries"][0]["evidence"]["receipt"] = entries[1]["evidence"]["receipt"].clone();
    assert!(failed(&borrowed).contains(&"the agent key signed the receipt".into()));
}

#[test]
fn a_lease_without_payment_holds() {
    let base = two_leases();
    let document = Document::new(
        Side::Requester,
        None,
        base.domain,
        base.network,
        vec![voucherless()],
    );
    assert!(failed(&serde_json::to_value(document).unwrap()).is_empty());
}

#[test]
fn what_is_no_statement_is_refused() {
    for text in ["", "{}", "[]", "null", "{\"format\":\"ipsx-statement-1\"}"] {
        assert!(check(text).is_err(), "{text}");
    }
}

/// Two ways of counting days agree on every month until 2200.
#[test]
fn months_begin_and_end_where_the_writer_says() {
    for year in 1970..2200 {
        for month in 1..=12 {
            let name = Month { year, month }.to_string();
            let (first, next) = period::bounds(&name).unwrap();
            let of = |second| Month::of(ipsx_metering::UnixSeconds(second));
            assert_eq!(of(first), Month { year, month });
            assert_eq!(of(next - 1), Month { year, month });
            assert_ne!(of(next), Month { year, month });
        }
    }
    for text in ["2026-00", "2026-13", "1969-01", "x", "2026-1"] {
        assert!(period::bounds(text).is_none());
    }
}
