//! docs/openapi.json is what the code says, names every path of docs/protocol.md, and its bounds are those of the checks.
//!
//! `IPSX_UPDATE_DOCS=1` in the environment writes the file instead of comparing it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::collections::BTreeSet;
use std::path::Path;

use ipsx_market::bundle::MAX_LEGS;
use ipsx_market::check::{MAX_CIRCLES, MAX_LEASES, MAX_LIST, MAX_RANGES, MAX_SERVICES};
use ipsx_market::geo::FURTHEST_KM;
use ipsx_market::offer::{LONGEST_LEASE, SHORTEST_LEASE};
use ipsx_market::place::MAX_REPUTATION;
use ipsx_market::{search, sign_in};
use serde_json::Value;

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

fn document() -> Value {
    serde_json::from_str(ipsx_broker::openapi()).unwrap()
}

#[test]
fn the_file_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("IPSX_UPDATE_DOCS").is_some() {
        std::fs::write(&path, ipsx_broker::openapi()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == ipsx_broker::openapi(),
        "docs/openapi.json is out of date; IPSX_UPDATE_DOCS=1 writes it anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_answers_with_it() {
    let broker = parties::TestBroker::start().await;
    let requester = parties::TestRequester::stranger(&broker);
    let got: Value = requester.get("/openapi.json").await.unwrap();
    assert_eq!(got, document());
}

/// Every path and method of the table in docs/protocol.md, whether it needs a session, and no others.
#[test]
fn the_paths_are_those_of_the_protocol() {
    let mut told = BTreeSet::new();
    for line in PROTOCOL.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", path, method, session, ..] = cells[..]
            && path.starts_with("`/")
            && ["GET", "POST", "DELETE"].contains(&method)
        {
            let path = path.trim_matches('`').to_string();
            told.insert((path, method.to_lowercase(), session == "yes"));
        }
    }
    let document = document();
    let mut described = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let session = operation["security"] == serde_json::json!([{ "session": [] }]);
            described.insert((path.clone(), method.clone(), session));
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_string()));
        }
    }
    assert_eq!(told, described);
}

/// Every operation tells its limits, every `POST` with a session takes a key, and each list names its next page.
#[test]
fn headers_keys_and_pages_are_described() {
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            let named = |name: &str| {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                parameters
                    .clone()
                    .any(|parameter| parameter["name"] == name)
            };
            let keyed = method == "post" && operation["security"] != serde_json::json!([]);
            assert_eq!(named("Idempotency-Key"), keyed, "{what}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let headers = &response["headers"];
                assert!(headers["RateLimit"].is_object(), "{what} {status}");
                let list = response["content"]["application/json"]["schema"]["type"] == "array";
                assert_eq!(headers["Link"].is_object(), list, "{what} {status}");
                assert!(!list || (named("limit") && named("cursor")), "{what}");
                if status.starts_with(['4', '5']) {
                    assert!(
                        headers["Retry-After"].is_object() == (status == "429"),
                        "{what}"
                    );
                    let content = &response["content"]["application/problem+json"];
                    assert!(content["schema"]["allOf"].is_array(), "{what} {status}");
                }
            }
        }
    }
    let offers = document["paths"]["/v1/offers"]["get"]["parameters"].as_array();
    let named: BTreeSet<_> = offers
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(named, search::NAMES.into_iter().collect());
}

/// Whatever is named is there.
#[test]
fn every_reference_leads_somewhere() {
    fn walk<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| walk(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    walk(&document, &mut found);
    assert!(found.len() > 50, "{found:?}");
    for reference in found {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference}");
    }
}

/// The numbers that stand beside the types are those that requests are checked by.
#[test]
fn bounds_are_those_of_the_checks() {
    let document = document();
    let of = |place: &str, bound: &str| {
        let (schema, field) = place.split_once('.').unwrap();
        let schema = &document["components"]["schemas"][schema]["properties"][field];
        schema[bound]
            .as_i64()
            .unwrap_or_else(|| panic!("{place} has no {bound}: {schema}"))
    };
    let lease = |place: &str| {
        assert_eq!(of(place, "minimum"), i64::from(SHORTEST_LEASE), "{place}");
        assert_eq!(of(place, "maximum"), i64::from(LONGEST_LEASE), "{place}");
    };
    for place in [
        "Request.seconds",
        "OfferView.min_seconds",
        "OfferView.max_seconds",
    ] {
        lease(place);
    }
    for list in [
        "countries",
        "regions",
        "cities",
        "asns",
        "prefixes",
        "ports",
    ] {
        assert_eq!(
            of(&format!("Filter.{list}"), "maxItems"),
            MAX_LIST as i64,
            "{list}"
        );
    }
    assert_eq!(of("Bundle.legs", "maxItems"), MAX_LEGS as i64 - 1);
    assert_eq!(of("Deal.leg", "maximum"), MAX_LEGS as i64 - 1);
    for list in [
        "ProposedBundle.deals",
        "SignBundle.signatures",
        "BoundBundle.deals",
    ] {
        assert_eq!(of(list, "maxItems"), MAX_LEGS as i64, "{list}");
    }
    assert_eq!(of("Filter.circles", "maxItems"), MAX_CIRCLES as i64);
    assert_eq!(of("Filter.services", "maxItems"), MAX_SERVICES as i64);
    assert_eq!(of("OfferView.services", "maxItems"), MAX_SERVICES as i64);
    assert_eq!(of("OfferView.ports", "maxItems"), MAX_RANGES as i64);
    assert_eq!(of("Capacity.leases", "maximum"), i64::from(MAX_LEASES));
    assert_eq!(of("Circle.km", "maximum"), i64::from(FURTHEST_KM));
    assert_eq!(
        of("Filter.min_reputation", "maximum"),
        i64::from(MAX_REPUTATION)
    );
    assert_eq!(
        of("Measured.reputation", "maximum"),
        i64::from(MAX_REPUTATION)
    );
    assert_eq!(
        of("SignIn.message", "maxLength"),
        sign_in::MAX_MESSAGE as i64
    );
    // Every number has bounds of its own.
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            if schema["type"] == "integer" {
                assert!(schema["minimum"].is_number(), "{name}.{field}: {schema}");
                // What is counted here has no largest number.
                let counted = schema["format"].is_null();
                assert!(
                    counted || schema["maximum"].is_number(),
                    "{name}.{field}: {schema}"
                );
            }
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(
                !text.contains("crate::") && !text.contains("[`"),
                "{name}.{field}: {text}"
            );
        }
    }
}
