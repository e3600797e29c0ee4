//! The implementations that can be measured, and where their programs are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Name of the pair without a tunnel: the kernel forwards and masquerades alone.
pub const NONE: &str = "none";

/// A program that is one end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Implementation {
    /// The command, words separated by spaces, with `{…}` for what differs from run to run.
    pub command: String,
    /// Whether it makes an interface that routes and the kernel's NAT are set up for. Without one the program carries
    /// packets on by itself, and can only be an exit.
    pub has_interface: bool,
    /// How to get it.
    pub install: String,
    /// Whether it only tells its version when it is started with `--version`.
    tells_version: bool,
}

impl Implementation {
    /// Whether it takes its settings from the command line; if not, `wg setconf` gives them.
    pub(super) fn configures_itself(&self) -> bool {
        ["{conf}", "{key}", "{keyfile}"]
            .iter()
            .any(|field| self.command.contains(field))
    }
}

/// A requester's end and an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Implementation of the requester's end.
    pub client: String,
    /// Implementation of the exit.
    pub exit: String,
}

impl Pair {
    /// Whether there is no tunnel.
    pub fn is_bare(&self) -> bool {
        self.client == NONE
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_bare() {
            return f.write_str("no tunnel");
        }
        write!(f, "{} – {}", self.client, self.exit)
    }
}

/// `CLIENT:EXIT`, or one name for both ends.
impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (client, exit) = text.split_once(':').unwrap_or((text, text));
        if client.is_empty() || exit.is_empty() {
            return Err(format!("'{text}' is no pair; write CLIENT:EXIT"));
        }
        if (client == NONE) != (exit == NONE) {
            return Err(format!("'{NONE}' goes with '{NONE}' only, as in '{NONE}'"));
        }
        Ok(Self {
            client: client.to_owned(),
            exit: exit.to_owned(),
        })
    }
}

/// Everything known by name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    implementations: BTreeMap<String, Implementation>,
    folders: Vec<PathBuf>,
}

/// Name, command, whether it makes an interface, how to install it.
const BUILT_IN: [(&str, &str, bool, &str); 9] = [
    (
        "ipsx",
        "ipsx tunnel {ifname}",
        true,
        "cargo build --release -p ipsx",
    ),
    (
        "ipsx-realtime",
        "ipsx tunnel --realtime {ifname}",
        true,
        "cargo build --release -p ipsx",
    ),
    (
        "ipsx-bare",
        "bare {ifname}",
        true,
        "cargo build --release -p ipsx-tunnel-os --example bare",
    ),
    (
        "ipsx-userspace",
        "lease_exit userspace --key-file {keyfile} --peer {peer_pubkey} --peer-address {peer_addr} \
         --gateway {addr} --listen {listen} --allow {web}/32:any/*",
        false,
        "cargo build --release -p ipsx-benches --bin lease_exit",
    ),
    (
        "ipsx-kernel",
        "lease_exit kernel --interface {wan} --key-file {keyfile} --peer {peer_pubkey} --peer-address {peer_addr} \
         --gateway {addr} --listen {listen} --allow {web}/32:any/*",
        false,
        "cargo build --release -p ipsx-benches --bin lease_exit",
    ),
    (
        "wireguard-go",
        "wireguard-go -f {ifname}",
        true,
        "apt-get install -t CODENAME-backports wireguard-go (Debian's newest has the UDP and TUN offloads)",
    ),
    (
        "boringtun",
        "boringtun-cli -f --disable-drop-privileges {ifname}",
        true,
        "cargo install --locked boringtun-cli",
    ),
    (
        "gotatun",
        "gotatun -f --disable-drop-privileges -v error {ifname}",
        true,
        "cargo install --locked gotatun-cli",
    ),
    (
        "wgslirpy",
        "wgslirpy -k {key} -K {peer_pubkey} -b {listen} -P {web} --mtu {mtu}",
        false,
        "cargo install --locked wgslirpy",
    ),
];

impl Catalogue {
    /// The built-in ones; programs are looked for in `folders`, beside the runner, in its `examples` and in `PATH`.
    pub fn new(folders: &[PathBuf]) -> Self {
        let mut all = Vec::new();
        for folder in folders {
            all.push(folder.clone());
            all.push(folder.join("bin"));
            all.push(folder.join("usr/bin"));
            // A folder of what `cargo install --root` and `dpkg -x` made.
            for below in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                all.push(below.path().join("bin"));
                all.push(below.path().join("usr/bin"));
            }
        }
        if let Ok(runner) = std::env::current_exe()
            && let Some(folder) = runner.parent()
        {
            all.extend([folder.to_owned(), folder.join("examples")]);
        }
        if let Some(path) = std::env::var_os("PATH") {
            all.extend(std::env::split_paths(&path));
        }
        let implementations = BUILT_IN
            .map(|(name, command, has_interface, install)| {
                let implementation = Implementation {
                    command: command.to_owned(),
                    has_interface,
                    install: install.to_owned(),
                    tells_version: !name.starts_with("ipsx-"),
                };
                (name.to_owned(), implementation)
            })
            .into();
        Self {
            implementations,
            folders: all,
        }
    }

    /// Adds or replaces one, written `NAME=COMMAND`.
    pub fn add(&mut self, text: &str, has_interface: bool) -> Result<(), String> {
        let (name, command) = text
            .split_once('=')
            .filter(|(name, command)| !name.is_empty() && !command.trim().is_empty())
            .ok_or_else(|| format!("'{text}' is no implementation; write NAME=COMMAND"))?;
        let implementation = Implementation {
            command: command.trim().to_owned(),
            has_interface,
            install: "it was given on the command line: check its path".to_owned(),
            tells_version: false,
        };
        self.implementations.insert(name.to_owned(), implementation);
        Ok(())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Implementation)> {
        self.implementations
            .iter()
            .map(|(name, implementation)| (name.as_str(), implementation))
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&Implementation> {
        self.implementations.get(name)
    }

    /// Where its program is.
    pub fn program(&self, implementation: &Implementation) -> Option<PathBuf> {
        let word = implementation.command.split_whitespace().next()?;
        if word.contains('/') {
            return Some(PathBuf::from(word)).filter(|path| path.is_file());
        }
        self.folders
            .iter()
            .map(|folder| folder.join(word))
            .find(|path| path.is_file())
    }

    /// Why a pair cannot be measured here; `None` if it can.
    pub fn missing(&self, pair: &Pair) -> Option<String> {
        if pair.is_bare() {
            return None;
        }
        if self.get(&pair.client).is_some_and(|one| !one.has_interface) {
            return Some(format!("{} can only be an exit", pair.client));
        }
        [&pair.client, &pair.exit].into_iter().find_map(|name| {
            let Some(implementation) = self.get(name) else {
                return Some(format!(
                    "{name} is unknown; `list` shows the names, --implementation adds one"
                ));
            };
            self.program(implementation)
                .is_none()
                .then(|| format!("{name} is not installed: {}", implementation.install))
        })
    }

    /// The first line that a program says of its version, if it says one.
    pub fn version(&self, name: &str) -> Option<String> {
        let implementation = self.get(name).filter(|one| one.tells_version)?;
        let path = self.program(implementation)?;
        let output = std::process::Command::new(&path)
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().next()?.trim().to_owned();
        (output.status.success() && !line.is_empty()).then_some(line)
    }

    /// The words of a command, its program first, with every `{…}` of `fields` filled in.
    pub(super) fn words(
        &self,
        implementation: &Implementation,
        fields: &[(&str, &str)],
    ) -> Option<(PathBuf, Vec<String>)> {
        let program = self.program(implementation)?;
        let words = implementation.command.split_whitespace().skip(1);
        Some((program, words.map(|word| fill(word, fields)).collect()))
    }
}

fn fill(word: &str, fields: &[(&str, &str)]) -> String {
    fields.iter().fold(word.to_owned(), |word, (name, value)| {
        word.replace(&format!("{{{name}}}"), value)
    })
}

/// The `--peers` folder that is used when none is given and it exists.
pub fn default_folder(home: &Path) -> PathBuf {
    home.join(".cache/peerbench")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read() {
        let pair: Pair = "wireguard-go:ipsx".parse().unwrap();
        assert_eq!(pair.to_string(), "wireguard-go – ipsx");
        let same: Pair = "ipsx".parse().unwrap();
        assert_eq!((same.client, same.exit), ("ipsx".into(), "ipsx".into()));
        assert!("none".parse::<Pair>().unwrap().is_bare());
        for bad in ["", ":ipsx", "ipsx:", "none:ipsx", "ipsx:none"] {
            assert!(bad.parse::<Pair>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commands_are_filled_and_missing_programs_named() {
        let mut catalogue = Catalogue::new(&[]);
        catalogue
            .add("mine=/bin/sh -c {ifname}/{mtu} {ifname}", true)
            .unwrap();
        let mine = catalogue.get("mine").unwrap();
        assert!(!mine.configures_itself());
        let (program, words) = catalogue
            .words(mine, &[("ifname", "wg7"), ("mtu", "1420")])
            .unwrap();
        assert_eq!(program, Path::new("/bin/sh"));
        assert_eq!(words, ["-c", "wg7/1420", "wg7"]);
        assert_eq!(catalogue.missing(&"mine".parse().unwrap()), None);

        catalogue
            .add("gone=/no/such/program {conf}", false)
            .unwrap();
        assert!(catalogue.get("gone").unwrap().configures_itself());
        let missing = catalogue.missing(&"mine:gone".parse().unwrap()).unwrap();
        assert!(missing.contains("gone is not installed"), "{missing}");
        let missing = catalogue.missing(&"gone:mine".parse().unwrap()).unwrap();
        assert!(missing.contains("only be an exit"), "{missing}");
        let missing = catalogue.missing(&"mine:other".parse().unwrap()).unwrap();
        assert!(missing.contains("unknown"), "{missing}");
        assert!(catalogue.add("nothing", true).is_err());
        assert!(catalogue.add("=x", true).is_err());
    }
}
