//! The connection record of a kernel exit, which the kernel's own list of flows is the source of.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use ipsx_tests::namespace::Namespace;
use ipsx_tests::program::Program;
use ipsx_tests::web;
use serde_json::Value;

use super::{PROVIDER, WEB, World, stop};

/// A running lease's receipt, which proves its records, is on disk this soon.
const PROVEN: Duration = Duration::from_secs(90);

/// What `ipsx disclose` answers for a port, now; why not otherwise.
fn disclose(world: &World, port: u16, more: &[&str]) -> Result<Value, String> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (time, port) = (now.to_string(), port.to_string());
    let mut words = vec!["disclose", "--time", &time, "--source-port", &port];
    words.extend(["--tolerance", "120"]);
    words.extend(more);
    let output = world.provider_command(&words).arg("--json").output();
    let output = output.unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// The same, once a receipt proves it.
fn proven(world: &World, port: u16, more: &[&str]) -> Value {
    let deadline = Instant::now() + PROVEN;
    loop {
        match disclose(world, port, more) {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < deadline, "port {port}: {why}"),
        }
        sleep(Duration::from_secs(2));
    }
}

/// From where the web sees a request of this client.
fn from(namespace: &Namespace) -> SocketAddr {
    let mut curl = namespace.command("curl");
    let retry = [
        "--retry",
        "10",
        "--retry-all-errors",
        "--connect-timeout",
        "5",
    ];
    let seen = web::run(curl.args(retry), &format!("http://{WEB}:8080/from"));
    seen.body.parse().unwrap_or_else(|_| panic!("{seen:?}"))
}

/// From where it sees a datagram.
fn datagram_from(namespace: &Namespace) -> SocketAddr {
    let script = format!("exec 3<>/dev/udp/{WEB}/8080; echo hello >&3; timeout 10 head -n 1 <&3");
    let mut bash = namespace.command("bash");
    let output = bash.args(["-c", &script]).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    seen.trim().parse().unwrap_or_else(|_| panic!("{seen:?}"))
}

/// Opens a connection that stays, and says from where the web sees it.
fn keep_open(namespace: &Namespace) -> (Program, SocketAddr) {
    let script = format!(
        r#"exec 3<>/dev/tcp/{WEB}/8080; printf 'GET /from HTTP/1.1\r\n\r\n' >&3; while read -r line <&3; do :; done; echo "$line"; exec sleep 120"#
    );
    let mut bash = namespace.command("bash");
    let mut program = Program::start("bash", bash.args(["-c", &script]));
    let seen = program.wait_for(":", Duration::from_secs(30));
    (program, seen.trim().parse().unwrap())
}

/// Whose connection an answer shows, and which.
fn shown(answer: &Value) -> (&str, &str, &str, u64) {
    let record = &answer["record"];
    (
        answer["deal"]["requester"].as_str().unwrap(),
        record["transport"].as_str().unwrap(),
        record["destination"].as_str().unwrap(),
        record["source_port"].as_u64().unwrap(),
    )
}

#[test]
fn the_record_names_the_lease_of_every_outside_port_of_a_shared_address() {
    let world = World::new("kc", None);
    let provider = world.start_provider_from(&format!("{PROVIDER}/32"));
    let _web = world.start_web();
    let (first, second) = (world.lease(1), world.lease(2));
    let (of_a, of_b) = (from(&world.a), from(&world.b));
    assert_eq!(of_a.ip(), of_b.ip(), "both leave from one address");
    let datagram = datagram_from(&world.b);
    let (_open, kept) = keep_open(&world.a);
    let ping = world
        .a
        .command("ping")
        .args(["-c", "2", "-e", "4321", WEB])
        .output()
        .unwrap();
    assert!(ping.status.success(), "{ping:?}");

    let web = format!("{WEB}:8080");
    let echoed = format!("{WEB}:0");
    for (wallet, port, transport, destination) in [
        (1, of_a.port(), "tcp", &web),
        (2, of_b.port(), "tcp", &web),
        (2, datagram.port(), "udp", &web),
        (1, kept.port(), "tcp", &web),
        (1, 4321, "icmp", &echoed),
    ] {
        let more: &[&str] = if transport == "icmp" {
            &["--transport", "icmp"]
        } else {
            &[]
        };
        let answer = proven(&world, port, more);
        let wallet = world.wallets[wallet].address.to_lowercase();
        let found = shown(&answer);
        assert_eq!(found.0.to_lowercase(), wallet, "{answer:#}");
        assert_eq!(
            (found.1, found.2, found.3),
            (transport, destination.as_str(), u64::from(port)),
            "{answer:#}"
        );
    }
    let running = proven(&world, kept.port(), &[]);
    assert_eq!(running["record"]["end"], Value::Null, "it is open still");
    // Nobody asks for an echo by a port, and of a port that was not used there is nothing.
    for unknown in [4321, 9] {
        let why = disclose(&world, unknown, &[]).unwrap_err();
        assert!(why.contains("no connection from port"), "{why}");
    }

    let file = world.market.path().join("answer.json");
    let file = file.to_str().unwrap();
    let answer = disclose(&world, datagram.port(), &["--output", file]).unwrap();
    let verified = world.market.run(&world.wallets[1], &["verify", file]);
    let checks = verified["checked"].as_array().unwrap();
    assert!(
        !checks.is_empty() && checks.iter().all(|check| check["holds"] == true),
        "{verified:#}"
    );
    let text = answer.to_string();
    for other in [of_a, of_b, kept] {
        assert!(
            !text.contains(&format!("\"source_port\":{}", other.port())),
            "{text}"
        );
    }
    stop(first.payer);
    stop(second.payer);
    stop(provider);
}
