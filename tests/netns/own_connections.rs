//! A requester compares the provider's connection record with what went through its own tunnel, before it signs.

use std::time::Duration;

use ipsx_tests::market::SOON;
use ipsx_tests::program::Program;
use ipsx_tests::web;
use serde_json::Value;

use super::{END, WEB, World, stop};

/// Turns what leases send to the web server's one port to another one, as a provider that reads along would.
const REDIRECT: &str = "
table ip elsewhere {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        iifname \"ipsx0\" ip daddr 10.98.0.2 tcp dport 8080 dnat to 10.98.0.2:8081
    }
}";

/// A lease of requester 1 that is used through a local proxy.
struct Proxied {
    payer: Program,
    address: String,
}

impl Proxied {
    fn start(world: &World, duration: &str) -> Self {
        let wallet = &world.wallets[1];
        world.market.run(wallet, &["deposit", "10"]);
        let mut words = vec!["connect", "--country", "FR", "--duration", duration];
        words.extend(["--budget", "1", "--proxy", "127.0.0.1:0"]);
        let mut command = world.market.ipsx_as("ipsx:a", &wallet.data, &words);
        let mut payer = Program::start("connect", &mut command);
        let address = payer.proxy(SOON);
        Self { payer, address }
    }

    fn fetch(&self, world: &World, path: &str) -> web::Fetched {
        let mut curl = world.a.command("curl");
        curl.args(["--proxy", &format!("socks5h://{}", self.address)]);
        web::run(&mut curl, &format!("http://{WEB}:8080{path}"))
    }
}

/// What the statement of the only lease of this requester says of the connection record; it must verify.
fn stated(world: &World, number: usize) -> Value {
    let wallet = &world.wallets[number];
    let leases = world.market.run(wallet, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap().to_owned();
    let statement = world.market.run(wallet, &["statement", &id]);
    let file = world.market.path().join("statement.json");
    std::fs::write(&file, statement.to_string()).unwrap();
    let verified = (world.market).run(wallet, &["verify", file.to_str().unwrap()]);
    let checks = verified["checked"].as_array().unwrap();
    assert!(
        checks.iter().all(|check| check["holds"] == true),
        "{verified:#}"
    );
    statement["entries"][0]["notes"]["connections_checked"].clone()
}

#[test]
fn a_requester_signs_for_its_own_connections_only() {
    let world = World::new("kr", None);
    let provider = world.start_provider();
    let _web = world.start_web();
    let stock = world.lease(2);
    let lease = Proxied::start(&world, "5m");
    for _ in 0..40 {
        let page = lease.fetch(&world, "/");
        assert_eq!(page.status, 200, "{page:?}");
    }
    let large = lease.fetch(&world, "/bytes/20000000");
    assert_eq!(large.size, 20_000_000, "{large:?}");
    assert_eq!(world.seen(&world.b), world.seen(&world.b));
    // Longer than the provider has for putting them under a root.
    std::thread::sleep(Duration::from_secs(25));
    stop(lease.payer);
    stop(stock.payer);
    let checked = stated(&world, 1);
    assert_eq!(checked["result"], "checked", "{checked}");
    assert_eq!(checked["own"], 41, "{checked}");
    // The beginnings of all, and some ends: the kernel keeps a closed connection for a while.
    assert!(checked["records"].as_u64().unwrap() >= 41, "{checked}");
    assert_eq!(
        stated(&world, 2),
        Value::Null,
        "a stock client's flows are not known"
    );
    stop(provider);
}

#[test]
fn a_connection_that_is_led_elsewhere_is_not_signed_for() {
    let world = World::new("kl", None);
    let provider = world.start_provider();
    let mut elsewhere = world.web.command(env!("CARGO_BIN_EXE_origin"));
    let _elsewhere = Program::start("origin", elsewhere.arg("0.0.0.0:8081"));
    let file = world.market.path().join("redirect.nft");
    std::fs::write(&file, REDIRECT).unwrap();
    let mut nft = world.provider.command("nft");
    assert!(nft.arg("-f").arg(&file).status().unwrap().success());
    let lease = Proxied::start(&world, "5m");
    let page = lease.fetch(&world, "/");
    assert_eq!(page.status, 200, "somebody else answers: {page:?}");
    let ended = lease.payer.finish(END);
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    let why = "TCP connection to 10.98.0.2:8081, but this side opened 0 there";
    let said = format!("{}\n{}", ended.stdout.join("\n"), ended.stderr);
    assert!(said.contains(why), "{ended:#?}");
    assert_eq!(stated(&world, 1)["result"], "wrong");
    stop(provider);
}
