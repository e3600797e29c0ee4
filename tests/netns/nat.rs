//! A provider at home and a requester at home: both behind NATs that let nothing in which nothing went out for, or a relay
//! between them.
//!
//! ```text
//! provider 10.1.0.2 ── 10.1.0.1 NAT 198.18.1.2 ── 198.18.1.1 broker and web 198.18.2.1 ── 198.18.2.2 NAT 10.2.0.1 ── 10.2.0.2 requester
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::program::{Finished, Program, built};
use ipsx_tests::web::{self, Fetched};

const BROKER: &str = "198.18.1.1";
/// What everybody sees of the provider behind its NAT.
const PROVIDERS_NAT: &str = "198.18.1.2";
/// A lease that can't be reached is given up after 20 s.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// How the address is lent.
const LENT: [&str; 9] = [
    "--accept-consent",
    "--listen",
    "0.0.0.0:51820",
    "--price-per-second",
    "0.001",
    "--tier",
    "open",
    "--allow",
    "198.18.1.1/32:any/*",
];

/// Which ports a NAT shows.
#[derive(Clone, Copy)]
enum Ports {
    /// The same to everybody.
    Kept,
    /// Another one to each destination.
    Random,
}

struct World {
    providers_nat: Namespace,
    requester: Namespace,
    requesters_nat: Namespace,
    net: Namespace,
    _provider: Namespace,
    market: Market,
    wallet: Wallet,
    provider_wallet: Wallet,
    _origin: Program,
}

impl World {
    /// `test` keeps the tests of this process apart.
    fn new(test: &str) -> Self {
        Self::with(test, &[])
    }

    /// One whose broker is told more.
    fn with(test: &str, words: &[&str]) -> Self {
        let sides = ["prov", "pnat", "net", "rnat", "req"];
        let [provider, providers_nat, net, requesters_nat, requester] =
            sides.map(|side| Namespace::new(&format!("{test}-{side}")));
        provider.join(
            ("lan", "10.1.0.2/24"),
            &providers_nat,
            ("lan", "10.1.0.1/24"),
        );
        requester.join(
            ("lan", "10.2.0.2/24"),
            &requesters_nat,
            ("lan", "10.2.0.1/24"),
        );
        providers_nat.join(("wan", "198.18.1.2/24"), &net, ("one", "198.18.1.1/24"));
        requesters_nat.join(("wan", "198.18.2.2/24"), &net, ("two", "198.18.2.1/24"));
        for (namespace, gateway) in [
            (&provider, "10.1.0.1"),
            (&providers_nat, "198.18.1.1"),
            (&requester, "10.2.0.1"),
            (&requesters_nat, "198.18.2.1"),
        ] {
            namespace.ip(&["route", "add", "default", "via", gateway]);
        }
        // Both networks are reached without a NAT, too.
        net.ip(&["route", "add", "10.1.0.0/24", "via", "198.18.1.2"]);
        net.ip(&["route", "add", "10.2.0.0/24", "via", "198.18.2.2"]);
        for router in [&providers_nat, &net, &requesters_nat] {
            sh(router, "echo 1 > /proc/sys/net/ipv4/ip_forward");
        }
        let mut origin = net.command(env!("CARGO_BIN_EXE_origin"));
        let origin = Program::start("origin", origin.arg("0.0.0.0:8080"));
        let mut market = market(&provider, &net, &requester);
        let provider_wallet = market.wallet("provider");
        let wallet = market.wallet("requester");
        market.tell_broker(words);
        market.start_broker();
        let world = Self {
            providers_nat,
            requester,
            requesters_nat,
            net,
            _provider: provider,
            market,
            wallet,
            provider_wallet,
            _origin: origin,
        };
        let deposit = ["deposit", "10"];
        world
            .market
            .run_as("ipsx:requester", &world.wallet, &deposit);
        world
    }

    fn translate(&self, ports: Ports) {
        translate(&self.market, &self.providers_nat, ports);
        translate(&self.market, &self.requesters_nat, ports);
    }

    /// A provider that says in these words how it is reached.
    fn provider(&self, reached: &str) -> Program {
        let mut words = vec!["provide"];
        words.extend(LENT);
        let data = &self.provider_wallet.data;
        let mut command = self.market.ipsx_as("ipsx:provider", data, &words);
        let mut provider = Program::start("provider", &mut command);
        provider.wait_for(reached, SOON);
        provider
    }

    /// What is said of the only offer that is found.
    fn reachability(&self, words: &[&str]) -> Option<String> {
        let all = [&["search"], words].concat();
        let found = self.market.run_as("ipsx:requester", &self.wallet, &all);
        let measured = &found["offers"][0]["placement"]["measured"];
        measured["reachability"].as_str().map(str::to_owned)
    }

    fn connect(&self, words: &[&str]) -> Program {
        let mut all = vec![
            "connect",
            "--country",
            "FR",
            "--budget",
            "1",
            "--duration",
            "10m",
        ];
        all.extend(words);
        let mut command = self
            .market
            .ipsx_as("ipsx:requester", &self.wallet.data, &all);
        Program::start("ipsx connect", &mut command)
    }

    /// What comes through a lease's proxy.
    fn page(&self, proxy: &str, path: &str) -> Fetched {
        let mut curl = self.requester.command("curl");
        let (url, proxy) = (
            format!("http://{BROKER}:8080{path}"),
            format!("http://{proxy}"),
        );
        let fetched = web::run(curl.args(["--noproxy", "", "--proxy", &proxy]), &url);
        assert_eq!(fetched.code, 0, "{fetched:?}");
        fetched
    }

    /// A figure of the broker's metrics.
    fn metric(&self, name: &str) -> u64 {
        let url = format!("http://{}/metrics", self.market.admin());
        let shown = web::run(&mut self.net.command("curl"), &url);
        let figure = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        let found = shown.body.lines().find_map(figure);
        found.unwrap_or_else(|| panic!("no {name} in {shown:?}"))
    }

    /// Leases, fetches a page through the lease, and ends it; the address that the web saw.
    fn seen_through_a_lease(&self) -> String {
        self.seen_and_told("").0
    }

    /// The same, and whether `needle` was printed.
    fn seen_and_told(&self, needle: &str) -> (String, bool) {
        let mut program = self.connect(&["--proxy", "127.0.0.1:0"]);
        let proxy = program.proxy(SOON).to_string();
        assert_eq!(self.page(&proxy, "/bytes/2000000").size, 2_000_000);
        let seen = self.page(&proxy, "/").body;
        let told = program.printed(needle);
        program.signal("INT");
        let ended = program.finish(SOON);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        (seen, told)
    }

    /// The same for all that the requester's host does.
    fn seen_by_the_whole_host(&self) -> String {
        let mut program = self.connect(&["--tun", "--keep-dns"]);
        program.wait_for("traffic goes through", SOON);
        let mut curl = self.requester.command("curl");
        let fetched = web::run(&mut curl, &format!("http://{BROKER}:8080/"));
        assert_eq!(fetched.code, 0, "{fetched:?}");
        program.signal("INT");
        let ended = program.finish(SOON);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        fetched.body
    }

    fn refused(&self, words: &[&str]) -> Finished {
        let ended = self.connect(words).finish(GIVEN_UP);
        assert_ne!(ended.code, Some(0), "{ended:#?}");
        ended
    }
}

/// Which namespace a program runs in follows from whose it is.
fn market(provider: &Namespace, net: &Namespace, requester: &Namespace) -> Market {
    let [provider, net, requester] = [provider, net, requester].map(|n| n.name().to_owned());
    let inside = move |program: &str| {
        let side = match program {
            "ipsx:provider" => &provider,
            "ipsx:requester" => &requester,
            _ => &net,
        };
        let binary = built(program.split(':').next().unwrap());
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", side])
            .arg(binary.get_program());
        command
    };
    let places = [("198.18.1.2/32", "FR"), ("10.1.0.0/24", "FR")];
    Market::new(BROKER, &places, Box::new(inside))
}

/// Makes a router a NAT that lets in only what answers something.
fn translate(market: &Market, router: &Namespace, ports: Ports) {
    let random = match ports {
        Ports::Kept => "",
        Ports::Random => "random,fully-random",
    };
    let rules = format!(
        "table ip home {{
            chain leaving {{
                type nat hook postrouting priority srcnat;
                oifname \"wan\" masquerade {random}
            }}
            chain coming {{
                type nat hook prerouting priority dstnat;
            }}
            chain passing {{
                type filter hook forward priority filter;
                iifname \"wan\" ct state established,related accept
                iifname \"wan\" ct status dnat accept
                iifname \"wan\" drop
            }}
            chain own {{
                type filter hook input priority filter;
                iifname \"wan\" ct state established,related accept
                iifname \"wan\" drop
            }}
        }}"
    );
    let file = market.path().join("home.nft");
    fs::write(&file, rules).unwrap();
    sh(router, &format!("nft -f {}", file.display()));
}

fn sh(namespace: &Namespace, script: &str) -> String {
    run(
        "ip",
        &["netns", "exec", namespace.name(), "sh", "-c", script],
    )
}

#[test]
fn a_provider_behind_a_nat_is_reached_from_behind_another_one() {
    let world = World::new("nat");
    let open = world.provider("anybody reaches 10.1.0.2:51820");
    assert_eq!(world.reachability(&[]).unwrap(), "direct");
    assert_eq!(world.seen_through_a_lease(), "10.1.0.2");
    drop(open);

    world.translate(Ports::Kept);
    let hidden = world.provider("behind a NAT");
    assert_eq!(world.reachability(&[]).unwrap(), "punched");
    let direct = ["--reachability", "direct"];
    assert_eq!(world.reachability(&direct), None, "{direct:?}");
    assert_eq!(world.seen_through_a_lease(), PROVIDERS_NAT);
    assert_eq!(world.seen_by_the_whole_host(), PROVIDERS_NAT);
    let file = world.market.path().join("wg.conf");
    let export = world.refused(&["--export", "wg", &file.display().to_string()]);
    assert!(export.stderr.contains("reached direct"), "{export:#?}");
    drop(hidden);

    // With a forwarded port there is nothing to punch, and any client comes through.
    sh(
        &world.providers_nat,
        "nft add rule ip home coming iifname wan udp dport 51820 dnat to 10.1.0.2",
    );
    let _forwarded = world.provider("anybody reaches 198.18.1.2:51820");
    assert_eq!(world.reachability(&direct).unwrap(), "direct");
    assert_eq!(world.seen_through_a_lease(), PROVIDERS_NAT);
}

#[test]
fn between_nats_that_show_everybody_another_port_there_is_no_way_and_it_is_said() {
    let world = World::new("sym");
    world.translate(Ports::Random);
    let _provider = world.provider("behind a NAT");
    let refused = world.refused(&["--proxy", "127.0.0.1:0"]);
    let told = "behind a NAT, and no way through it was found";
    assert!(refused.stderr.contains(told), "{refused:#?}");
    assert!(
        refused.stderr.contains("--reachability direct"),
        "{refused:#?}"
    );
}

/// What the broker is told for it to relay.
const RELAYS: [&str; 2] = ["--relay-ports", "41000-41009"];

#[test]
fn between_such_nats_a_relay_carries_the_lease() {
    let world = World::with("rel", &RELAYS);
    world.translate(Ports::Random);
    let _provider = world.provider("behind a NAT");
    assert_eq!(world.reachability(&[]).unwrap(), "punched");
    let seen = world.seen_and_told("relayed   198.18.1.2 is reached by 198.18.1.1:4100");
    assert_eq!((seen.0.as_str(), seen.1), (PROVIDERS_NAT, true));
    let relayed = world.metric("ipsx_relayed_bytes_total");
    assert!((2_000_000..3_000_000).contains(&relayed), "{relayed}");
    assert_eq!(world.metric("ipsx_relayed_leases"), 0, "the lease is over");
    assert_eq!(world.seen_by_the_whole_host(), PROVIDERS_NAT);
    let relayed = world.metric("ipsx_relayed_bytes_total");
    // Who asks for a better way gets no relay.
    let words = ["--reachability", "punched", "--proxy", "127.0.0.1:0"];
    let refused = world.refused(&words);
    let told = "behind a NAT, and no way through it was found";
    assert!(refused.stderr.contains(told), "{refused:#?}");
    assert_eq!(world.metric("ipsx_relayed_bytes_total"), relayed);
}

#[test]
fn a_relayed_lease_outlives_another_address_and_another_broker() {
    let mut world = World::with("roam", &RELAYS);
    world.translate(Ports::Random);
    let _provider = world.provider("behind a NAT");
    let mut program = world.connect(&["--proxy", "127.0.0.1:0"]);
    let proxy = program.proxy(SOON).to_string();
    assert_eq!(world.page(&proxy, "/").body, PROVIDERS_NAT);

    // The requester's NAT has another address and forgets all that it showed.
    let script = "ip addr del 198.18.2.2/24 dev wan && ip addr add 198.18.2.3/24 dev wan
        ip route replace default via 198.18.2.1 && ip addr";
    let addresses = sh(&world.requesters_nat, script);
    assert!(!addresses.contains("198.18.2.2"), "{addresses}");
    assert_eq!(world.page(&proxy, "/bytes/300000").size, 300_000);

    // A broker that was killed remembers nothing of its relay: both sides are given another port.
    world.market.broker = None;
    world.market.start_broker();
    assert_eq!(world.metric("ipsx_relayed_bytes_total"), 0);
    // The provider has to find the broker first, so whoever asks meanwhile may be told that nothing answers.
    let came = |_| world.page(&proxy, "/bytes/300000").size == 300_000;
    assert!((0..3).any(came), "the lease does not go on");
    assert!(world.metric("ipsx_relayed_bytes_total") > 300_000);
    program.signal("INT");
    let ended = program.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}
