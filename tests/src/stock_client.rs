//! A stock WireGuard client: `wireguard-go`, set up by `wg` and `ip`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::program::Program;

/// Brings one up from a wg-quick file: what wg-quick does, less the names of the host's resolver.
///
/// It routes these addresses through the tunnel, and nothing else: not the way to the provider itself.
pub fn start(namespace: &Namespace, interface: &str, file: &Path, routed: &[&str]) -> Program {
    let mut command = namespace.command("wireguard-go");
    command
        .args(["--foreground", interface])
        .env("LOG_LEVEL", "error");
    let daemon = Program::start("wireguard-go", &mut command);
    let socket = format!("/var/run/wireguard/{interface}.sock");
    for _ in 0..100 {
        if Path::new(&socket).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = fs::read_to_string(file).unwrap();
    let stripped = file.with_extension("stripped");
    let quick_only = ["Address", "DNS", "MTU"];
    let kept: Vec<_> = text
        .lines()
        .filter(|l| !quick_only.iter().any(|k| l.trim_start().starts_with(k)))
        .collect();
    fs::write(&stripped, kept.join("\n") + "\n").unwrap();
    let set = namespace
        .command("wg")
        .arg("setconf")
        .arg(interface)
        .arg(&stripped)
        .status()
        .unwrap();
    assert!(set.success(), "wg refuses {}", kept.join("\n"));
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix('='))
            .unwrap_or_default();
        line.split(',')
            .map(|v| v.trim().to_owned())
            .collect::<Vec<_>>()
    };
    for address in value("Address") {
        let words = ["address", "add", &address, "dev", interface];
        let nodad = if address.contains(':') {
            &["nodad"][..]
        } else {
            &[]
        };
        namespace.ip(&[&words[..], nodad].concat());
    }
    let mtu = value("MTU")[0].clone();
    namespace.ip(&["link", "set", interface, "mtu", &mtu, "up"]);
    for address in routed {
        namespace.ip(&["route", "add", address, "dev", interface]);
    }
    daemon
}
