//! Addresses are sold once a probe has seen them: of two providers whose agents are seen at the same address, one leaves
//! from another.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test acts and fails by panicking"
)]

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use ipsx_tests::relay::Relay;
use ipsx_tests::web::{Through, fetch};
use serde_json::Value;

/// A lease, and what is waited for around it.
const A_WHILE: Duration = Duration::from_secs(90);

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
        "--allow",
        "127.0.0.1/32:tcp/*",
    ];
    let mut provider = Program::start(bind, &mut market.ipsx(&wallet.data, &words));
    provider.wait_for("offer placed: 127.0.1.1 in FR", SOON);
    provider
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
    let words = ["--probe", "require", "--agents-public", &relay.address()];
    let mut market = Market::on_loopback().with_broker_words(&words);
    let origin = Origin::start("127.0.0.1:0");
    let [honest, liar, prober, customer] =
        ["honest", "liar", "prober", "customer"].map(|name| market.wallet(name));
    market.start_broker();
    relay.lead_to(market.agents());
    // The liar is cheaper: whoever looked by price alone would take it.
    let mut lying = provider(&market, &liar, "127.0.1.9", "0.0001");
    let mut honestly = provider(&market, &honest, "127.0.1.1", "0.001");
    assert_eq!(for_sale(&market, &customer), Vec::<Value>::new());

    let admin = format!("http://{}", market.admin());
    let large = format!("http://{}/bytes/2000000", origin.address());
    let probe = [
        "probe",
        "--admin",
        &admin,
        "--pause",
        "1s",
        "--download",
        &large,
    ];
    let mut probing = Program::start("probe", &mut market.ipsx(&prober.data, &probe));
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
    wait_for_sale(&market, &customer, &honest);
    let measured = &for_sale(&market, &customer)[0]["placement"]["measured"];
    assert_eq!(measured["reachability"], "direct", "{measured}");
    assert!(measured["latency_ms"].is_u64(), "{measured}");
    assert!(measured["mbit_down"].as_u64().is_some_and(|rate| rate > 0));
    probing.kill();

    // The proof is on disk: nobody has to look again.
    market.broker.as_mut().unwrap().kill();
    market.start_broker();
    relay.lead_to(market.agents());
    wait_for_sale(&market, &customer, &honest);

    market.run(&customer, &["deposit", "5"]);
    let words = [
        "connect",
        "--duration",
        "20s",
        "--budget",
        "1",
        "--proxy",
        "127.0.0.1:0",
        "--exit-check",
        &format!("http://{}/", origin.address()),
    ];
    let mut lease = Program::start("connect", &mut market.ipsx(&customer.data, &words));
    let line = lease.wait_for("proxy ready on ", SOON);
    let proxy = line.rsplit("proxy ready on ").next().unwrap();
    let proxy = proxy.split_whitespace().next().unwrap();
    let seen = fetch(
        proxy,
        Through::Socks5,
        &format!("http://{}/", origin.address()),
    );
    assert_eq!((seen.status, seen.body.as_str()), (200, "127.0.1.1"));
    let finished = lease.finish(Duration::from_secs(60));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(honestly.printed("signed: 20 s"));
    assert!(!lying.printed("signed: 20 s"));
}
