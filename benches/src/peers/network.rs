//! The three namespaces, and a pair of implementations running in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipsx_tests::namespace::{Namespace, run};

use super::catalogue::{Catalogue, Implementation, Pair};
use super::process::Process;
use super::{Failure, interrupt};

/// The web server's address.
pub(super) const WEB: &str = "10.70.2.2";
/// Port of the echo that round trips are measured with.
pub(super) const ECHO_PORT: u16 = 7007;

const EXIT_OUTER: &str = "10.70.1.1";
const CLIENT_INNER: &str = "10.70.9.2";
const EXIT_INNER: &str = "10.70.9.1";
const PORT: &str = "51820";
const SOON: Duration = Duration::from_secs(10);

/// How the network is built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// MTU of the tunnels.
    pub(super) mtu: u16,
    /// Whether the veth pairs cut and join segments for the programs, as a good network card does.
    pub(super) offloads: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Exit,
}

/// A pair at work. Everything goes when it is dropped, the processes first.
pub(super) struct Network {
    client: Option<Process>,
    exit: Option<Process>,
    _servers: [Process; 2],
    sockets: Vec<PathBuf>,
    requester: Namespace,
    exit_space: Namespace,
    _web: Namespace,
    folder: tempfile::TempDir,
}

struct Keys {
    private: [String; 2],
    public: [String; 2],
}

impl Network {
    /// Builds the namespaces, starts the pair and waits until packets pass.
    pub(super) fn start(catalogue: &Catalogue, pair: &Pair, shape: Shape) -> Result<Self, Failure> {
        let folder = tempfile::tempdir().map_err(Failure::system("making a folder for logs"))?;
        let [requester, exit_space, web] = ["requester", "exit", "web"].map(Namespace::new);
        join(&requester, &exit_space, &web, shape);
        let mut iperf3 = web.command("iperf3");
        iperf3.arg("--server");
        let mut echo = stopwatch(&web)?;
        echo.args(["echo", &format!("0.0.0.0:{ECHO_PORT}")]);
        let servers = [
            Process::start("iperf3-server", &mut iperf3, folder.path())?,
            Process::start("echo", &mut echo, folder.path())?,
        ];
        let mut network = Self {
            client: None,
            exit: None,
            _servers: servers,
            sockets: Vec::new(),
            requester,
            exit_space,
            _web: web,
            folder,
        };
        if pair.is_bare() {
            network.forward();
            network
                .requester
                .ip(&["route", "add", "default", "via", EXIT_OUTER]);
        } else {
            network.start_pair(catalogue, pair, shape.mtu)?;
        }
        network.wait_for_path()?;
        Ok(network)
    }

    fn start_pair(&mut self, catalogue: &Catalogue, pair: &Pair, mtu: u16) -> Result<(), Failure> {
        let keys = Keys::generate(self.folder.path())?;
        for (role, name) in [(Role::Exit, &pair.exit), (Role::Client, &pair.client)] {
            let implementation = catalogue
                .get(name)
                .ok_or_else(|| Failure::Said(format!("{name} is unknown")))?;
            if role == Role::Exit && implementation.has_interface {
                self.forward();
            }
            let process = self.start_end(catalogue, implementation, role, &keys, mtu)?;
            match role {
                Role::Client => self.client = Some(process),
                Role::Exit => self.exit = Some(process),
            }
        }
        Ok(())
    }

    /// The kernel forwards and masquerades: for exits that are only a WireGuard interface.
    fn forward(&self) {
        let inside = |program: &str, words: &[&str]| {
            let name = self.exit_space.name();
            run("ip", &[&["netns", "exec", name, program], words].concat());
        };
        inside("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        inside("nft", &["add table ip peers"]);
        inside(
            "nft",
            &["add chain ip peers out { type nat hook postrouting priority srcnat; }"],
        );
        inside("nft", &["add rule ip peers out oifname wan masquerade"]);
    }

    fn start_end(
        &mut self,
        catalogue: &Catalogue,
        implementation: &Implementation,
        role: Role,
        keys: &Keys,
        mtu: u16,
    ) -> Result<Process, Failure> {
        let (label, namespace, own, address) = match role {
            Role::Client => ("client", &self.requester, 0, CLIENT_INNER),
            Role::Exit => ("exit", &self.exit_space, 1, EXIT_INNER),
        };
        let other = 1 - own;
        // Unique on this machine: the control sockets are in no namespace.
        let interface = format!("pb{own}-{}", std::process::id());
        let conf = self.folder.path().join(format!("{label}.conf"));
        let conf_text = path_text(&conf)?;
        write(&conf, &keys.configuration(role))?;
        let key_file = self.folder.path().join(format!("{label}.key"));
        write(&key_file, &keys.private[own])?;
        let fields = [
            ("ifname", interface.as_str()),
            ("conf", conf_text),
            ("addr", address),
            ("peer_addr", [CLIENT_INNER, EXIT_INNER][other]),
            ("listen", &format!("0.0.0.0:{PORT}")),
            ("endpoint", &format!("{EXIT_OUTER}:{PORT}")),
            ("key", &keys.private[own]),
            ("keyfile", path_text(&key_file)?),
            ("pubkey", &keys.public[own]),
            ("peer_pubkey", &keys.public[other]),
            ("mtu", &mtu.to_string()),
            ("web", WEB),
            ("wan", "wan"),
        ];
        let (program, words) = catalogue
            .words(implementation, &fields)
            .ok_or_else(|| Failure::Said(format!("not installed: {}", implementation.install)))?;
        let mut command = namespace.command(program);
        command.args(words).env("LOG_LEVEL", "error");
        let mut process = Process::start(label, &mut command, self.folder.path())?;
        if !implementation.configures_itself() {
            let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
            self.sockets.push(socket.clone());
            let made = interrupt::wait(SOON, || {
                process.check_running()?;
                Ok(socket.exists().then_some(()))
            })?;
            if made.is_none() {
                return Err(process.complaint(&format!("makes no {}", socket.display())));
            }
            let mut wg = namespace.command("wg");
            wg.args(["setconf", &interface, conf_text]);
            Process::start("wg", &mut wg, self.folder.path())?.succeed(SOON)?;
        }
        if implementation.has_interface {
            let cidr = format!("{address}/24");
            namespace.ip(&["address", "add", &cidr, "dev", &interface]);
            let mtu = mtu.to_string();
            namespace.ip(&["link", "set", &interface, "mtu", &mtu, "up"]);
            if role == Role::Client {
                namespace.ip(&["route", "add", "default", "dev", &interface]);
            }
        }
        process.check_running()?;
        Ok(process)
    }

    fn wait_for_path(&mut self) -> Result<(), Failure> {
        let passed = interrupt::wait(SOON, || {
            self.check_running()?;
            Ok((self.probe("path", 1, 1)?.len() == 1).then_some(()))
        })?;
        match (passed, &self.exit) {
            (Some(()), _) => Ok(()),
            (None, Some(exit)) => Err(exit.complaint("lets nothing pass")),
            (None, None) => Err(Failure::Said("nothing passes without a tunnel".to_owned())),
        }
    }

    /// Fails if an end of the tunnel has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Failure> {
        self.exit
            .iter_mut()
            .chain(self.client.iter_mut())
            .try_for_each(Process::check_running)
    }

    /// Round trips from the requester to the web, seconds.
    pub(super) fn probe(
        &self,
        name: &str,
        count: usize,
        every_ms: usize,
    ) -> Result<Vec<f64>, Failure> {
        let mut command = stopwatch(&self.requester)?;
        command.args([
            "probe",
            &format!("{WEB}:{ECHO_PORT}"),
            &count.to_string(),
            &every_ms.to_string(),
        ]);
        let text = Process::start(name, &mut command, self.folder.path())?
            .succeed(Duration::from_secs(60))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Starts a program in the requester's namespace.
    pub(super) fn at_requester(&self, name: &str, words: &[&str]) -> Result<Process, Failure> {
        let (program, words) = words
            .split_first()
            .ok_or_else(|| Failure::Said("no program".to_owned()))?;
        let mut command = self.requester.command(program);
        Process::start(name, command.args(words), self.folder.path())
    }

    /// Process of the requester's end of the tunnel.
    pub(super) fn client_id(&self) -> Option<u32> {
        self.client.as_ref().map(Process::id)
    }

    /// Process of the exit.
    pub(super) fn exit_id(&self) -> Option<u32> {
        self.exit.as_ref().map(Process::id)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.client = None;
        self.exit = None;
        // A program that was killed leaves its control socket.
        for socket in &self.sockets {
            let _ = fs::remove_file(socket);
        }
    }
}

impl Keys {
    fn generate(folder: &Path) -> Result<Self, Failure> {
        let private = [(); 2].map(|()| run("wg", &["genkey"]).trim().to_owned());
        let mut public = [String::new(), String::new()];
        for (own, key) in private.iter().enumerate() {
            let file = folder.join("key");
            write(&file, key)?;
            let script = format!("wg pubkey < {}", path_text(&file)?);
            public[own] = run("sh", &["-c", &script]).trim().to_owned();
        }
        Ok(Self { private, public })
    }

    fn configuration(&self, role: Role) -> String {
        let [client, exit] = &self.private;
        let [client_public, exit_public] = &self.public;
        match role {
            Role::Client => format!(
                "[Interface]\nPrivateKey = {client}\n[Peer]\nPublicKey = {exit_public}\n\
                 Endpoint = {EXIT_OUTER}:{PORT}\nAllowedIPs = 0.0.0.0/0\nPersistentKeepalive = 25\n"
            ),
            Role::Exit => format!(
                "[Interface]\nPrivateKey = {exit}\nListenPort = {PORT}\n\
                 [Peer]\nPublicKey = {client_public}\nAllowedIPs = {CLIENT_INNER}/32\n"
            ),
        }
    }
}

fn join(requester: &Namespace, exit: &Namespace, web: &Namespace, shape: Shape) {
    requester.join(
        ("access", "10.70.1.2/24"),
        exit,
        ("tunnels", "10.70.1.1/24"),
    );
    exit.join(("wan", "10.70.2.1/24"), web, ("lan", "10.70.2.2/24"));
    if shape.offloads {
        return;
    }
    for (namespace, interface) in [
        (requester, "access"),
        (exit, "tunnels"),
        (exit, "wan"),
        (web, "lan"),
    ] {
        let mut words = vec![
            "netns",
            "exec",
            namespace.name(),
            "ethtool",
            "-K",
            interface,
        ];
        words.extend(["tso", "off", "gso", "off", "gro", "off"]);
        words.extend(["tx-udp-segmentation", "off"]);
        run("ip", &words);
    }
}

/// This program, to send or answer probes. It gets a processor as soon as it has something to do: what a round trip
/// takes is then the network's time, and not the time for which the probes waited behind iperf3.
fn stopwatch(namespace: &Namespace) -> Result<Command, Failure> {
    let runner = std::env::current_exe().map_err(Failure::system("looking for the own program"))?;
    let mut command = namespace.command("chrt");
    command.args(["--rr", "1"]).arg(runner);
    Ok(command)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, format!("{text}\n")).map_err(Failure::system(path.display().to_string()))
}

fn path_text(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::Said(format!("{} is no UTF-8", path.display())))
}
