//! `docs/attacks.md` names tests, and every one of them is there.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where tests are.
const FOLDERS: [&str; 8] = [
    "agent",
    "broker",
    "metering",
    "tests",
    "tunnel/core",
    "tunnel/os",
    "tunnel/relay",
    "tunnel/stun",
];

/// The names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["node_modules", "target", "corpus"].contains(&name) {
            functions(&path, found);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1);
            let names = names.filter_map(|rest| rest.split_once('('));
            found.extend(names.map(|(name, _)| name.trim().to_string()));
        }
    }
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/attacks.md")).unwrap();
    let mut known = BTreeSet::new();
    for folder in FOLDERS {
        functions(&root.join(folder), &mut known);
    }
    // Names of tests are sentences.
    let named = page.split('`').skip(1).step_by(2);
    let named: BTreeSet<_> = named
        .filter(|name| name.matches('_').count() >= 2 && !name.contains(['/', ':']))
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !known.contains(**name))
        .collect();
    assert!(missing.is_empty(), "there is no {missing:?}");
    for number in 1..=11 {
        assert!(page.contains(&format!("| I{number} |")), "I{number}");
    }
}
