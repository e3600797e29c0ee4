//! `docs/protocol.md` shows the golden files, all of them, and the tables say what the code does.
//!
//! `IPSX_UPDATE_DOCS=1` in the environment makes the tests write the examples and the status table instead of comparing
//! them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test reads its switch")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipsx_market::codec::MAX_FRAME;
use ipsx_market::http::ProblemKind;
use ipsx_market::messages::{ALPN, PROTOCOL_VERSION, SESSION_LABEL};
use ipsx_market::payment::MAX_PAYMENT_MESSAGE;
use ipsx_market::sealed::MAX_SEALED;
use ipsx_market::status::{ProviderStatus, RequesterStatus, deal_status};
use serde_json::Value;

const DOCUMENT: &str = "docs/protocol.md";
const GOLDEN: &str = "<!-- golden: ";
const STATUS_TABLE: &str = "<!-- status table -->";

/// The document is one file, which some tests may write while others read it.
static IN_USE: Mutex<()> = Mutex::new(());

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

fn read(path: &str) -> String {
    let file = root().join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document() -> String {
    let _in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    read(DOCUMENT)
}

/// Compares the document with what it should be, or writes it.
fn check(rewrite: impl Fn(&str) -> String) {
    let _in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = read(DOCUMENT);
    let wanted = rewrite(&kept);
    if std::env::var_os("IPSX_UPDATE_DOCS").is_some() {
        std::fs::write(root().join(DOCUMENT), wanted).unwrap();
        return;
    }
    for (number, (kept, wanted)) in kept.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(
            kept,
            wanted,
            "{DOCUMENT}:{}: out of date; IPSX_UPDATE_DOCS=1 writes it anew",
            number + 1
        );
    }
    assert_eq!(kept.len(), wanted.len(), "{DOCUMENT} is out of date");
}

/// The golden file that a line announces.
fn announced(line: &str) -> Option<&str> {
    line.strip_prefix(GOLDEN)?.strip_suffix(" -->")
}

fn with_examples(document: &str) -> String {
    let mut fresh = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        writeln!(fresh, "{line}").unwrap();
        let Some(path) = announced(line) else {
            continue;
        };
        let fence = lines.next().unwrap_or_default();
        assert!(fence.starts_with("```"), "no block follows {line}");
        let closed = lines.by_ref().any(|line| line == "```");
        assert!(closed, "the block after {line} has no end");
        writeln!(fresh, "{fence}\n{}\n```", read(path).trim_end()).unwrap();
    }
    fresh
}

#[test]
fn every_example_is_its_golden_file() {
    check(with_examples);
}

#[test]
fn every_golden_file_is_shown_once() {
    let document = document();
    let mut shown = BTreeMap::new();
    for path in document.lines().filter_map(announced) {
        *shown.entry(path.to_string()).or_insert(0) += 1;
    }
    let golden = golden_files().into_iter().map(|path| (path, 1)).collect();
    assert_eq!(
        shown, golden,
        "left: shown in {DOCUMENT}, right: what there is"
    );
}

fn golden_files() -> Vec<String> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root().join("tests/golden")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let path = path.strip_prefix(root()).unwrap();
            files.push(path.to_str().unwrap().to_string());
        }
    }
    files
}

/// The rows of the table under `### Name` name the fields of the type in order, with their types.
#[test]
fn tables_of_signed_types_name_every_field() {
    let document = document();
    let typed = golden_files().into_iter().filter(|path| {
        path.starts_with("tests/golden/market/") || path.starts_with("tests/golden/metering/")
    });
    for path in typed {
        let vector: Value = serde_json::from_str(&read(&path)).unwrap();
        for (name, fields) in vector["types"].as_object().unwrap() {
            let fields: Vec<_> = fields
                .as_array()
                .unwrap()
                .iter()
                .map(|field| (text(&field["name"]), text(&field["type"])))
                .collect();
            assert_eq!(
                rows_under(&document, name),
                fields,
                "{DOCUMENT}: left is the table of {name}, right is {path}"
            );
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().into()
}

fn rows_under(document: &str, name: &str) -> Vec<(String, String)> {
    let heading = format!("### {name}");
    let lines = document.lines().skip_while(|line| **line != heading);
    let table = lines.skip_while(|line| !line.starts_with('|'));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().trim_matches('`'));
        let (name, kind) = (cells.next().unwrap(), cells.next().unwrap());
        (name.to_string(), kind.to_string())
    })
    .collect()
}

fn with_status_table(document: &str) -> String {
    let (before, after) = document.split_once(STATUS_TABLE).unwrap();
    let (_, rest) = after.split_once("\n\n").unwrap();
    let name = |value| text(&value);
    let mut table = String::from("| provider ↓ requester → |");
    for requester in RequesterStatus::ALL {
        write!(table, " {} |", name(serde_json::json!(requester))).unwrap();
    }
    table += "\n|---|---|---|---|---|---|---|---|\n";
    for provider in ProviderStatus::ALL {
        write!(table, "| **{}** |", name(serde_json::json!(provider))).unwrap();
        for requester in RequesterStatus::ALL {
            write!(table, " {} |", deal_status(provider, requester)).unwrap();
        }
        table.push('\n');
    }
    format!("{before}{STATUS_TABLE}\n{table}\n{rest}")
}

#[test]
fn the_status_table_is_that_of_the_code() {
    check(with_status_table);
}

#[test]
fn numbers_and_names_are_those_of_the_code() {
    // Words may be broken over lines anywhere.
    let document = document();
    let document: Vec<_> = document.split_whitespace().collect();
    let document = document.join(" ");
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    let mut wanted = vec![
        format!("The version is `{PROTOCOL_VERSION}`"),
        format!("ALPN `{}`", text(ALPN)),
        format!("label `{}`", text(SESSION_LABEL)),
        format!("at most {MAX_FRAME} bytes"),
        format!("at most {MAX_PAYMENT_MESSAGE} bytes"),
        format!("at most {MAX_SEALED} bytes"),
    ];
    let kinds = [
        ProblemKind::InvalidRequest,
        ProblemKind::Unauthorized,
        ProblemKind::Forbidden,
        ProblemKind::NotFound,
        ProblemKind::NoMatch,
        ProblemKind::PriceTooLow,
        ProblemKind::SoldOut,
        ProblemKind::InsufficientDeposit,
        ProblemKind::Conflict,
        ProblemKind::KeyReused,
        ProblemKind::TooManyRequests,
        ProblemKind::Unavailable,
        ProblemKind::Internal,
    ];
    for kind in kinds {
        let name = serde_json::to_value(kind).unwrap();
        let name = name
            .as_str()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap()
            .to_string();
        wanted.push(format!("| `{name}` |"));
    }
    for words in wanted {
        assert!(
            document.contains(&words),
            "{DOCUMENT} does not say {words:?}"
        );
    }
}
