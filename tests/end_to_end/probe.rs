//! Addresses are sold once a probe has seen them: of two providers whose agents are seen at the same address, one leaves
//! from another.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test acts and fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use ipsx_tests::relay::Relay;
use serde_json::{Value, json};

/// A lease, and what is waited for around it.
const A_WHILE: Duration = Duration::from_secs(90);
/// Exits may reach the test's own servers.
const ALLOWED: [&str; 2] = ["--allow", "127.0.0.1/32:tcp/*"];

/// A provider that its agent's relay makes seem to be at 127.0.1.1, and that leaves from `bind`.
fn provider(market: &Market, wallet: &Wallet, bind: &str, price: &str) -> Program {
    let port = UdpSocket::bind((bind, 0)).unwrap();
    let endpoint = port.local_addr().unwrap().to_string();
    drop(port);
    let words = [
        "provide",
        "--accept-consent",
        "--bind",
        bind,
        "--listen",
        &endpoint,
        "--advertise",
        &endpoint,
        "--price-per-second",
        price,
    ];
    let words = [&words[..], &ALLOWED].concat();
    let mut provider = Program::start(bind, &mut market.ipsx(&wallet.data, &words));
    provider.wait_for("offer placed: 127.0.1.1 in FR; not for sale yet", SOON);
    provider
}

/// A prober; more words may follow.
fn prober(market: &Market, wallet: &Wallet, words: &[&str]) -> Program {
    let admin = format!("http://{}", market.admin());
    let all = [&["probe", "--admin", &admin, "--pause", "1"], words].concat();
    Program::start("probe", &mut market.ipsx(&wallet.data, &all))
}

fn for_sale(market: &Market, anybody: &Wallet) -> Vec<Value> {
    let found = market.run(anybody, &["search"]);
    found["offers"].as_array().unwrap().clone()
}

/// Waits until exactly this provider's offer is for sale.
fn wait_for_sale(market: &Market, anybody: &Wallet, provider: &Wallet) {
    let deadline = Instant::now() + A_WHILE;
    loop {
        let offers = for_sale(market, anybody);
        if let [offer] = offers.as_slice() {
            let seller = offer["provider"].as_str().unwrap();
            assert!(seller.eq_ignore_ascii_case(&provider.address), "{offer}");
            return;
        }
        assert!(offers.is_empty(), "{offers:?}");
        assert!(Instant::now() < deadline, "nothing is for sale");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn who_leaves_from_elsewhere_is_never_sold_and_what_was_proven_survives_a_kill() {
    let relay = Relay::start("127.0.1.1");
    let mut market = Market::on_loopback();
    market.tell_broker(&["--prove", "required", "--agents-public", &relay.address()]);
    let origin = Origin::start("127.0.0.1:0");
    let [honest, liar, paying, customer] =
        ["honest", "liar", "prober", "customer"].map(|name| market.wallet(name));
    market.start_broker();
    relay.lead_to(market.agents());
    // The liar is cheaper: whoever looked by price alone would take it.
    let mut lying = provider(&market, &liar, "127.0.1.9", "0.0001");
    let mut honestly = provider(&market, &honest, "127.0.1.1", "0.001");
    assert_eq!(for_sale(&market, &customer), Vec::<Value>::new());

    let large = format!("http://{}/bytes/2000000", origin.address());
    let taker = format!("http://{}/", origin.address());
    let (one, other) = ("127.0.0.7", "127.0.0.8");
    let measuring = ["--download", &large, "--upload", &taker];
    let words = [&measuring[..], &["--bind", one, "--bind", other]].concat();
    let mut probing = prober(&market, &paying, &words);
    // Both, in whatever order.
    let first = probing.wait_for("seen at 127.0.1.", A_WHILE);
    let second = probing.wait_for("seen at 127.0.1.", A_WHILE);
    let (of_liar, of_honest) = if first.contains("127.0.1.9") {
        (first, second)
    } else {
        (second, first)
    };
    assert!(of_liar.contains("127.0.1.9: failing"), "{of_liar}");
    assert!(of_honest.contains("127.0.1.1: proven until"), "{of_honest}");
    let why = "not for sale yet: a probe came out at 127.0.1.9, which is not the one that was sold";
    lying.wait_for(why, SOON);
    wait_for_sale(&market, &customer, &honest);
    let measured = &for_sale(&market, &customer)[0]["placement"]["measured"];
    assert_eq!(measured["reachability"], "direct", "{measured}");
    assert!(measured["latency_ms"].is_u64(), "{measured}");
    assert!(measured["mbit_down"].as_u64().is_some_and(|rate| rate > 0));
    assert!(measured["mbit_up"].as_u64().is_some_and(|rate| rate > 0));
    probing.kill();

    // The proof is on disk: nobody has to look again.
    market.broker.as_mut().unwrap().kill();
    market.start_broker();
    relay.lead_to(market.agents());
    wait_for_sale(&market, &customer, &honest);

    market.run(&customer, &["deposit", "5"]);
    let words = format!("--duration 20s --budget 1 --exit-check {}", origin.url());
    let mut lease = Program::start("connect", &mut market.connect(&customer, &words));
    assert_eq!(origin.sees(&lease.proxy(SOON)), "127.0.1.1");
    let finished = lease.finish(Duration::from_secs(60));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(honestly.printed("signed: 20 s"));
    assert!(!lying.printed("signed: 20 s"));
}

/// Tells the broker's operator's listener something; the status that it answers with.
fn post(market: &Market, path: &str, body: &Value) -> String {
    let (body, host) = (body.to_string(), market.admin());
    let length = body.len();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn an_appeal_is_ruled_and_requests_go_by_the_ruling() {
    let mut market = Market::on_loopback();
    let [home, anybody] = ["home", "anybody"].map(|name| market.wallet(name));
    market.start_broker();
    let price = ["--price-per-second", "0.001"];
    let _provider = market.start_provider(&home, "127.0.1.1", &price);
    let residential = ["search", "--address-type", "residential"];
    assert_eq!(market.run(&anybody, &residential)["offers"][0], Value::Null);
    let words = [
        "appeal",
        "--address",
        "127.0.1.1",
        "--address-type",
        "residential",
    ];
    let words = [&words[..], &["--text", "the bill of the line is at hand"]].concat();
    let refused = market.ipsx(&anybody.data, &words).output().unwrap();
    assert!(!refused.status.success(), "it offers nothing there");
    market.run(&home, &words);
    let ruling = json!({
        "provider": home.address, "address": "127.0.1.1", "address_type": "residential", "reason": "the bill was shown",
    });
    assert_eq!(post(&market, "/proofs/ruling", &ruling), "204");
    let found = market.run(&anybody, &residential);
    let evidence = &found["offers"][0]["placement"]["evidence"]["address_type"];
    assert_eq!(evidence["rule"], "ruling", "{found}");
    assert_eq!(evidence["found"], "the bill was shown", "{found}");
}

#[test]
fn a_proof_ends_with_its_time_and_silence_is_told() {
    let mut market = Market::on_loopback();
    market.tell_broker(&["--prove", "required", "--proof-seconds", "60"]);
    let [open, closed, paying] = ["open", "closed", "prober"].map(|name| market.wallet(name));
    market.start_broker();
    let price = ["--price-per-second", "0.001"];
    let words = [&price[..], &ALLOWED].concat();
    let mut opened = market.start_provider(&open, "127.0.1.1", &words);
    // Its exit reaches nothing that an exit's policy does not allow by itself, so not the echo of a broker on loopback.
    let mut shut = market.start_provider(&closed, "127.0.1.2", &price);
    let probed = prober(&market, &paying, &["--once"]).finish(A_WHILE);
    assert_eq!(probed.code, Some(0), "{probed:#?}");
    let said = |needle: &str| probed.stdout.iter().any(|line| line.contains(needle));
    assert!(said("seen at 127.0.1.1: proven until"), "{probed:#?}");
    assert!(said("silent: no echo came"), "{probed:#?}");
    shut.wait_for("and 1 got no answer through their leases", SOON);
    assert_eq!(for_sale(&market, &paying).len(), 1);
    opened.wait_for("offer placed: 127.0.1.1 in FR", SOON);
    opened.wait_for(
        "not for sale yet: a probe has to see its address first",
        A_WHILE,
    );
    assert_eq!(for_sale(&market, &paying).len(), 0);
}
