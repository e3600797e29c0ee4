//! Network namespaces of the test's own: made, joined by veth pairs, and taken away again.

use std::path::Path;
use std::process::Command;

/// A namespace; its processes, interfaces and routes go with it when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one with loopback up. The name carries the test's process id, so that runs do not meet.
    pub fn new(label: &str) -> Self {
        let name = format!("ipsx-{label}-{}", std::process::id());
        let namespace = Self { name };
        run("ip", &["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` with these words inside the namespace.
    pub fn ip(&self, words: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(words);
        run("ip", &all);
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Joins two namespaces by a veth pair with these addresses in CIDR notation.
    pub fn join(&self, own: (&str, &str), other: &Self, others: (&str, &str)) {
        run(
            "ip",
            &[
                "link",
                "add",
                own.0,
                "netns",
                &self.name,
                "type",
                "veth",
                "peer",
                "name",
                others.0,
                "netns",
                &other.name,
            ],
        );
        for (namespace, (interface, address)) in [(self, own), (other, others)] {
            namespace.ip(&["address", "add", address, "dev", interface]);
            namespace.ip(&["link", "set", interface, "up"]);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}

/// Runs a command that must succeed and returns what it printed.
pub fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
