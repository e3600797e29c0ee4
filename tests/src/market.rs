//! A private network as its people would run it: one broker process, wallets, provider and requester processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use ipsx_settlement::{self as settlement, Passphrase, Sealing};
use serde_json::Value;
use tempfile::TempDir;

use crate::geography;
use crate::port;
use crate::program::{Program, built};
use crate::requester::Requester;

/// Long enough for a program to be ready on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A network in a folder of its own.
pub struct Market {
    folder: TempDir,
    /// The broker, while it runs.
    pub broker: Option<Program>,
    http: String,
    agents: String,
    admin: String,
    funded: Vec<String>,
    /// What the broker is told of a chain that is not its own.
    chain: Vec<String>,
    /// What it is told besides.
    words: Vec<String>,
    command: Rc<dyn Fn(&str) -> Command>,
}

/// A wallet with its data directory.
#[derive(Clone)]
pub struct Wallet {
    /// What `--data` takes.
    pub data: PathBuf,
    /// Its address.
    pub address: String,
}

impl Market {
    /// A network on loopback whose database knows 127.0.1.1 as FR, .2 as DE and .3 as JP.
    pub fn on_loopback() -> Self {
        let places = [
            ("127.0.1.1/32", "FR"),
            ("127.0.1.2/32", "DE"),
            ("127.0.1.3/32", "JP"),
        ];
        Self::new("127.0.0.1", &places, Box::new(built))
    }

    /// A network whose broker listens on `address`, with each program started as `command` says.
    pub fn new(
        address: &str,
        places: &[(&str, &str)],
        command: Box<dyn Fn(&str) -> Command>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        geography::write_database(&folder.path().join("places.mmdb"), places);
        fs::write(
            folder.path().join("passphrase"),
            "correct horse battery staple\n",
        )
        .unwrap();
        let host = address.parse().unwrap();
        let free = || port::free(host).to_string();
        Self {
            folder,
            broker: None,
            http: free(),
            agents: free(),
            admin: free(),
            funded: Vec::new(),
            chain: Vec::new(),
            words: Vec::new(),
            command: command.into(),
        }
    }

    /// The same on a node and a contract that are there already, with this keystore as the operator's; whoever needs gas
    /// or tokens has to be given some.
    pub fn on_node(mut self, rpc: &str, centralizer: &str, operator: &Path) -> Self {
        let operator = operator.display().to_string();
        let passphrase = self.path().join("passphrase").display().to_string();
        let words = [
            ["--chain", "rpc"],
            ["--rpc-url", rpc],
            ["--rpc-finality", "0"],
            ["--centralizer", centralizer],
            ["--wallet", &operator],
            ["--passphrase-file", &passphrase],
        ];
        self.chain = words.concat().into_iter().map(String::from).collect();
        self
    }

    /// Another broker of the network that this one runs, on this one's chain and under the same operator; not started.
    pub fn sibling(&self) -> Self {
        let first: SocketAddr = self.http.parse().unwrap();
        let free = || port::free(first.ip()).to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        // A thread of its own: whoever calls may be on another runtime's.
        let info = std::thread::spawn(move || runtime.unwrap().block_on(Requester::network(first)));
        let info = info.join().unwrap();
        let own = |name: &str| self.path().join("broker").join(name).display().to_string();
        let words = [
            ["--chain", "rpc"],
            ["--rpc-url", &format!("http://{}/rpc", self.http)],
            ["--rpc-finality", "0"],
            ["--centralizer", &info.domain.contract.to_string()],
            ["--network", &info.network.to_string()],
            ["--wallet", &own("operator.json")],
            ["--passphrase-file", &own("operator.passphrase")],
        ];
        let folder = tempfile::tempdir().unwrap();
        let places = "places.mmdb";
        fs::copy(self.path().join(places), folder.path().join(places)).unwrap();
        Self {
            folder,
            broker: None,
            chain: words.concat().into_iter().map(str::to_owned).collect(),
            words: Vec::new(),
            funded: Vec::new(),
            command: Rc::clone(&self.command),
            http: free(),
            agents: free(),
            admin: free(),
        }
    }

    /// Tells the broker more, whenever it is started.
    pub fn tell_broker(&mut self, words: &[&str]) {
        self.words
            .extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// Gives the broker a keystore that opens at once, for a key that is worth nothing.
    pub fn open_keystore_quickly(&mut self) {
        let passphrase = self.path().join("passphrase");
        let words = fs::read_to_string(&passphrase).unwrap();
        let keystore = self.path().join("operator.json");
        let sealed = Passphrase::new(words.trim());
        settlement::Wallet::create_sealed(&keystore, &sealed, Sealing::Quick).unwrap();
        let (keystore, passphrase) = (keystore.display(), passphrase.display());
        let (keystore, passphrase) = (keystore.to_string(), passphrase.to_string());
        self.tell_broker(&["--wallet", &keystore, "--passphrase-file", &passphrase]);
    }

    /// The same, but a block counts as final only under this many more.
    pub fn final_under(mut self, blocks: u64) -> Self {
        let place = self.chain.iter().position(|word| word == "--rpc-finality");
        let place = place.expect("on_node comes first");
        self.chain[place + 1] = blocks.to_string();
        self
    }

    /// Loses the broker's data directory; it runs the same network again when it is started.
    pub fn forget_broker(&mut self, network: &str) {
        self.broker = None;
        fs::remove_dir_all(self.path().join("broker")).unwrap();
        self.chain
            .extend(["--network", network].map(str::to_string));
    }

    /// The folder that holds everything.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The broker's HTTP address.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// Where the broker's agents connect.
    pub fn agents(&self) -> &str {
        &self.agents
    }

    /// Where the broker's operator looks.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// A figure of the broker's metrics, without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        let (host, end) = (&self.admin, "\r\nconnection: close\r\n\r\n");
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {host}{end}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let figure = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        let found = answer.lines().find_map(figure);
        found.unwrap_or_else(|| panic!("no {name} in {answer}"))
    }

    /// A new wallet that the broker's own chain will fund, if it has not been made yet.
    pub fn wallet(&mut self, name: &str) -> Wallet {
        let data = self.path().join(name);
        let output = self
            .ipsx(&data, &["wallet", "new", "--json"])
            .output()
            .unwrap();
        let address = json(&output)["address"].as_str().unwrap().to_owned();
        self.fund(&address);
        Wallet { data, address }
    }

    /// Lets the broker's own chain fund somebody, if it has not been made yet.
    pub fn fund(&mut self, address: &str) {
        self.funded.push(address.to_owned());
    }

    /// Starts the broker, the first time with a new embedded chain; afterwards on the same addresses.
    pub fn start_broker(&mut self) {
        let mut command = (self.command)("ipsx-broker");
        command
            .arg("--data-dir")
            .arg(self.path().join("broker"))
            .args(["--http-listen", &self.http, "--agents-listen", &self.agents])
            .args(["--admin-listen", &self.admin])
            .arg("--country-db")
            .arg(self.path().join("places.mmdb"));
        command.args(&self.chain).args(&self.words);
        for address in self.funded.iter().filter(|_| self.chain.is_empty()) {
            command.args(["--fund", &format!("{address}=1000")]);
        }
        let mut broker = Program::start("ipsx-broker", &mut command);
        let ready = broker.wait_for("ready ", SOON);
        let value = |key: &str| {
            let word = ready
                .split(' ')
                .find_map(|w| w.strip_prefix(&format!("{key}=")));
            word.unwrap_or_else(|| panic!("no {key} in {ready:?}"))
                .to_owned()
        };
        self.http = value("http");
        self.agents = value("agents");
        self.admin = value("admin");
        self.broker = Some(broker);
    }

    /// `ipsx` with this data directory, the broker's URL and the passphrase; more words may follow.
    pub fn ipsx(&self, data: &Path, words: &[&str]) -> Command {
        self.ipsx_as("ipsx", data, words)
    }

    /// The same for a program that the market's `command` tells apart by name.
    pub fn ipsx_as(&self, program: &str, data: &Path, words: &[&str]) -> Command {
        let mut command = (self.command)(program);
        command
            .arg("--data")
            .arg(data)
            .args(["--broker", &format!("http://{}", self.http)])
            .arg("--passphrase-file")
            .arg(self.path().join("passphrase"))
            .args(words);
        command
    }

    /// `ipsx connect` with a proxy on a free port, and with more words, which are parted by spaces.
    pub fn connect(&self, wallet: &Wallet, words: &str) -> Command {
        let mut command = self.ipsx(&wallet.data, &["connect", "--proxy", "127.0.0.1:0"]);
        command.args(words.split_whitespace());
        command
    }

    /// A provider that waits until its offer is placed.
    pub fn start_provider(&self, wallet: &Wallet, bind: &str, words: &[&str]) -> Program {
        let mut command = self.ipsx(
            &wallet.data,
            &["provide", "--accept-consent", "--bind", bind],
        );
        command.args(["--listen", &format!("{bind}:0")]).args(words);
        let mut provider = Program::start(&format!("provider {bind}"), &mut command);
        provider.wait_for("offer placed", SOON);
        provider
    }

    /// Runs `ipsx` to its end and returns its JSON; panics unless it succeeded.
    pub fn run(&self, wallet: &Wallet, words: &[&str]) -> Value {
        self.run_as("ipsx", wallet, words)
    }

    /// The same for a program that the market's `command` tells apart by name.
    pub fn run_as(&self, program: &str, wallet: &Wallet, words: &[&str]) -> Value {
        let output = self
            .ipsx_as(program, &wallet.data, words)
            .arg("--json")
            .output()
            .unwrap();
        json(&output)
    }
}

/// The JSON on standard output of a command that succeeded.
pub fn json(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "exit {:?}\n{}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "not one JSON value: {e}\n{}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}
