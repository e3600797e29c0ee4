//! The operator's listener of the program itself, and that nothing of it is on the requesters'.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::io::{Read, Write};
use std::net::TcpStream;

use parties::program::Program;

/// One exchange; status and the whole answer.
fn exchange(address: &str, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

#[test]
fn the_operator_has_a_listener_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = ["--admin-hosts".to_string(), "broker.internal".to_string()];
    let program = Program::start(directory.path(), &hosts);
    let (public, admin) = (program.http.to_string(), program.admin.unwrap().to_string());
    for (method, path) in [
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("POST", "/drain"),
        ("POST", "/resume"),
        ("POST", "/claims"),
    ] {
        assert_eq!(exchange(&public, method, path, "").0, 404, "{path}");
        let (status, text) = exchange(&admin, method, path, "Origin: http://page.example\r\n");
        assert_eq!(status, 403, "{path}");
        assert!(text.contains("application/problem+json"), "{text}");
        assert_eq!(exchange(&admin, method, path, "").0, 200, "{path}");
    }
    // A page can have its own name lead here; then it asks by that name.
    let asks = |host: &str, target: &str| {
        let mut stream = TcpStream::connect(&admin).unwrap();
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for host in [
        "page.example",
        "page.example:8482",
        "localhost.page.example",
        "127.0.0.1.page.example",
        "127.0.0.1@page.example",
        "page.example@127.0.0.1",
        "[::1].page.example",
        "a b",
        "",
    ] {
        let text = asks(host, "/metrics");
        assert!(text.starts_with("HTTP/1.1 403 "), "{host}: {text}");
    }
    for host in [
        "localhost",
        "LocalHost:8482",
        "127.0.0.1",
        "[::1]:8482",
        "broker.internal:1",
    ] {
        let text = asks(host, "/healthz");
        assert!(text.starts_with("HTTP/1.1 200 "), "{host}: {text}");
    }
    let text = asks("localhost", "http://page.example/healthz");
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    // Nothing of the requesters' is there either.
    assert_eq!(exchange(&admin, "GET", "/v1/network", "").0, 404);
    let (_, text) = exchange(&admin, "GET", "/metrics", "");
    for line in [
        "ipsx_agents_connected 0",
        "ipsx_offers 0",
        "ipsx_refusals_total{reason=\"not_found\"} 7",
        "ipsx_http_request_seconds_count{method=\"GET\",route=\"/healthz\",status=\"200\"} 6",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    exchange(&admin, "POST", "/drain", "");
    let (status, text) = exchange(&admin, "GET", "/readyz", "");
    assert_eq!(status, 503);
    assert!(text.contains("POST /resume"), "{text}");
    assert_eq!(exchange(&admin, "GET", "/healthz", "").0, 200);
    exchange(&admin, "POST", "/resume", "");
    assert_eq!(exchange(&admin, "GET", "/readyz", "").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_broker_takes_no_new_requests() {
    let broker = parties::TestBroker::start().await;
    let admin = broker.broker.admin_addr().unwrap().to_string();
    let mut agent = parties::TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = parties::TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let (proposed, _) = tokio::join!(requester.ask(request.clone()), agent.accept());
    assert_eq!(exchange(&admin, "POST", "/drain", "").0, 200);
    let mut another = request;
    another.nonce += 1;
    another.channel_salt = ipsx_metering::B256::repeat_byte(1);
    let problem = requester.ask(another.clone()).await.unwrap_err();
    assert_eq!(problem.status, 503);
    // What is under way goes on.
    requester.sign(&proposed.unwrap()).await.unwrap();
    agent.bound().await;
    assert_eq!(exchange(&admin, "POST", "/resume", "").0, 200);
    let (proposed, _) = tokio::join!(requester.ask(another), agent.accept());
    proposed.unwrap();
}

#[test]
fn without_an_address_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start_with(directory.path(), |command| {
        command.env("IPSX_BROKER_ADMIN_LISTEN", "");
    });
    assert_eq!(program.admin, None);
}
