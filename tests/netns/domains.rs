//! Names at the gateway: what a provider's domain files deny is not answered, by either exit, by datagram or connection;
//! a file that changes counts for the next lease, and the running one keeps what was signed.
//!
//! ```text
//! requester 10.99.0.1 ──── 10.99.0.2 provider and broker 10.98.0.1 ──── 10.98.0.2 resolver
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::namespace::Namespace;
use ipsx_tests::program::{Program, built};
use ipsx_tests::stock_client;

const RESOLVER: &str = "10.98.0.2";
const PROVIDER: &str = "10.98.0.1";
const GATEWAY: &str = "10.64.0.1";
/// A busy machine's time for what should be done at once.
const LONG: Duration = Duration::from_secs(60);
/// Addresses of the name that has many: too many for any datagram.
const MANY: usize = 200;

/// What the resolver knows.
const HOSTS: &str = "\
9.1.1.1 fine.test
9.1.1.2 bet.test www.bet.test
9.1.1.3 good.bet.test
9.1.1.4 cdn.test
9.1.1.5 later.test
10.1.1.1 inside.test
";

struct World {
    requester: Namespace,
    _provider_side: Namespace,
    _resolver_side: Namespace,
    _resolver: Program,
    market: Market,
    wallets: [Wallet; 2],
    etc: PathBuf,
}

/// A lease with the stock client that uses it.
struct Lease {
    payer: Program,
    _wireguard: Program,
}

impl World {
    fn new(label: &str) -> Self {
        let sides = ["req", "exit", "dns"];
        let [requester, provider_side, resolver_side] =
            sides.map(|side| Namespace::new(&format!("{label}{side}")));
        requester.join(
            ("out", "10.99.0.1/24"),
            &provider_side,
            ("veth-in", "10.99.0.2/24"),
        );
        let wan = format!("{PROVIDER}/24");
        let dns = format!("{RESOLVER}/24");
        provider_side.join(("wan", &wan), &resolver_side, ("veth-dns", &dns));
        provider_side.ip(&["route", "add", "default", "via", RESOLVER]);
        // `ip netns exec` puts it over the host's.
        let etc = Path::new("/etc/netns").join(provider_side.name());
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("resolv.conf"), format!("nameserver {RESOLVER}\n")).unwrap();

        let names = [&requester, &provider_side].map(|namespace| namespace.name().to_owned());
        let inside = move |program: &str| {
            let (name, side) = program.split_once(':').unwrap_or((program, ""));
            let mut command = Command::new("ip");
            let namespace = &names[usize::from(side != "requester")];
            command.args(["netns", "exec", namespace]);
            command.arg(built(name).get_program());
            command
        };
        let places = [("10.98.0.0/24", "FR")];
        let mut market = Market::new("10.99.0.2", &places, Box::new(inside));
        let wallets = ["provider", "requester"].map(|name| market.wallet(name));
        market.start_broker();
        market.run_as("ipsx:requester", &wallets[1], &["deposit", "10"]);
        let resolver = start_resolver(&resolver_side, market.path());
        Self {
            requester,
            _provider_side: provider_side,
            _resolver_side: resolver_side,
            _resolver: resolver,
            market,
            wallets,
            etc,
        }
    }

    /// A provider that denies these lines' domains.
    fn start_provider(&self, exit: &str, denied: &str) -> Program {
        fs::write(self.list(), denied).unwrap();
        let exceptions = self.market.path().join("exceptions.txt");
        fs::write(&exceptions, "good.bet.test\n").unwrap();
        let words = [
            "provide --accept-consent --price-per-second 0.001 --tier open --listen 10.99.0.2:0",
            "--bind",
            PROVIDER,
            "--exit",
            exit,
        ];
        let mut words: Vec<&str> = words.iter().flat_map(|words| words.split(' ')).collect();
        let denied = format!("gambling={}", self.list().display());
        words.extend(["--deny-domains", &denied, "--allow-domains"]);
        words.push(exceptions.to_str().unwrap());
        // The other resolver is on the provider's own network, which is closed anyhow.
        let rule = format!("{RESOLVER}/32:tcp/80");
        words.extend(["--allow", &rule]);
        let data = &self.wallets[0].data;
        let mut command = self.market.ipsx_as("ipsx:provider", data, &words);
        let mut provider = Program::start("provider", &mut command);
        provider.wait_for("offer placed", SOON);
        provider
    }

    fn list(&self) -> PathBuf {
        self.market.path().join("list.txt")
    }

    fn lease(&self, number: usize) -> Lease {
        let file = self.market.path().join(format!("{number}.conf"));
        let mut words = vec!["connect", "--country", "FR", "--duration", "5m"];
        words.extend(["--budget", "1", "--export", "wg", file.to_str().unwrap()]);
        let data = &self.wallets[1].data;
        let mut command = self.market.ipsx_as("ipsx:requester", data, &words);
        let mut payer = Program::start("connect --export", &mut command);
        payer.wait_for(".conf", SOON);
        // Unique on this machine: the control sockets are not in any namespace.
        let interface = format!("d{number}{}", self.requester.name().replace("ipsx-", ""));
        let interface: String = interface.chars().filter(|c| *c != '-').take(15).collect();
        let routed = [GATEWAY, "9.9.9.9"];
        let wireguard = stock_client::start(&self.requester, &interface, &file, &routed);
        Lease {
            payer,
            _wireguard: wireguard,
        }
    }

    /// What `dig` says of a name.
    fn dig(&self, words: &str) -> String {
        let mut dig = self.requester.command("dig");
        dig.args(["+tries=3", "+time=10"]).args(words.split(' '));
        let output = dig.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn ask(&self, words: &str) -> String {
        self.dig(&format!("@{GATEWAY} {words}"))
    }

    /// What both ways of asking the gateway say of a name.
    fn assert_answers(&self, name: &str, has: &[&str]) {
        for way in ["+notcp", "+tcp"] {
            let said = self.ask(&format!("{way} {name}"));
            for part in has {
                assert!(said.contains(part), "{name} {way}: no {part:?} in {said}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.etc);
    }
}

fn start_resolver(side: &Namespace, folder: &Path) -> Program {
    let hosts = folder.join("hosts");
    let many: String = (0..MANY)
        .map(|number| format!("9.2.0.{number} many.test\n"))
        .collect();
    fs::write(&hosts, format!("{HOSTS}{many}")).unwrap();
    let mut command = side.command("dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv"]);
    command.args([
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--local=/test/",
    ]);
    command.arg(format!("--listen-address={RESOLVER}"));
    command.arg(format!("--addn-hosts={}", hosts.display()));
    // Two links to a name that is denied, and one that leads past it.
    command.args([
        "--cname=shop.test,alias.test",
        "--cname=alias.test,www.bet.test",
    ]);
    command.arg("--cname=static.test,cdn.test");
    Program::start("dnsmasq", &mut command)
}

fn denies_what_its_files_name(exit: &str) {
    let world = World::new(&format!("d{}", &exit[..1]));
    let mut provider = world.start_provider(exit, "# bets\n0.0.0.0 bet.test\n");
    let lease = world.lease(1);
    world.assert_answers("fine.test", &["NOERROR", "9.1.1.1"]);
    world.assert_answers("static.test", &["NOERROR", "9.1.1.4"]);
    world.assert_answers("good.bet.test", &["NOERROR", "9.1.1.3"]);
    // The name, what is below it, any type, and names that lead there, whatever stands between.
    for name in [
        "bet.test",
        "WWW.Bet.TEST",
        "bet.test TXT",
        "shop.test",
        "alias.test",
    ] {
        world.assert_answers(name, &["REFUSED", "EDE: 15", "gambling", "ANSWER: 0"]);
    }
    world.assert_answers("inside.test", &["NOERROR", "ANSWER: 0"]);
    world.assert_answers("none.test", &["NXDOMAIN"]);

    // A datagram says that it can't hold everything, and a connection can.
    let cut = world.ask("+notcp +ignore many.test");
    assert!(cut.contains("flags: qr tc"), "{cut}");
    let plain = world.ask("+noedns +ignore many.test");
    assert!(plain.contains("flags: qr tc"), "{plain}");
    let size = |said: &str| {
        let line = said
            .lines()
            .find_map(|l| l.strip_prefix(";; MSG SIZE  rcvd: "));
        line.unwrap().parse::<usize>().unwrap()
    };
    assert!(size(&cut) <= 1232 && size(&plain) <= 512, "{cut}{plain}");
    for whole in [world.ask("many.test"), world.ask("+tcp many.test")] {
        assert!(whole.contains(&format!("ANSWER: {MANY}")), "{whole}");
    }
    // Several questions on one connection.
    let several = world.ask("+tcp +keepopen fine.test static.test many.test");
    assert_eq!(several.matches("NOERROR").count(), 3, "{several}");

    // Another resolver is closed, by datagram and connection.
    for way in ["+notcp", "+tcp"] {
        let said = world.dig(&format!("+tries=1 +time=3 {way} @9.9.9.9 fine.test"));
        assert!(!said.contains("9.1.1.1"), "{said}");
    }

    // What changes is for the next lease.
    fs::write(world.list(), "bet.test\nlater.test\n").unwrap();
    provider.wait_for("a domain file has changed", LONG);
    provider.wait_for("offer placed", LONG);
    world.assert_answers("later.test", &["NOERROR", "9.1.1.5"]);
    stop(lease);
    let dropped = provider.wait_for("packets dropped", LONG);
    for reason in ["denied_name", "other_resolver"] {
        assert!(dropped.contains(reason), "no {reason}: {dropped}");
    }
    let _lease = world.lease(2);
    world.assert_answers("later.test", &["REFUSED", "gambling"]);
    world.assert_answers("fine.test", &["NOERROR", "9.1.1.1"]);
}

fn stop(lease: Lease) {
    let Lease { payer, _wireguard } = lease;
    drop(_wireguard);
    payer.signal("INT");
    let ended = payer.finish(LONG);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

#[test]
fn the_userspace_exit_denies_what_its_files_name() {
    denies_what_its_files_name("userspace");
}

#[test]
fn the_kernel_exit_denies_what_its_files_name() {
    denies_what_its_files_name("kernel");
}
