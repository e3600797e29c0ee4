//! A private network of separate processes: offer, search, lease, use, pay, claim, withdraw.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::time::Duration;

use ipsx_tests::market::{Market, SOON};
use ipsx_tests::origin::Origin;
use ipsx_tests::program::Program;
use ipsx_tests::web::{Through, fetch};
use serde_json::Value;

fn whole(value: &Value) -> u128 {
    value
        .as_str()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no amount"))
}

#[test]
fn an_address_is_leased_used_paid_claimed_and_withdrawn() {
    let mut market = Market::on_loopback();
    let origin = Origin::start("127.0.0.1:0");
    let rule = origin.rule();
    let providers: Vec<_> = ["fr", "de", "jp"].map(|name| market.wallet(name)).into();
    let requester = market.wallet("requester");
    market.start_broker();
    let mut running = Vec::new();
    for (index, wallet) in providers.iter().enumerate() {
        let price = format!("0.00{}", index + 1);
        let words = [
            "--price-per-second",
            &price,
            "--price-per-gib",
            "0.5",
            "--allow",
            &rule,
        ];
        running.push(market.start_provider(wallet, &format!("127.0.1.{}", index + 1), &words));
    }

    let found = market.run(&requester, &["search", "--country", "DE"]);
    let offers = found["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 1, "{found}");
    assert_eq!(offers[0]["placement"]["address"], "127.0.1.2");

    market.run(&requester, &["deposit", "20"]);
    let words = "--country DE --duration 8s --budget 2";
    let mut lease = Program::start("connect", &mut market.connect(&requester, words));
    let (proxy, url) = (lease.proxy(SOON), origin.url());
    for through in [Through::Socks5, Through::Http, Through::HttpConnect] {
        let seen = fetch(&proxy, through, &url);
        assert_eq!(
            (seen.status, seen.body.as_str()),
            (200, "127.0.1.2"),
            "{through:?}: {seen:?}"
        );
    }
    let large = fetch(&proxy, Through::Socks5, &format!("{url}bytes/20000000"));
    assert_eq!(large.size, 20_000_000, "{:?}", large.code);
    refuse_what_is_denied(&proxy);
    let finished = lease.finish(Duration::from_secs(30));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    // It was told how the lease stands, and did not ask again and again.
    let asked =
        "ipsx_http_request_seconds_count{method=\"GET\",route=\"/v1/deals/{id}\",status=\"200\"}";
    let asked = market.metric(asked);
    assert!((1.0..=2.0).contains(&asked), "asked {asked} times");

    // The person who lends the address sees what was tried in vain, by reason.
    let dropped = running[1].wait_for("packets dropped: ", SOON);
    for reason in [
        "private",
        "metadata",
        "carrier_nat",
        "loopback",
        "multicast",
    ] {
        assert!(
            dropped.contains(reason),
            "{reason} is missing from {dropped:?}"
        );
    }

    let leases = market.run(&requester, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap().to_owned();
    let statement = market.run(&requester, &["statement", &id]);
    // Three requests and the large one; the exit let none of the denied ones out, and answers none with a connection.
    let checked = &statement["entries"][0]["notes"]["connections_checked"];
    assert_eq!(checked["result"], "checked", "{checked}");
    assert_eq!(checked["own"], 4, "{checked}");
    assert!(checked["records"].as_u64().unwrap() >= 4, "{checked}");
    let statement = &statement["totals"];
    let paid = whole(&statement["used"]);
    assert!(paid > 0, "{statement}");
    let bytes = statement["bytes_down"].as_u64().unwrap();
    assert!((20_000_000..23_000_000).contains(&bytes), "{statement}");

    // The provider's own process holds the store; claiming from a second one works all the same.
    let claims = market.run(&providers[1], &["settle", "--yes"]);
    assert!(whole(&claims["paid"]) >= paid, "{claims} {statement}");
    let again = market.run(&providers[1], &["settle", "--yes"]);
    assert_eq!(whole(&again["paid"]), 0, "a claim is paid once: {again}");

    let earned = market.run(&providers[1], &["withdraw", "credits"]);
    assert_eq!(
        whole(&earned["amount"]),
        whole(&claims["paid"]) - whole(&claims["fee"])
    );
    // What the network promised to the provider and was not claimed stays promised for a while.
    let back = market.run(&requester, &["withdraw", "deposit"]);
    let token = 10_u128.pow(18);
    // Never more than the budget is held back, and never what was claimed given out.
    let free = (20 - 2) * token..=20 * token - whole(&claims["paid"]);
    assert!(free.contains(&whole(&back["amount"])), "{back}");
}

/// Each of these must fail, and fast, while the tunnel is up.
fn refuse_what_is_denied(proxy: &str) {
    let denied = [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://127.0.0.1:22/",
        "http://192.168.1.1/",
        "http://224.0.0.1/",
        "http://[::1]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[ff02::1]/",
    ];
    for url in denied {
        let refused = fetch(proxy, Through::Socks5, url);
        assert_eq!(refused.status, 0, "{url}: {refused:?}");
        assert_ne!(refused.code, 28, "{url} hangs instead of being refused");
    }
}

/// Who asks before anybody offers waits, and is served once somebody does; or gives up, and leaves nothing behind.
#[test]
fn a_requester_waits_for_an_offer_or_gives_up() {
    let mut market = Market::on_loopback();
    let origin = Origin::start("127.0.0.1:0");
    let rule = origin.rule();
    let [provider, requester] = ["provider", "requester"].map(|name| market.wallet(name));
    market.start_broker();
    market.run(&requester, &["deposit", "20"]);
    let words = "--country DE --duration 5s --budget 2 --wait 5m";
    let mut given_up = Program::start("connect", &mut market.connect(&requester, words));
    given_up.wait_for("no offer fits yet", SOON);
    given_up.signal("INT");
    let finished = given_up.finish(SOON);
    assert_eq!(finished.code, Some(14), "{finished:#?}");
    let mut lease = Program::start("connect", &mut market.connect(&requester, words));
    lease.wait_for("no offer fits yet", SOON);

    let prices = ["--price-per-second", "0.001", "--allow", &rule];
    let _provider = market.start_provider(&provider, "127.0.1.2", &prices);
    lease.wait_for("an offer has come", SOON);
    assert_eq!(origin.sees(&lease.proxy(SOON)), "127.0.1.2");
    let finished = lease.finish(Duration::from_secs(30));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    // The request that was taken back was not served.
    let leases = market.run(&requester, &["leases", "--all"]);
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "{leases}");
}
