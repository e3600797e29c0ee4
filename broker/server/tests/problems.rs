//! Every path of the documentation, asked in every wrong way: each error is problem details.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::collections::BTreeMap;
use std::collections::HashSet;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use ipsx_market::http::Problem;
use parties::{TestBroker, TestRequester};

/// Paths with their methods, and whether they need a session, as docs/protocol.md has them.
fn routes() -> BTreeMap<String, Vec<(Method, bool)>> {
    let text = include_str!("../../../docs/protocol.md");
    let mut routes: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", path, method, session, ..] = cells[..]
            && path.starts_with("`/")
            && let Ok(method) = method.parse()
        {
            let route = routes.entry(path.trim_matches('`').into()).or_default();
            route.push((method, session == "yes"));
        }
    }
    routes
}

/// Sends it; an error must be a whole problem of its own.
async fn ask(
    requester: &TestRequester,
    request: Request<Full<Bytes>>,
    seen: &mut HashSet<String>,
) -> Response<()> {
    let what = format!("{} {}", request.method(), request.uri());
    let head = request.method() == Method::HEAD;
    let response = requester.client.request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let wrong = parts.status.is_client_error() || parts.status.is_server_error();
    if wrong {
        assert_eq!(
            parts.headers["content-type"], "application/problem+json",
            "{what}"
        );
    }
    if wrong && !head {
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.status, parts.status.as_u16(), "{what}");
        assert!(
            !problem.title.is_empty() && !problem.detail.is_empty(),
            "{what}"
        );
        let instance = problem.instance.unwrap();
        let digits = instance.strip_prefix("urn:ipsx:occurrence:").unwrap();
        assert_eq!(digits.len(), 32, "{what}");
        assert!(seen.insert(instance), "{what}");
    }
    Response::from_parts(parts, ())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_asked_wrongly_answers_with_a_problem() {
    let broker = TestBroker::start().await;
    let requester = TestRequester::with_deposit(&broker, 0).await;
    let bearer = format!("Bearer {}", requester.token.as_ref().unwrap());
    let routes = routes();
    assert!(routes.len() > 12, "{routes:?}");
    let mut seen = HashSet::new();
    let unknown_deal = format!("0x{}", "3".repeat(64));
    for (path, methods) in &routes {
        let url = format!("{}{}", broker.url(), path.replace("{id}", &unknown_deal));
        let build = |method: &Method, url: &str, token: &str, kind: &str, body: Vec<u8>| {
            Request::builder()
                .method(method)
                .uri(url)
                .header("authorization", token)
                .header("content-type", kind)
                .body(Full::new(Bytes::from(body)))
                .unwrap()
        };
        let json = "application/json";
        let others = [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
        let refused = |method: &Method| methods.iter().all(|(taken, _)| taken != method);
        for method in others.into_iter().filter(refused) {
            let request = build(&method, &url, &bearer, json, Vec::new());
            let answer = ask(&requester, request, &mut seen).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allow = answer.headers()["allow"].to_str().unwrap().to_string();
            for (method, _) in methods {
                assert!(allow.contains(method.as_str()), "{path} {allow}");
            }
        }
        for (method, session) in methods {
            if *session {
                for token in ["", "Bearer ", "Bearer 00", "Basic eA==", &"x".repeat(9_000)] {
                    let request = build(method, &url, token, json, b"{}".to_vec());
                    let answer = ask(&requester, request, &mut seen).await;
                    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
                    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
                }
            }
            if path.contains("{id}") {
                for id in [
                    "x",
                    "0x12",
                    "%00",
                    "%ff",
                    "..%2f..",
                    "'%20OR%201=1--",
                    "%0d%0aX:y",
                ] {
                    let url = format!("{}{}", broker.url(), path.replace("{id}", id));
                    let request = build(method, &url, &bearer, json, b"{}".to_vec());
                    let answer = ask(&requester, request, &mut seen).await;
                    assert!(
                        [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND].contains(&answer.status()),
                        "{path} {id}: {}",
                        answer.status()
                    );
                }
            }
            if method == Method::POST && path != "/rpc" && path != "/v1/session/nonce" {
                for (kind, body, status) in [
                    (json, b"{".to_vec(), 400),
                    (json, b"[1, 2".to_vec(), 400),
                    (json, b"\xff\xfe".to_vec(), 400),
                    (json, vec![b'['; 10_000], 400),
                    (json, vec![b' '; 65 * 1024], 413),
                    ("text/plain", b"{}".to_vec(), 415),
                ] {
                    let request = build(method, &url, &bearer, kind, body);
                    let answer = ask(&requester, request, &mut seen).await;
                    assert_eq!(answer.status(), status, "{path} {kind}");
                }
            }
            let query = format!("{url}?%00=%ff&'=1&x=%0d%0a");
            let request = build(method, &query, &bearer, json, b"{}".to_vec());
            let answer = ask(&requester, request, &mut seen).await;
            assert!(
                !answer.status().is_server_error(),
                "{path}: {}",
                answer.status()
            );
        }
        let request = build(&Method::HEAD, &url, "", json, Vec::new());
        ask(&requester, request, &mut seen).await;
    }
    for path in [
        "/",
        "/v1",
        "/v1/deals/",
        "/%ff",
        "/v1/../rpc",
        "//",
        "/metrics",
        "/healthz",
    ] {
        let uri = format!("{}{path}", broker.url());
        let request = Request::get(uri).body(Full::default()).unwrap();
        let answer = ask(&requester, request, &mut seen).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert!(seen.len() > 200, "{}", seen.len());
}
