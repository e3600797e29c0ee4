//! The program as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ipsx_market::http::NetworkInfo;
use ipsx_settlement::Wallet;
use ipsx_tests::requester::Requester;

use super::TestRequester;

/// The program with its data in `directory`; killed when dropped.
pub struct Program {
    pub child: Child,
    pub http: SocketAddr,
    pub agents: SocketAddr,
    pub admin: Option<SocketAddr>,
}

pub fn command(directory: &Path) -> Command {
    // Writes the database of places.
    super::config(directory);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipsx-broker"));
    command
        .env_clear()
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--http-listen", "127.0.0.1:0"])
        .env("IPSX_BROKER_AGENTS_LISTEN", "127.0.0.1:0")
        .env("IPSX_BROKER_ADMIN_LISTEN", "127.0.0.1:0")
        .env("IPSX_BROKER_LOG", "warn")
        .arg("--country-db")
        .arg(directory.join("places.mmdb"));
    command
}

impl Program {
    pub fn start(directory: &Path, more: &[String]) -> Self {
        Self::start_with(directory, |command| {
            command.args(more);
        })
    }

    pub fn start_with(directory: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(directory);
        change(&mut command);
        Self::start_command(command)
    }

    /// Starts it and waits until it is ready.
    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let value = |key: &str| {
            let word = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(key));
            word.map(|word| word.parse().unwrap())
        };
        let (Some(http), Some(agents)) = (value("http="), value("agents=")) else {
            let _ = child.kill();
            panic!("it said {line:?} and ended with {}", child.wait().unwrap());
        };
        Self {
            http,
            agents,
            admin: value("admin="),
            child,
        }
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A requester that is signed in and has deposited of what the program was told to `--fund` its wallet with.
    pub async fn funded(&self, wallet: Wallet, deposit: u128) -> TestRequester {
        let mut requester = TestRequester::at(wallet, self.http, self.network().await);
        requester.0.deposit(deposit).await;
        requester.sign_in().await;
        requester
    }

    pub async fn network(&self) -> NetworkInfo {
        Requester::network(self.http).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
