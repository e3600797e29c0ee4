//! The requesters' interface as an OpenAPI 3.1 document.
//!
//! Paths, bodies and answers come from the handlers and the types themselves. What holds for many of them is added here:
//! parameters, headers, and the problems that each may answer with.

mod parameters;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::http::header;
use axum::response::IntoResponse;
use ipsx_market::http::{
    DealEvent, Problem, ProblemKind, RequestEvent, StreamEnd, StreamEndReason,
};
use ipsx_market::offer::Protocol;
use ipsx_market::status::Side;
use serde_json::{Map, Value, json};
use utoipa::openapi::{ComponentsBuilder, Info, License, OpenApi, OpenApiBuilder};

use super::app::described;
use super::idempotency::LONGEST;

const ABOUT: &str = "\
An open market for IP addresses: offers are searched, an address is asked for, the deal that comes of it is signed and
followed. Amounts are decimal strings in the token's smallest unit, times are seconds since 1970.

A session is opened by signing in with a wallet (EIP-4361), and its token sent as a bearer token. What is signed, and
how the parts play together, is in docs/protocol.md. Errors are problem details (RFC 9457); fields of a body that are
not known are skipped.";

/// What a request may be refused for beyond what its shape says.
const REFUSALS: [(&str, &[ProblemKind]); 13] = {
    use ProblemKind::*;
    [
        (
            "postRequest",
            &[InsufficientDeposit, NoMatch, PriceTooLow, SoldOut, Conflict],
        ),
        ("postBundle", &[InsufficientDeposit, NoMatch, Conflict]),
        ("signBundle", &[InsufficientDeposit, Conflict]),
        ("cancelRequest", &[Conflict]),
        ("postWithdrawal", &[InsufficientDeposit, Conflict]),
        ("postAppeal", &[NotFound, Conflict]),
        ("signDeal", &[InsufficientDeposit, Conflict]),
        ("reportConnected", &[Conflict]),
        ("endDeal", &[Conflict]),
        ("getOutcome", &[Conflict]),
        ("receiveFrames", &[Conflict]),
        ("sendFrames", &[Conflict]),
        ("signIn", &[Unauthorized]),
    ]
};

/// `GET /openapi.json`
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getDocument",
    summary = "This document.",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value)),
)]
pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text())
}

/// The document, in JSON.
pub(crate) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{:#}\n", complete(described())))
}

/// What stands before the paths.
pub(super) fn head() -> OpenApi {
    let mut info = Info::new("ipsx, the requesters' interface", env!("CARGO_PKG_VERSION"));
    info.description = Some(ABOUT.into());
    info.license = Some(License::new("MIT OR Apache-2.0"));
    let components = ComponentsBuilder::new()
        .schema_from::<Problem>()
        .schema_from::<ProblemKind>()
        .schema_from::<Protocol>()
        .schema_from::<DealEvent>()
        .schema_from::<RequestEvent>()
        .schema_from::<Side>()
        .schema_from::<StreamEnd>()
        .schema_from::<StreamEndReason>();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .build()
}

fn complete(api: OpenApi) -> Value {
    // It is made of plain structs with text for keys, so writing it can't fail.
    let mut document = serde_json::to_value(api).unwrap_or_default();
    document["openapi"] = json!("3.1.0");
    document["servers"] = json!([{ "url": "/" }]);
    document["components"]["securitySchemes"] = json!({
        "session": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token that POST /v1/session answers.",
        }
    });
    document["components"]["headers"] = headers();
    document["components"]["schemas"]["Event"] = event();
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, methods) in paths {
            for (method, operation) in methods.as_object_mut().into_iter().flatten() {
                complete_operation(path, method, operation);
            }
        }
    }
    tidy(&mut document);
    document
}

fn complete_operation(path: &str, method: &str, operation: &mut Value) {
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    let session = operation.get("security").is_some();
    if !session {
        operation["security"] = json!([]);
    }
    let keyed = session && method == "post";
    if id == "callChain" {
        // An empty call is answered by an error of JSON-RPC's own.
        operation["requestBody"]["required"] = json!(false);
    }
    let parameters = parameters::of(path, &id, keyed);
    let problems = problems(path, &id, operation, !parameters.is_empty(), keyed);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (_, response) in responses.iter_mut() {
        response["headers"] = limits();
        if let Some(stream) = response.pointer_mut("/content/text~1event-stream") {
            *stream = json!({ "schema": { "$ref": "#/components/schemas/Event" } });
        }
        if keyed {
            response["headers"]["Idempotency-Replayed"] = shared("Idempotency-Replayed");
        }
        if ["listDeals", "searchOffers"].contains(&id.as_str()) {
            response["headers"]["Link"] = shared("Link");
        }
    }
    responses.extend(problems);
}

/// One event of a stream, as its fields are read.
fn event() -> Value {
    json!({
        "type": "object",
        "description": "One event: `open` first, `deal` or `request` for each change, `end` last.",
        "required": ["event", "data"],
        "properties": {
            "event": { "type": "string", "enum": ["open", "deal", "request", "end"] },
            "id": { "type": "string", "pattern": "^[0-9]+$" },
            "retry": { "type": "integer", "minimum": 0, "description": "Milliseconds." },
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {
                    "anyOf": [
                        {
                            "type": "object",
                            "required": ["after"],
                            "properties": { "after": { "type": "integer", "minimum": 0 } },
                        },
                        { "$ref": "#/components/schemas/DealEvent" },
                        { "$ref": "#/components/schemas/RequestEvent" },
                        { "$ref": "#/components/schemas/StreamEnd" },
                    ]
                },
            },
        },
    })
}

/// The headers of answers.
fn headers() -> Value {
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    json!({
        "RateLimit-Policy": text(
            "`\"address\"` and `\"wallet\"`: `q` requests at once, all of them again after `w` seconds \
             (draft-ietf-httpapi-ratelimit-headers). Absent when nothing is limited."
        ),
        "RateLimit": text("Of the same: `r` requests left now, all of them again in `t` seconds."),
        "Link": text("`<PATH>; rel=\"next\"` (RFC 8288), if there is another page."),
        "WWW-Authenticate": text("`Bearer`."),
        "Retry-After": {
            "description": "Seconds until the next request is taken, if only the rate was too high.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "Idempotency-Replayed": {
            "description": "`true` when the answer is an earlier one, given again.",
            "schema": { "type": "string", "enum": ["true"] },
        },
    })
}

fn shared(header: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{header}") })
}

/// What every answer has.
fn limits() -> Value {
    json!({ "RateLimit-Policy": shared("RateLimit-Policy"), "RateLimit": shared("RateLimit") })
}

/// The problems of an operation, by status.
fn problems(
    path: &str,
    id: &str,
    operation: &Value,
    has_parameters: bool,
    keyed: bool,
) -> Map<String, Value> {
    use ProblemKind::*;
    let session = operation["security"] != json!([]);
    let body = operation.get("requestBody").is_some();
    let mut all = BTreeMap::<u16, Vec<ProblemKind>>::new();
    let mut may = |when: bool, status: u16, kind: ProblemKind| {
        let kinds = all.entry(status).or_default();
        if when && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    may(body || has_parameters, 400, InvalidRequest);
    may(session, 401, Unauthorized);
    may(path.contains("{id}"), 403, Forbidden);
    may(path.contains("{id}") || id == "callChain", 404, NotFound);
    may(true, 408, Unavailable);
    may(keyed, 409, Conflict);
    may(body, 413, InvalidRequest);
    may(body && id != "callChain", 415, InvalidRequest);
    may(keyed, 422, KeyReused);
    may(true, 429, TooManyRequests);
    may(true, 500, Internal);
    may(true, 503, Unavailable);
    let refusals = REFUSALS.iter().filter(|(name, _)| *name == id);
    for kind in refusals.flat_map(|(_, kinds)| *kinds) {
        may(true, usual_status(*kind), *kind);
    }
    all.retain(|_, kinds| !kinds.is_empty());
    all.into_iter()
        .map(|(status, kinds)| (status.to_string(), problem(status, &kinds)))
        .collect()
}

fn usual_status(kind: ProblemKind) -> u16 {
    match kind {
        ProblemKind::InvalidRequest => 400,
        ProblemKind::Unauthorized => 401,
        ProblemKind::InsufficientDeposit => 402,
        ProblemKind::Forbidden => 403,
        ProblemKind::NotFound | ProblemKind::NoMatch => 404,
        ProblemKind::PriceTooLow | ProblemKind::SoldOut | ProblemKind::Conflict => 409,
        ProblemKind::KeyReused => 422,
        ProblemKind::TooManyRequests => 429,
        ProblemKind::Internal => 500,
        ProblemKind::Unavailable => 503,
    }
}

fn problem(status: u16, kinds: &[ProblemKind]) -> Value {
    let mut headers = limits();
    if status == 429 {
        headers["Retry-After"] = shared("Retry-After");
    }
    if status == 401 {
        headers["WWW-Authenticate"] = shared("WWW-Authenticate");
    }
    let names: Vec<_> = kinds
        .iter()
        .map(|kind| super::problem::title(*kind))
        .collect();
    json!({
        "description": names.join(". "),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        { "$ref": "#/components/schemas/Problem" },
                        {
                            "properties": {
                                "status": { "const": status },
                                "type": { "enum": kinds },
                            }
                        },
                    ]
                }
            }
        }
    })
}

/// Writes down the largest value of unsigned types, and descriptions without the links of the code's documentation.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`");
            }
            let unsigned = match fields.get("format").and_then(Value::as_str) {
                Some("u-int16") => Some(("uint16", u64::from(u16::MAX))),
                Some("u-int32") => Some(("uint32", u64::from(u32::MAX))),
                Some("u-int64") => Some(("uint64", u64::MAX)),
                _ => None,
            };
            if let Some((format, largest)) = unsigned {
                // As OpenAPI's registry of formats spells it.
                fields.insert("format".into(), json!(format));
                fields.entry("maximum").or_insert(json!(largest));
            }
            fields.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

/// `Idempotency-Key`, as the handlers read it.
fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key",
        "in": "header",
        "description": format!(
            "A string of 1 to {LONGEST} visible characters, in quotes or bare, such as a UUID. What is asked again under the \
             same key within 24 h is not done again, and is answered as it was the first time."
        ),
        "schema": {
            "type": "string",
            "pattern": format!("^\"?[!#-\\[\\]-~]{{1,{LONGEST}}}\"?$"),
            "examples": ["\"8e03978e-40d5-43e8-bc93-6894a57f9324\""],
        },
    })
}
