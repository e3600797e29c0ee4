//! All of a host's traffic through a lease: nothing takes another way, whatever dies, and everything is changed back.
//!
//! ```text
//! requester 10.99.0.1 ──── 10.99.0.2 provider and broker 10.98.0.1 ──── 10.98.0.2 web
//!            fd99::1 ──── fd99::2                          fd98::1 ──── fd98::2
//! ```
//!
//! The provider's host forwards, so that without the lease the web is reached by another way: what leaks is answered,
//! and the web says from which address it came.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::program::{Finished, Program, built};
use ipsx_tests::web::{self, Fetched};

const WEB: &str = "10.98.0.2";
const WEB_V6: &str = "[fd98::2]";
/// Only the provider's host knows this name.
const NAME: &str = "web.example";
const LEASED: &str = "10.99.0.2";
const OWN: &str = "10.99.0.1";
const READY: &str = "traffic goes through";
/// What the requester's resolver was set to; nobody answers there.
const RESOLVER: &str = "# as it was\nnameserver 192.0.2.53\n";
/// Counts what comes from the requester and is neither the tunnel nor the way to the broker.
const WATCH: &str = "
table inet watch {
    counter leaked { }
    chain incoming {
        type filter hook prerouting priority -300;
        iifname != \"veth-lease\" accept
        ip daddr 10.99.0.2 udp dport != 53 accept
        ip daddr 10.99.0.2 tcp dport BROKER accept
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
        counter name leaked
    }
}";

/// How the address is lent.
const LENT: [&str; 10] = [
    "--price-per-second",
    "0.001",
    "--tier",
    "open",
    "--allow",
    "10.98.0.2/32:any/*",
    "--mbit-up",
    "1000",
    "--mbit-down",
    "1000",
];

struct World {
    requester: Namespace,
    provider: Namespace,
    web: Namespace,
    market: Market,
    wallet: Wallet,
    provider_wallet: Wallet,
    provider_program: Option<Program>,
    _dns: Program,
    _origins: Vec<Program>,
    _files: Vec<NamespaceFile>,
}

/// A file that `ip netns exec` puts over the one in `/etc`.
struct NamespaceFile(PathBuf);

impl NamespaceFile {
    fn new(namespace: &Namespace, name: &str, content: &str) -> Self {
        let folder = PathBuf::from("/etc/netns").join(namespace.name());
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for NamespaceFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir(self.0.parent().unwrap());
        let _ = fs::remove_dir("/etc/netns");
    }
}

impl World {
    /// `test` keeps the tests of this process apart.
    fn new(test: &str) -> Self {
        let [requester, provider, web] =
            ["req", "prov", "web"].map(|side| Namespace::new(&format!("{test}-{side}")));
        requester.join(
            ("veth-out", "10.99.0.1/24"),
            &provider,
            ("veth-lease", "10.99.0.2/24"),
        );
        provider.join(
            ("veth-wan", "10.98.0.1/24"),
            &web,
            ("veth-web", "10.98.0.2/24"),
        );
        for (namespace, interface, address) in [
            (&requester, "veth-out", "fd99::1/64"),
            (&provider, "veth-lease", "fd99::2/64"),
            (&provider, "veth-wan", "fd98::1/64"),
            (&web, "veth-web", "fd98::2/64"),
        ] {
            namespace.ip(&["address", "add", address, "dev", interface, "nodad"]);
        }
        // The kernel's own addresses are there once nobody else has them.
        let tentative = "ip -6 address show tentative | grep -q inet6";
        sh(
            &requester,
            &format!("for i in $(seq 100); do {tentative} || break; sleep 0.1; done"),
        );
        requester.ip(&["route", "add", "default", "via", "10.99.0.2"]);
        requester.ip(&["-6", "route", "add", "default", "via", "fd99::2"]);
        web.ip(&["route", "add", "default", "via", "10.98.0.1"]);
        web.ip(&["-6", "route", "add", "default", "via", "fd98::1"]);
        for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            sh(&provider, &format!("echo 1 > /proc/sys/net/{knob}"));
        }
        let files = vec![
            NamespaceFile::new(&requester, "resolv.conf", RESOLVER),
            NamespaceFile::new(&provider, "resolv.conf", "nameserver 127.0.0.1\n"),
        ];
        let mut dns = provider.command("dnsmasq");
        dns.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv"]);
        dns.args(["--no-hosts", "--bind-interfaces", "--user=root"]);
        dns.args(["--listen-address=127.0.0.1", &format!("--local=/{NAME}/")]);
        dns.arg(format!("--host-record={NAME},{WEB}"));
        let dns = Program::start("dnsmasq", &mut dns);
        let origins = ["[::]:8080", "[::]:53", "0.0.0.0:8081"].map(|address| {
            let mut origin = web.command(env!("CARGO_BIN_EXE_origin"));
            Program::start("origin", origin.arg(address))
        });
        let mut market = market(&requester, &provider);
        let provider_wallet = market.wallet("provider");
        let wallet = market.wallet("requester");
        market.start_broker();
        let mut world = Self {
            requester,
            provider,
            web,
            market,
            wallet,
            provider_wallet,
            provider_program: None,
            _dns: dns,
            _origins: origins.into(),
            _files: files,
        };
        world.start_provider();
        world.market.run(&world.wallet, &["deposit", "10"]);
        let port = world.market.http().rsplit(':').next().unwrap().to_owned();
        let watch = world.market.path().join("watch.nft");
        fs::write(&watch, WATCH.replace("BROKER", &port)).unwrap();
        sh(&world.provider, &format!("nft -f {}", watch.display()));
        world
    }

    fn start_provider(&mut self) {
        self.provider_program = None;
        let started = self
            .market
            .start_provider(&self.provider_wallet, LEASED, &LENT);
        self.provider_program = Some(started);
    }

    fn ipsx(&self, words: &[&str]) -> Command {
        self.market
            .ipsx_as("ipsx:requester", &self.wallet.data, words)
    }

    /// `ipsx connect` with these words and what every lease here needs.
    fn connect(&self, words: &[&str]) -> Program {
        let mut all = vec!["connect", "--country", "FR", "--budget", "1"];
        all.extend(words);
        Program::start("ipsx connect", &mut self.ipsx(&all))
    }

    fn connected(&self, words: &[&str]) -> Program {
        let mut program = self.connect(words);
        program.wait_for(READY, SOON);
        program
    }

    fn restore(&self) -> Finished {
        let mut command = self.ipsx(&["connect", "--restore"]);
        Program::start("ipsx connect --restore", &mut command).finish(SOON)
    }

    /// Fetches a page from within the requester's namespace.
    fn fetch(&self, host: &str, port: u16) -> Fetched {
        let mut curl = self.requester.command("curl");
        let url = format!("http://{host}:{port}/");
        web::run(curl.args(["--globoff", "--connect-timeout", "4"]), &url)
    }

    /// The address that the web saw.
    fn seen(&self, host: &str) -> String {
        let fetched = self.fetch(host, 8080);
        assert_eq!(fetched.code, 0, "{host}: {fetched:?}");
        fetched.body.trim_start_matches("::ffff:").to_owned()
    }

    /// Nothing is reached by any way, and nothing even tried to leave.
    fn nothing_leaves(&self, when: &str) {
        for host in [WEB, WEB_V6, NAME] {
            let fetched = self.fetch(host, 8080);
            assert_ne!(fetched.code, 0, "{when}: {host} answered {fetched:?}");
        }
        // A datagram, an echo and a question to the resolver of before.
        let tries = "echo x > /dev/udp/10.98.0.2/9; echo x > /dev/udp/192.0.2.53/53; \
                     ping -c 1 -W 1 10.98.0.2; ping -6 -c 1 -W 1 fd98::2";
        let _ = self
            .requester
            .command("bash")
            .args(["-c", tries])
            .output()
            .unwrap();
        assert_eq!(self.leaked(), 0, "packets leaked {when}");
    }

    /// Packets that left the requester outside the tunnel.
    fn leaked(&self) -> u64 {
        let text = sh(&self.provider, "nft -j list counter inet watch leaked");
        let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let objects = listed["nftables"].as_array().unwrap();
        let counter = objects.iter().find_map(|o| o.get("counter")).unwrap();
        counter["packets"].as_u64().unwrap()
    }

    /// Everything that a lease could have changed in the requester's namespace.
    fn state(&self) -> String {
        sh(
            &self.requester,
            "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip -br link; \
             nft list ruleset; cat /proc/sys/net/ipv4/conf/all/src_valid_mark; cat /etc/resolv.conf; \
             stat -c '%a %u %g %i' /etc/resolv.conf",
        )
    }
}

/// Which namespace a program runs in follows from whose it is.
fn market(requester: &Namespace, provider: &Namespace) -> Market {
    let (requester, provider) = (requester.name().to_owned(), provider.name().to_owned());
    let inside = move |program: &str| {
        let side = if program == "ipsx:requester" {
            &requester
        } else {
            &provider
        };
        let binary = built(program.split(':').next().unwrap());
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", side])
            .arg(binary.get_program());
        command
    };
    Market::new(LEASED, &[("10.99.0.0/24", "FR")], Box::new(inside))
}

fn sh(namespace: &Namespace, script: &str) -> String {
    run(
        "ip",
        &["netns", "exec", namespace.name(), "sh", "-c", script],
    )
}

#[test]
fn everything_goes_through_the_lease_and_is_changed_back_at_its_end() {
    let world = World::new("all");
    let before = world.state();
    assert_eq!(world.seen(WEB), OWN, "the other way is open");
    assert_eq!(world.seen(WEB_V6), "fd99::1", "the other way is open");
    assert_eq!(world.fetch(WEB, 53).code, 0);
    assert!(world.leaked() > 0, "the counter counts");
    sh(&world.provider, "nft reset counters table inet watch");

    let page = format!("http://{NAME}:8081/");
    let mut program = world.connect(&["--tun", "--duration", "10m", "--exit-check", &page]);
    program.wait_for("the web sees 10.99.0.2", SOON);
    program.wait_for(READY, SOON);
    assert_eq!(world.seen(WEB), LEASED);
    assert_eq!(world.seen(NAME), LEASED, "names are asked for inside");
    let resolver = sh(&world.requester, "cat /etc/resolv.conf");
    let gateway = resolver.split("nameserver ").nth(1).unwrap().trim();
    sh(&world.requester, &format!("ping -c 2 -W 5 {gateway}"));
    // The exit lets nobody there by IPv6, and there is no other way.
    assert_ne!(world.fetch(WEB_V6, 8080).code, 0);
    assert_ne!(
        world.fetch(WEB, 53).code,
        0,
        "only the gateway answers on port 53"
    );
    let large = web::run(
        &mut world.requester.command("curl"),
        &format!("http://{WEB}:8080/bytes/20000000"),
    );
    assert_eq!(large.size, 20_000_000, "{large:?}");
    assert_eq!(world.leaked(), 0);

    // One host, one lease for its traffic; the refusal changes nothing.
    let second = world.connect(&["--tun", "other0"]).finish(SOON);
    assert_eq!(second.code, Some(2), "{second:#?}");
    assert!(second.stderr.contains("another ipsx"), "{second:#?}");
    assert_eq!(world.seen(WEB), LEASED);

    program.signal("INT");
    let ended = program.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(world.state(), before);
    assert_eq!(world.seen(WEB), OWN);
    let leases = world.market.run(&world.wallet, &["leases", "--all"]);
    let id = leases["leases"][0]["deal_id"].as_str().unwrap().to_owned();
    let statement = world.market.run(&world.wallet, &["statement", &id]);
    let down = statement["totals"]["bytes_down"].as_u64().unwrap();
    assert!((20_000_000..23_000_000).contains(&down), "{down} bytes");
}

#[test]
fn the_next_lease_takes_over_everything_and_nothing_goes_another_way_meanwhile() {
    let mut world = World::new("next");
    let other = "10.99.0.3";
    let provider = &world.provider;
    provider.ip(&[
        "address",
        "add",
        &format!("{other}/24"),
        "dev",
        "veth-lease",
    ]);
    let let_in =
        format!("nft insert rule inet watch incoming ip daddr {other} udp dport != 53 accept");
    sh(provider, &let_in);
    let wallet = world.market.wallet("other");
    let _second = world.market.start_provider(&wallet, other, &LENT);
    let before = world.state();
    let mut program = world.connected(&["--tun", "--rotate", "10s", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED, "the older offer of the same price");
    for expected in [other, LEASED, other] {
        program.wait_for("rotated", SOON);
        assert_eq!(world.seen(WEB), expected);
        assert_eq!(world.seen(NAME), expected, "names are asked for inside");
        assert_eq!(world.leaked(), 0);
    }
    program.signal("INT");
    let ended = program.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(world.state(), before);

    // Killed while it rotates, it leaves the host as shut as any other.
    let mut program = world.connected(&["--tun", "--rotate", "10s", "--duration", "10m"]);
    program.wait_for("rotated", SOON);
    program.kill();
    world.nothing_leaves("after a kill -9");
    assert_eq!(world.restore().code, Some(0));
    assert_eq!(world.state(), before);
}

#[test]
fn a_provider_that_dies_leaves_the_host_shut() {
    let mut world = World::new("dead");
    let before = world.state();
    let program = world.connected(&["--tun", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED);
    world.provider_program.as_mut().unwrap().kill();
    let ended = thread::scope(|scope| {
        let ending = scope.spawn(move || program.finish(Duration::from_secs(150)));
        while !ending.is_finished() {
            world.nothing_leaves("while the program waits for its provider");
        }
        ending.join().unwrap()
    });
    assert_eq!(ended.code, Some(9), "{ended:#?}");
    assert!(
        ended.stderr.contains("ipsx connect --restore"),
        "the way out is named: {ended:#?}"
    );
    world.nothing_leaves("after the lease failed");
    let restored = world.restore();
    assert_eq!(restored.code, Some(0), "{restored:#?}");
    assert_eq!(world.state(), before);
    assert_eq!(world.seen(WEB), OWN);
}

#[test]
fn a_killed_program_leaves_the_host_shut_and_its_successor_or_a_command_undoes_it() {
    let world = World::new("kill");
    let before = world.state();
    let mut program = world.connected(&["--tun", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED);
    program.kill();
    world.nothing_leaves("after a kill -9");
    let record = world.wallet.data.join("host.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&record).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The next one reaches the broker through the kill switch that it takes over.
    let mut program = world.connected(&["--tun", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED);
    assert_eq!(world.leaked(), 0, "no gap between the two");
    program.kill();
    world.nothing_leaves("after the second kill -9");

    let restored = world.restore();
    assert_eq!(restored.code, Some(0), "{restored:#?}");
    assert_eq!(world.state(), before);
    assert!(!record.exists());
    assert_eq!(world.seen(WEB), OWN);
    let again = world.restore();
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert!(again.stdout.join("\n").contains("nothing to undo"));

    // Without its record, too.
    let mut program = world.connected(&["--tun", "--keep-dns", "--duration", "10m"]);
    program.kill();
    fs::remove_file(&record).unwrap();
    let refused = world.connect(&["--tun"]).finish(SOON);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.stderr.contains("--restore"), "{refused:#?}");
    assert_eq!(world.restore().code, Some(0));
    // Only the record knows what the sysctl was; as it is now it does no harm.
    let knob = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
    sh(&world.requester, &format!("echo 0 > {knob}"));
    assert_eq!(world.state(), before);
}

#[test]
fn prefixes_alone_go_through_the_lease_and_a_lease_that_is_over_changes_them_back() {
    let world = World::new("split");
    world
        .web
        .ip(&["address", "add", "10.98.0.3/24", "dev", "veth-web"]);
    let before = world.state();
    let program = world.connected(&[
        "--tun",
        "lease7",
        "--route",
        "10.98.0.2/32",
        "--duration",
        "25s",
    ]);
    assert_eq!(world.seen(WEB), LEASED);
    assert_eq!(world.seen("10.98.0.3"), OWN);
    assert_eq!(world.seen(WEB_V6), "fd99::1");
    let ended = program.finish(Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(world.state(), before);

    // The other way round: all but one.
    let mut program = world.connected(&["--tun", "--direct", "10.98.0.3/32", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED);
    assert_eq!(world.seen("10.98.0.3"), OWN);
    assert_ne!(world.fetch(WEB_V6, 8080).code, 0);
    program.kill();
    assert_eq!(
        world.seen("10.98.0.3"),
        OWN,
        "the kill switch leaves it open"
    );
    assert_ne!(world.fetch(WEB, 8080).code, 0);
    assert_eq!(world.restore().code, Some(0));
    assert_eq!(world.state(), before);
}

#[test]
fn without_kill_switch_the_old_way_comes_back_by_itself() {
    let world = World::new("open");
    let before = world.state();
    let mut program = world.connected(&[
        "--tun",
        "--no-kill-switch",
        "--keep-dns",
        "--duration",
        "10m",
    ]);
    assert_eq!(world.seen(WEB), LEASED);
    assert_ne!(
        world.fetch(WEB_V6, 8080).code,
        0,
        "IPv6 takes no other way either"
    );
    program.kill();
    assert_eq!(world.seen(WEB), OWN);
    assert_eq!(world.restore().code, Some(0));
    assert_eq!(world.state(), before);
}

#[test]
fn an_interface_that_somebody_deletes_leaves_the_host_shut() {
    let world = World::new("gone");
    let before = world.state();
    let program = world.connected(&["--tun", "lease7", "--duration", "10m"]);
    assert_eq!(world.seen(WEB), LEASED);
    world.requester.ip(&["link", "delete", "lease7"]);
    let ended = program.finish(SOON);
    assert_eq!(ended.code, Some(14), "{ended:#?}");
    world.nothing_leaves("after the interface was deleted");
    assert_eq!(world.restore().code, Some(0));
    assert_eq!(world.state(), before);
}

#[test]
fn the_capability_is_enough_and_without_it_the_proxy_is_named() {
    let world = World::new("caps");
    let before = world.state();
    let words = ["--tun", "--keep-dns", "--duration", "10m"];
    let with = |capabilities: &str| {
        let mut all = vec!["connect", "--country", "FR", "--budget", "1"];
        all.extend(words);
        let plain = world.ipsx(&all);
        let mut command = Command::new("ip");
        let mut given = plain.get_args();
        command.args(given.by_ref().take(3));
        command
            .args(["setpriv", "--bounding-set", capabilities])
            .args(["--inh-caps", capabilities])
            .args(given);
        command
    };
    let refused = Program::start("without", &mut with("-net_admin")).finish(SOON);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    for said in ["CAP_NET_ADMIN", "proxy"] {
        assert!(refused.stderr.contains(said), "{said}: {refused:#?}");
    }
    assert_eq!(world.state(), before);
    let mut program = Program::start("with", &mut with("-all,+net_admin"));
    program.wait_for(READY, SOON);
    assert_eq!(world.seen(WEB), LEASED);
    program.signal("INT");
    let ended = program.finish(SOON);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(world.state(), before);
}
