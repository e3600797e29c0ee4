//! Parameters of paths and queries, with the bounds that they are read by.

use ipsx_market::book::Position;
use ipsx_market::check::{MAX_CIRCLES, MAX_LIST};
use ipsx_market::place::MAX_REPUTATION;
use ipsx_market::search::MAX_RESULTS;
use serde_json::{Value, json};

use super::idempotency_key;
use crate::http::extract::{MAX_LISTED, MAX_WAIT};

/// The parameters of an operation.
pub(super) fn of(path: &str, id: &str, keyed: bool) -> Vec<Value> {
    let mut all = Vec::new();
    if path.contains("{id}") {
        let requests = ["/v1/requests/", "/v1/bundles/"];
        let of = match requests.iter().any(|start| path.starts_with(start)) {
            true => "RequestId",
            false => "DealId",
        };
        all.push(json!({
            "name": "id",
            "in": "path",
            "required": true,
            "schema": reference(of),
        }));
    }
    match id {
        "searchOffers" => all.extend(offers()),
        "getEcho" => all.push(nonce()),
        "listDeals" => all.extend(page()),
        "getDeal" => all.extend([wait(), status()]),
        "receiveFrames" | "getRequest" => all.push(wait()),
        "followDeal" | "followDeals" => all.push(last_event()),
        _ => {}
    }
    if keyed {
        all.push(idempotency_key());
    }
    all
}

fn query(name: &str, about: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": about, "schema": schema })
}

/// Values with commas between them.
fn list(name: &str, about: &str, items: Value) -> Value {
    let schema = json!({ "type": "array", "items": items, "maxItems": MAX_LIST });
    let mut parameter = query(name, about, schema);
    parameter["style"] = json!("form");
    parameter["explode"] = json!(false);
    parameter
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn number(most: u64) -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": most })
}

fn offers() -> Vec<Value> {
    let (u16s, u32s) = (number(u16::MAX.into()), number(u32::MAX.into()));
    let ports = json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX });
    let circles = json!({
        "type": "array",
        "maxItems": MAX_CIRCLES,
        "items": { "type": "string", "examples": ["48.8566,2.3522,50"] },
    });
    vec![
        list("country", "One of these countries.", reference("Country")),
        list("region", "One of these regions.", reference("Region")),
        list("city", "One of these cities.", reference("City")),
        query(
            "near",
            "Latitude, longitude and kilometres; repeated for more circles.",
            circles,
        ),
        list("asn", "One of these autonomous systems.", u32s.clone()),
        list(
            "prefix",
            "An address within one of these.",
            reference("Prefix"),
        ),
        list("address_type", "One of these.", reference("AddressType")),
        query(
            "ip_version",
            "Version of the address.",
            reference("IpVersion"),
        ),
        list("protocol", "All of these.", reference("Protocol")),
        query("tier", "At least this tier.", reference("Tier")),
        list("port", "All of these TCP ports.", ports),
        list(
            "service",
            "All of these services.",
            reference("ServiceName"),
        ),
        query(
            "mbit_up",
            "At least so many Mbit/s from the requester.",
            u32s.clone(),
        ),
        query(
            "mbit_down",
            "At least so many Mbit/s to the requester.",
            u32s.clone(),
        ),
        query(
            "max_latency_ms",
            "Longest round trip in milliseconds.",
            u16s,
        ),
        query(
            "min_reputation",
            "Least reputation.",
            number(MAX_REPUTATION.into()),
        ),
        query(
            "reachability",
            "Reached in this way or a better one.",
            reference("Reachability"),
        ),
        list(
            "avoid_prefix",
            "No address within one of these.",
            reference("Prefix"),
        ),
        list(
            "avoid_asn",
            "None of these autonomous systems.",
            u32s.clone(),
        ),
        list(
            "avoid_provider",
            "None of these providers' wallets.",
            reference("Address"),
        ),
        query(
            "max_price_per_second",
            "Units.",
            reference("PricePerSecond"),
        ),
        query("max_price_per_gib", "Units.", reference("PricePerGib")),
        query("seconds", "Length of the lease.", u32s),
        query(
            "expected_bytes",
            "Bytes that it will carry about.",
            number(u64::MAX),
        ),
        query(
            "limit",
            &format!("Most offers of a page; more than {MAX_RESULTS} counts as that."),
            json!({ "type": "integer", "minimum": 0, "default": MAX_RESULTS }),
        ),
        query(
            "cursor",
            "From the Link header of the page before.",
            json!({ "type": "string", "pattern": format!("^[0-9a-f]{{{}}}$", 2 * Position::BYTES) }),
        ),
    ]
}

fn nonce() -> Value {
    let schema = json!({ "type": "string", "pattern": "^0x[0-9a-fA-F]{64}$" });
    let mut parameter = query("nonce", "Drawn by whoever asks.", schema);
    parameter["required"] = json!(true);
    parameter
}

fn page() -> [Value; 2] {
    let limit =
        json!({ "type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": MAX_LISTED });
    let cursor = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{53}[AQgw]$" });
    [
        query("limit", "Most deals of a page.", limit),
        query("cursor", "From the Link header of the page before.", cursor),
    ]
}

fn wait() -> Value {
    let most = MAX_WAIT.as_secs();
    query(
        "wait",
        &format!("Seconds to wait for news; more than {most} counts as that."),
        json!({ "type": "integer", "minimum": 0, "default": 0 }),
    )
}

fn status() -> Value {
    query(
        "status",
        "The status that is known: the answer waits for another one.",
        reference("DealStatus"),
    )
}

fn last_event() -> Value {
    json!({
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event that was seen: what came after it follows.",
        "schema": { "type": "integer", "minimum": 0, "maximum": i64::MAX },
    })
}
