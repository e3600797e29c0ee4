//! A provider whose packets the kernel forwards: each lease leaves from an address of its own, stock clients use them,
//! and whatever the provider changed on its host is undone, however it ends.
//!
//! ```text
//! a 10.99.0.1 ──── 10.99.0.2 provider and broker 10.98.0.1 ──── 10.98.0.2 web
//! b 10.96.0.1 ──── 10.96.0.2          leases leave from 10.97.0.8/29
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

mod connections;
mod own_connections;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipsx_tests::market::{Market, SOON, Wallet};
use ipsx_tests::namespace::{Namespace, run};
use ipsx_tests::program::{Program, built};
use ipsx_tests::{stock_client, web};
use serde_json::Value;

const WEB: &str = "10.98.0.2";
/// The provider's own addresses: where the broker sees it, and where it leaves from without leases.
const PROVIDER: &str = "10.97.0.9";
const PROVIDER_WAN: &str = "10.98.0.1";
/// The provider's address inside the tunnel.
const GATEWAY: &str = "10.64.0.1";
const RANGE: &str = "10.97.0.8/29";
/// The hosts of the range.
const LEASED: [&str; 6] = [
    "10.97.0.9",
    "10.97.0.10",
    "10.97.0.11",
    "10.97.0.12",
    "10.97.0.13",
    "10.97.0.14",
];
/// A lease may take this long to end in order.
const END: Duration = Duration::from_secs(60);

struct World {
    label: &'static str,
    a: Namespace,
    b: Namespace,
    provider: Namespace,
    web: Namespace,
    market: Market,
    wallets: [Wallet; 3],
}

/// One requester with its stock client.
struct Client {
    payer: Program,
    _wireguard: Program,
}

impl World {
    /// The namespaces with a broker. `label` keeps the tests of one process apart, and `user` is who runs providers.
    fn new(label: &'static str, user: Option<&'static str>) -> Self {
        let [a, b, provider, web] =
            ["a", "b", "exit", "web"].map(|side| Namespace::new(&format!("{label}{side}")));
        a.join(
            ("out", "10.99.0.1/24"),
            &provider,
            ("veth-a", "10.99.0.2/24"),
        );
        b.join(
            ("out", "10.96.0.1/24"),
            &provider,
            ("veth-b", "10.96.0.2/24"),
        );
        b.ip(&["route", "add", "10.99.0.2/32", "via", "10.96.0.2"]);
        let wan = format!("{PROVIDER_WAN}/24");
        provider.join(("wan", &wan), &web, ("veth-web", &format!("{WEB}/24")));
        provider.ip(&["address", "add", &format!("{PROVIDER}/32"), "dev", "wan"]);
        web.ip(&["route", "add", RANGE, "via", PROVIDER_WAN]);
        let names = [&a, &b, &provider].map(|namespace| namespace.name().to_owned());
        let inside = move |program: &str| {
            let (name, side) = program.split_once(':').unwrap_or((program, ""));
            let namespace = match side {
                "a" => &names[0],
                "b" => &names[1],
                _ => &names[2],
            };
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]);
            if let (Some(user), "provider") = (user, side) {
                command.args(["sh", "-c", AS_USER, user]);
            }
            command.arg(built(name).get_program());
            command
        };
        let mut market = Market::new("10.99.0.2", &[(RANGE, "FR")], Box::new(inside));
        let wallets = ["provider", "a", "b"].map(|name| market.wallet(name));
        market.start_broker();
        // Link-local addresses are tried out first, which would look like a change.
        let tentative = || {
            run(
                "ip",
                &["-n", provider.name(), "address", "show", "tentative"],
            )
        };
        while !tentative().is_empty() {
            std::thread::sleep(Duration::from_millis(100));
        }
        Self {
            label,
            a,
            b,
            provider,
            web,
            market,
            wallets,
        }
    }

    /// A provider with a kernel exit whose offer is placed.
    fn start_provider(&self) -> Program {
        self.start_provider_from(RANGE)
    }

    /// The same, with leases that leave from these addresses.
    fn start_provider_from(&self, range: &str) -> Program {
        let range = format!("{range}%wan");
        let mut command = self.provider_command(&[
            "provide",
            "--accept-consent",
            "--price-per-second",
            "0.001",
            "--tier",
            "open",
            "--allow",
            "10.98.0.2/32:any/*",
            "--bind",
            PROVIDER,
            "--listen",
            "10.99.0.2:0",
            "--exit",
            "kernel",
            "--egress",
            &range,
        ]);
        let mut provider = Program::start("provider", &mut command);
        provider.wait_for("offer placed", SOON);
        provider
    }

    fn provider_command(&self, words: &[&str]) -> Command {
        self.market
            .ipsx_as("ipsx:provider", &self.wallets[0].data, words)
    }

    /// A lease for requester 1 (a) or 2 (b), used by a stock client.
    fn lease(&self, number: usize) -> Client {
        let (side, namespace) = [("a", &self.a), ("b", &self.b)][number - 1];
        let wallet = &self.wallets[number];
        self.market.run(wallet, &["deposit", "10"]);
        let file = self.market.path().join(format!("{side}.conf"));
        let mut words = vec!["connect", "--country", "FR", "--duration", "5m"];
        words.extend(["--budget", "1", "--export", "wg", file.to_str().unwrap()]);
        let program = format!("ipsx:{side}");
        let mut command = self.market.ipsx_as(&program, &wallet.data, &words);
        let mut payer = Program::start("connect --export", &mut command);
        payer.wait_for(".conf", SOON);
        // Unique on this machine: the control sockets are not in any namespace.
        let interface = format!("{}{side}{}", self.label, std::process::id() % 100_000);
        let routed = [WEB, PROVIDER_WAN, GATEWAY];
        let wireguard = stock_client::start(namespace, &interface, &file, &routed);
        Client {
            payer,
            _wireguard: wireguard,
        }
    }

    /// The address that the web sees.
    fn seen(&self, namespace: &Namespace) -> String {
        let mut curl = namespace.command("curl");
        let retry = [
            "--retry",
            "10",
            "--retry-all-errors",
            "--connect-timeout",
            "5",
        ];
        let seen = web::run(curl.args(retry), &format!("http://{WEB}:8080/"));
        assert_eq!(seen.status, 200, "{seen:?}");
        seen.body
    }

    fn start_web(&self) -> Program {
        let mut origin = self.web.command(env!("CARGO_BIN_EXE_origin"));
        Program::start("origin", origin.arg("0.0.0.0:8080"))
    }

    /// All that a kernel exit changes on the provider's host.
    fn host(&self) -> Vec<String> {
        let script = "nft list ruleset; ip rule; ip -6 rule; ip -o address | sed 's/ *valid_lft.*//'; \
                      ip route show table all | sort; ip -6 route show table all | sort; \
                      cd /proc/sys/net; grep -s . netfilter/nf_conntrack_acct ipv4/conf/*/forwarding ipv4/conf/*/rp_filter \
                      ipv6/conf/*/forwarding ipv6/conf/*/force_forwarding ipv6/conf/*/accept_ra";
        let output = self
            .provider
            .command("sh")
            .args(["-c", script])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn records(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.wallets[0].data).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.to_str().unwrap().contains("kernel-exit"))
            .collect()
    }

    /// Waits until the packet filter's set of this host's own networks names one, or does not.
    fn wait_for_own(&self, network: &str, named: bool) {
        let words = ["list", "set", "inet", "ipsx_ipsx0", "own_v4"];
        let begin = std::time::Instant::now();
        loop {
            let listed = self.provider.command("nft").args(words).output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            if listed.contains(network) == named {
                return;
            }
            assert!(begin.elapsed() < END, "{network} {named}: {listed}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn has_address(&self, address: &str) -> bool {
        let needle = format!("inet {address}/");
        self.host().iter().any(|line| line.contains(&needle))
    }
}

/// Runs a program as a user with no capability but CAP_NET_ADMIN, on a host where anybody may open /dev/net/tun, as
/// udev sets it up.
const AS_USER: &str = r#"
node=$(mktemp -d) && mknod -m 666 "$node/tun" c 10 200 && mount --bind "$node/tun" /dev/net/tun &&
exec setpriv --reuid "$0" --regid "$0" --clear-groups --inh-caps=-all,+net_admin --ambient-caps=+net_admin \
    --bounding-set=-all,+net_admin --no-new-privs "$@"
"#;

fn stop(program: Program) {
    program.signal("INT");
    let ended = program.finish(END);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

fn sold(world: &World, number: usize) -> String {
    let leases = world
        .market
        .run(&world.wallets[number], &["leases", "--all"]);
    let lease = &leases["leases"][0];
    let address: &Value = &lease["exit_address"];
    address
        .as_str()
        .unwrap_or_else(|| panic!("{lease}"))
        .to_owned()
}

#[test]
fn each_lease_leaves_from_an_address_of_its_own_and_nothing_is_left_in_the_end() {
    let world = World::new("kx", None);
    let before = world.host();
    let provider = world.start_provider();
    let _web = world.start_web();
    let first = world.lease(1);
    let second = world.lease(2);

    let addresses = [world.seen(&world.a), world.seen(&world.b)];
    assert_ne!(addresses[0], addresses[1]);
    for (number, address) in (1..).zip(&addresses) {
        assert!(LEASED.contains(&address.as_str()), "{address}");
        assert_eq!(
            *address,
            sold(&world, number),
            "what is sold is what is seen"
        );
        assert!(world.has_address(address));
    }
    let ping = |address: &str| {
        let mut ping = world.a.command("ping");
        ping.args(["-c", "3", "-W", "5", address]).output().unwrap()
    };
    let outside = ping(WEB);
    assert!(outside.status.success(), "{outside:?}");
    let gateway = ping(GATEWAY);
    assert!(gateway.status.success(), "{gateway:?}");
    let own = ping(PROVIDER_WAN);
    assert!(
        !own.status.success(),
        "the provider's own address answers: {own:?}"
    );

    stop(first.payer);
    let gone = &addresses[0];
    for _ in 0..100 {
        if *gone == PROVIDER || !world.has_address(gone) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        world.has_address(gone),
        *gone == PROVIDER,
        "{gone} outlives its lease"
    );
    assert_eq!(
        world.seen(&world.b),
        addresses[1],
        "the other lease goes on"
    );

    // The table follows what this host has: for each lease, and what others give it and take away.
    world.wait_for_own(&addresses[1], true);
    world.wait_for_own(gone, *gone == PROVIDER);
    for (verb, named) in [("add", true), ("delete", false)] {
        world
            .provider
            .ip(&["address", verb, "10.55.0.1/24", "dev", "wan"]);
        world.wait_for_own("10.55.0.0/24", named);
    }
    stop(second.payer);
    stop(provider);
    assert_eq!(world.host(), before);
    assert_eq!(world.records(), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_provider_leaves_is_undone_by_the_clean_up_and_by_the_next_start() {
    let world = World::new("kk", None);
    let before = world.host();
    let mut provider = world.start_provider();
    let _web = world.start_web();
    let client = world.lease(1);
    let address = world.seen(&world.a);
    provider.kill();
    let left = world.host();
    assert!(
        left.iter().any(|line| line.contains("table inet ipsx_")),
        "{left:#?}"
    );
    assert!(world.has_address(&address));
    for record in world.records() {
        let mode = fs::metadata(&record).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", record.display());
    }
    let cleaned = world.market.run_as(
        "ipsx:provider",
        &world.wallets[0],
        &["provide", "--clean-up"],
    );
    assert_eq!(cleaned["cleaned_up"], serde_json::json!(["ipsx0"]));
    assert_eq!(world.host(), before);
    assert_eq!(world.records(), Vec::<PathBuf>::new());
    drop(client);

    let mut second = world.start_provider();
    second.kill();
    assert_ne!(world.host(), before);
    let third = world.start_provider();
    let tables = run(
        "ip",
        &[
            "netns",
            "exec",
            world.provider.name(),
            "nft",
            "list",
            "tables",
        ],
    );
    assert_eq!(tables.lines().count(), 1, "{tables}");
    stop(third);
    assert_eq!(world.host(), before);
}

#[test]
fn a_provider_whose_interface_is_deleted_ends_and_leaves_nothing() {
    let world = World::new("kd", None);
    let before = world.host();
    let provider = world.start_provider();
    world.provider.ip(&["link", "delete", "ipsx0"]);
    let ended = provider.finish(END);
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("interface was deleted"), "{ended:#?}");
    assert_eq!(world.host(), before);
    assert_eq!(world.records(), Vec::<PathBuf>::new());
}

#[test]
fn a_user_with_cap_net_admin_alone_can_run_it() {
    const USER: &str = "65534";
    let world = World::new("ku", Some(USER));
    let data: &Path = &world.wallets[0].data;
    let folder = world.market.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let owner = format!("{USER}:{USER}");
    run("chown", &["-R", &owner, data.to_str().unwrap()]);
    let before = world.host();
    let provider = world.start_provider();
    let _web = world.start_web();
    let client = world.lease(1);
    assert!(LEASED.contains(&world.seen(&world.a).as_str()));
    stop(client.payer);
    stop(provider);
    assert_eq!(world.host(), before);
}
