//! Clients that mean no good, over sockets of their own: each is bounded by an answer or the end of its connection, memory
//! stays, and everybody else is served meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ipsx_market::http::Problem;
use ipsx_market::messages::{AgentMessage, PROTOCOL_VERSION};
use ipsx_settlement::Wallet;
use parties::program::Program;
use parties::{TestRequester, agent};

/// Longest time in which somebody who means well is served.
const PROMPT: Duration = Duration::from_secs(3);
/// Kilobytes of memory that an attack may cost while it goes on.
const GROWTH: u64 = 64 * 1024;

/// A broker without limits on how often one may ask, whose log goes to a file.
struct Victim {
    program: Program,
    directory: tempfile::TempDir,
    resident: u64,
}

impl Victim {
    fn start(places: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let program = Program::start_with(directory.path(), |command| {
            command
                .env("IPSX_BROKER_MAX_HTTP_REQUESTS", places.to_string())
                .env("IPSX_BROKER_MAX_ADDRESS_REQUESTS_PER_SECOND", "0")
                .env("IPSX_BROKER_MAX_WALLET_REQUESTS_PER_SECOND", "0")
                .env("IPSX_BROKER_LOG", "debug,hyper=info")
                .stderr(Stdio::from(log));
        });
        let mut victim = Self {
            program,
            directory,
            resident: 0,
        };
        victim.serves("before");
        victim.resident = victim.memory();
        victim
    }

    fn connect(&self) -> TcpStream {
        connect(self.program.http)
    }

    fn memory(&self) -> u64 {
        let id = self.program.child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// Somebody who means well is served, and memory has not grown.
    fn serves(&self, what: &str) {
        let begun = Instant::now();
        let text = exchange(
            self.program.http,
            b"GET /v1/network HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        assert!(text.starts_with("HTTP/1.1 200 "), "{what}: {text}");
        assert!(begun.elapsed() < PROMPT, "{what}: {:?}", begun.elapsed());
        if self.resident > 0 {
            let grown = self.memory().saturating_sub(self.resident);
            assert!(grown < GROWTH, "{what}: {grown} kB more in memory");
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Everything that is answered until the connection ends; what can't be sent any more is not.
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to);
    let _ = stream.write_all(bytes);
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend(&buffer[..count]),
            // Closed while something was still on its way there.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The status of the first answer; none if the connection was closed without one.
fn status(text: &str) -> Option<u16> {
    text.strip_prefix("HTTP/1.1 ")
        .or_else(|| text.strip_prefix("HTTP/1.0 "))
        .map(|rest| rest[..3].parse().unwrap())
}

/// A closed connection or a refusal; a refusal with a body is a problem document.
fn refused(what: &str, text: &str) {
    let Some(status) = status(text) else {
        assert!(text.is_empty(), "{what}: {text}");
        return;
    };
    assert!((400..500).contains(&status), "{what}: {text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if !body.is_empty() {
        assert!(head.contains("application/problem+json"), "{what}: {text}");
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, status, "{what}");
    }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn what_is_too_large_is_refused() {
    let victim = Victim::start(64);
    let http = victim.program.http;
    let get = |target: &str, headers: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
            .into_bytes()
    };
    let long = "x".repeat(20_000);
    let many = "X: y\r\n".repeat(500);
    let cases = [
        ("path", get(&format!("/{long}"), "")),
        ("query", get(&format!("/v1/offers?city={long}"), "")),
        ("header", get("/v1/network", &format!("X: {long}\r\n"))),
        ("name of a header", get("/v1/network", &format!("{long}: y\r\n"))),
        ("headers", get("/v1/network", &many)),
        ("body", post("/v1/session", "", &vec![b' '; 70_000])),
        ("JSON-RPC", post("/rpc", "", &vec![b' '; 300_000])),
        ("body that is announced", b"POST /v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 18446744073709551615\r\n\r\n{".to_vec()),
        ("values", get(&format!("/v1/offers?asn={}", "1,".repeat(300)), "")),
        ("depth", post("/v1/session", "", &vec![b'['; 60_000])),
        ("depth of objects", post("/v1/session", "", "{\"message\":".repeat(5_000).as_bytes())),
        ("number", post("/v1/session", "", format!("{{\"message\":{}}}", "9".repeat(50_000)).as_bytes())),
        ("exponent", post("/v1/session", "", b"{\"message\":\"\",\"signature\":1e999999999}")),
    ];
    for (what, bytes) in cases {
        let text = exchange(http, &bytes);
        refused(what, &text);
    }
    // A body without an end.
    let mut stream = victim.connect();
    stream
        .write_all(b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    let sent = (0..1_000)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 1_000, "all of it was taken");
    refused("endless body", &rest(&mut stream));
    victim.serves("after what is too large");
}

/// Neither a thousand connections that say nothing, nor half heads, nor slow bodies keep others out, though they are
/// many times as many as there are places.
#[test]
fn idle_and_slow_clients_keep_nobody_out() {
    let victim = Victim::start(64);
    let begun = Instant::now();
    let mut held = Vec::new();
    for round in 0..400 {
        let mut stream = victim.connect();
        let _ = stream.write_all(match round % 4 {
            0 => b"",
            1 => b"GET /v1/network HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            2 => b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
            // Answered, and kept.
            _ => b"GET /v1/network HTTP/1.1\r\nHost: x\r\n\r\n",
        });
        held.push(stream);
        if round % 40 == 39 {
            // One byte more from each that is still there.
            for stream in &mut held {
                let _ = stream.write_all(b"x");
            }
            victim.serves("among idle and slow clients");
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    // Half open: these say that they have nothing more to say, and are let go at once.
    for start in [
        "",
        "GET /v1/net",
        "POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ] {
        let mut stream = victim.connect();
        stream.write_all(start.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        refused("half open", &rest(&mut stream));
    }
    drop(held);
    victim.serves("after idle and slow clients");
}

#[test]
fn a_body_that_drips_is_cut_off() {
    let victim = Victim::start(64);
    let mut stream = victim.connect();
    stream
        .write_all(b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
        .unwrap();
    let begun = Instant::now();
    let mut dripping = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while begun.elapsed() < Duration::from_secs(40) && dripping.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    stream
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 400");
    let took = begun.elapsed();
    assert!((15..35).contains(&took.as_secs()), "{took:?}");
    victim.serves("after a slow body");
}

/// Requests without end, whose answers nobody takes: the broker stops reading, and goes on with others.
#[test]
fn a_flood_of_requests_waits_for_its_own_answers() {
    let victim = Victim::start(64);
    let requests = b"GET /v1/network HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
    let mut floods: Vec<_> = (0..8).map(|_| victim.connect()).collect();
    for flood in &mut floods {
        flood
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Until nothing more is taken.
        let taken = (0..4_000).take_while(|_| flood.write_all(&requests).is_ok());
        assert!(taken.count() < 4_000, "everything was taken");
        victim.serves("beside a flood whose answers nobody takes");
    }
    // Whoever asks much and takes the answers is served in turn, and so are others.
    let flooding: Vec<_> = (0..8)
        .map(|_| {
            let (to, requests) = (victim.program.http, requests.clone());
            std::thread::spawn(move || {
                let mut stream = connect(to);
                let mut reader = stream.try_clone().unwrap();
                let taking =
                    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
                let begun = Instant::now();
                while begun.elapsed() < PROMPT && stream.write_all(&requests).is_ok() {}
                stream
                    .shutdown(std::net::Shutdown::Both)
                    .unwrap_or_default();
                taking.join().unwrap().unwrap_or_default()
            })
        })
        .collect();
    for _ in 0..5 {
        victim.serves("beside a flood");
        std::thread::sleep(Duration::from_millis(300));
    }
    let answered: u64 = flooding
        .into_iter()
        .map(|flood| flood.join().unwrap())
        .sum();
    assert!(answered > 100_000, "{answered} bytes");
    victim.serves("after a flood");
}

#[test]
fn what_is_not_http_is_refused() {
    let victim = Victim::start(64);
    let garbage: Vec<u8> = (0..10_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let cases: [(&str, &[u8]); 20] = [
        ("two lengths", b"POST /rpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        ("a length and chunks", b"POST /v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a length below zero", b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        ("a length with a sign", b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}"),
        ("another coding", b"POST /rpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("a chunk's length", b"POST /v1/session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        ("NUL in a header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n"),
        ("CR in a header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n"),
        ("a folded header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n"),
        ("no version", b"GET /v1/network\r\n\r\n"),
        ("another version", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("a proxy's CONNECT", b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("a method of no kind", b"\xff\xfe / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("bytes in the path", b"GET /v1/\xff\xfe\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("an authority that is none", b"GET http://[::1/v1/network HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("a token that is no text", b"GET /v1/deals HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"),
        ("garbage", &garbage),
    ];
    for (what, bytes) in cases {
        let mut stream = victim.connect();
        let _ = stream.write_all(bytes);
        // Whoever sent half of something has no more to say.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        refused(what, &rest(&mut stream));
    }
    // Unusual, and allowed.
    for (what, bytes) in [
        ("HTTP/1.0", b"GET /v1/network HTTP/1.0\r\n\r\n".as_slice()),
        (
            "absolute form",
            b"GET http://x/v1/network HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n",
        ),
        (
            "two hosts",
            b"GET /v1/network HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
        ),
        (
            "bare line feeds",
            b"GET /v1/network HTTP/1.1\nHost: x\nConnection: close\n\n",
        ),
    ] {
        let text = exchange(victim.program.http, bytes);
        assert!(
            [Some(200), Some(400), None].contains(&status(&text)),
            "{what}: {text}"
        );
    }
    // A second request that hides in the first one's body is part of that body.
    let hidden = b"GET /v1/network HTTP/1.1\r\nHost: x\r\n\r\n";
    let text = exchange(victim.program.http, &post("/v1/session", "", hidden));
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    victim.serves("after what is not HTTP");
}

/// Strings that mean something to a database, a file system, an HTTP reader, a terminal, a log or a template.
const WORDS: [&str; 12] = [
    "' OR 1=1; DROP TABLE deals; --",
    "\"; DELETE FROM sessions WHERE '1'='1",
    "../../../../etc/passwd",
    "..\\..\\broker.db",
    "/dev/zero",
    "x\r\nSet-Cookie: forged=1\r\n\r\nHTTP/1.1 200 OK",
    "x\n2026-01-01T00:00:00Z  INFO ipsx_broker: FORGED",
    "\u{1b}[2J\u{1b}]0;FORGED\u{7}",
    "\0",
    "${jndi:ldap://x/y} {{7*7}} %s%n%x",
    "\u{202e}\u{2028}\u{feff}\u{fffd}",
    "<script>alert(1)</script>",
];

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// In each text that a requester or an agent can send: refused or taken as the text that it is, and never a line of the log
/// or a header of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn words_are_only_words() {
    let victim = Victim::start(64);
    let info = victim.program.network().await;
    let http = victim.program.http;
    let mut requester = TestRequester::at(Wallet::random(), http, info);
    requester.sign_in().await;
    let token = requester.token.clone().unwrap();
    let session = format!("Authorization: Bearer {token}\r\n");
    let request = serde_json::to_value(requester.request("FR")).unwrap();
    for word in WORDS {
        let (path, json) = (escaped(word), serde_json::to_string(word).unwrap());
        let get = |target: &str, headers: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{session}{headers}\r\n"
            )
            .into_bytes()
        };
        let mut asked = vec![
            get(&format!("/{path}"), ""),
            get(&format!("/v1/deals/{path}"), ""),
            get(&format!("/v1/deals/{path}/events"), ""),
            get(&format!("/v1/deals?cursor={path}"), ""),
            get(&format!("/v1/deals?{path}=1"), ""),
            get("/v1/network", &format!("X-Forwarded-For: {word}\r\n")),
            get("/v1/events", &format!("Last-Event-ID: {word}\r\n")),
            get("/v1/deals", &format!("Authorization: Bearer {word}\r\n")),
            post(
                "/v1/requests",
                &format!("{session}Idempotency-Key: {word}\r\n"),
                b"{}",
            ),
            post(
                "/v1/session",
                "",
                format!("{{\"message\":{json},\"signature\":{json}}}").as_bytes(),
            ),
            post(
                "/v1/withdrawals",
                &session,
                format!("{{\"to\":{json},\"amount\":{json}}}").as_bytes(),
            ),
            post(
                "/rpc",
                "",
                format!("{{\"jsonrpc\":\"2.0\",\"id\":{json},\"method\":{json}}}").as_bytes(),
            ),
        ];
        for name in ipsx_market::search::NAMES {
            asked.push(get(&format!("/v1/offers?{name}={path}"), ""));
        }
        // Each field of a request, at every depth.
        for field in fields(&request) {
            let mut changed = request.clone();
            *changed.pointer_mut(&field).unwrap() = serde_json::json!(word);
            let body = serde_json::json!({ "request": { "message": changed, "signature": word } });
            asked.push(post("/v1/requests", &session, body.to_string().as_bytes()));
        }
        for bytes in asked {
            let what = String::from_utf8_lossy(&bytes).into_owned();
            let text = exchange(http, &bytes);
            let status = status(&text).unwrap_or(400);
            assert!(status < 500, "{what}\n{text}");
            let head = text.split("\r\n\r\n").next().unwrap().to_lowercase();
            assert!(
                !head.contains("set-cookie") && !head.contains("forged"),
                "{what}\n{text}"
            );
        }
        let (_endpoint, connection) = agent::dial("127.0.1.1", victim.program.agents).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let hello = AgentMessage::Hello {
            version: PROTOCOL_VERSION,
            software: word.repeat(3),
        };
        agent::say(&mut send, &hello).await;
        assert!(agent::hear(&mut recv).await.is_some());
        connection.close(1u32.into(), word.as_bytes());
    }
    victim.serves("after many words");
    // The session is still there, so nothing of the store was dropped.
    let deals: Vec<ipsx_market::http::DealView> = requester.get("/v1/deals").await.unwrap();
    assert!(deals.is_empty());
    let log = victim.log();
    assert!(log.lines().count() > 200, "{}", log.lines().count());
    for line in log.lines() {
        let time = line.get(..4).and_then(|year| year.parse::<u16>().ok());
        assert!(time.is_some_and(|year| year >= 2024), "{line:?}");
        assert!(!line.starts_with("2026-01-01T00:00:00Z"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// Pointers to everything that is no object.
fn fields(value: &serde_json::Value) -> Vec<String> {
    let children: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect(),
        serde_json::Value::Array(values) if !values.is_empty() => values
            .iter()
            .enumerate()
            .map(|(n, value)| (n.to_string(), value))
            .collect(),
        _ => return vec![String::new()],
    };
    let below = children.into_iter().flat_map(|(name, value)| {
        fields(value)
            .into_iter()
            .map(move |rest| format!("/{name}{rest}"))
    });
    below.collect()
}

/// One address asks without an end: it is told to wait, and others are served, also those behind a trusted proxy.
#[test]
fn one_address_does_not_use_up_what_others_have() {
    const A_SECOND: usize = 1;
    const FLOOD: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start_with(directory.path(), |command| {
        command.args(["--trusted-proxies", "127.0.0.9"]).env(
            "IPSX_BROKER_MAX_ADDRESS_REQUESTS_PER_SECOND",
            A_SECOND.to_string(),
        );
    });
    let from = |source: [u8; 4], client: &str| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&program.http.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        let forwarded = if client.is_empty() {
            String::new()
        } else {
            format!("X-Forwarded-For: {client}\r\n")
        };
        write!(
            stream,
            "GET /v1/network HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{forwarded}\r\n"
        )
        .unwrap();
        status(&rest(&mut stream)).unwrap()
    };
    // However slow the machine is: no more get through than the limit gives in the time that it took.
    let flood = |source, client: &dyn Fn(usize) -> String| {
        let begun = Instant::now();
        let statuses: Vec<_> = (0..FLOOD).map(|n| from(source, &client(n))).collect();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        let refused = statuses.iter().filter(|status| **status == 429).count();
        assert_eq!(passed + refused, FLOOD, "{statuses:?}");
        let most = 10 * A_SECOND + A_SECOND * (begun.elapsed().as_secs() as usize + 1);
        assert!(passed <= most && most < FLOOD, "{passed}, at most {most}");
    };
    // Its own word about whom it asks for counts nothing.
    flood([127, 0, 0, 2], &|n| match n % 2 {
        0 => String::new(),
        _ => format!("198.51.100.{n}"),
    });
    assert_eq!(from([127, 0, 0, 3], ""), 200);
    // Through the proxy: each client for itself, and what clients write before the proxy's word counts nothing.
    flood([127, 0, 0, 9], &|n| match n % 2 {
        0 => "198.51.100.7".into(),
        _ => format!("203.0.113.{n}, 198.51.100.7"),
    });
    assert_eq!(from([127, 0, 0, 9], "198.51.100.8"), 200);
    assert_eq!(from([127, 0, 0, 9], "198.51.100.7, 198.51.100.9"), 200);
}
