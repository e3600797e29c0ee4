//! A real node for one test: started on a free loopback port, killed when the test ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use alloy_primitives::{Address, U256};
use ipsx_settlement::RpcChain;
use serde_json::{Value, json};

const START: Duration = Duration::from_secs(30);

pub(crate) struct Anvil {
    process: Child,
    pub(crate) chain: RpcChain,
    /// How it was started, but for the port.
    arguments: Vec<String>,
    port: u16,
}

impl Anvil {
    /// Starts a node; `None` if tests are to do without, which is said aloud.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same; the node writes its state to `folder` when it ends, and a restarted one reads it.
    pub(crate) async fn start_keeping(folder: &Path) -> Option<Self> {
        let state = folder.join("state.json").display().to_string();
        Self::start_with(&["--state", &state]).await
    }

    /// Ends the node as an operator would, and starts it again on the same port. What waited to be put into a block
    /// is lost.
    pub(crate) async fn restart(&mut self) {
        let pid = self.process.id().to_string();
        let ended = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(ended.unwrap().success());
        self.process.wait().unwrap();
        let (process, address) = spawn(&self.arguments, self.port).await;
        self.process = process;
        assert!(address.ends_with(&self.port.to_string()), "{address}");
    }

    async fn start_with(arguments: &[&str]) -> Option<Self> {
        if std::env::var_os("IPSX_WITHOUT_ANVIL").is_some() {
            // Past the test harness, which swallows what passing tests print with the macros.
            let reason =
                b"skipped: IPSX_WITHOUT_ANVIL is set, so nothing is tested on a real node\n";
            std::io::stderr().write_all(reason).unwrap();
            return None;
        }
        let chain_id = rand::random::<u32>().to_string();
        let arguments: Vec<_> = ["--accounts", "0", "--chain-id", &chain_id]
            .iter()
            .chain(arguments)
            .map(ToString::to_string)
            .collect();
        let (process, address) = spawn(&arguments, 0).await;
        let chain = RpcChain::new(&format!("http://{address}")).unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Some(Self {
            process,
            chain,
            arguments,
            port,
        })
    }

    pub(crate) async fn fund(&self, account: Address) {
        let wei = U256::from(10u64).pow(U256::from(22));
        let params = json!([account, wei]);
        let _: Value = self
            .chain
            .request("anvil_setBalance", params)
            .await
            .unwrap();
    }

    /// Makes an empty block `seconds` later.
    pub(crate) async fn advance(&self, seconds: u64) {
        let params = json!([seconds]);
        let _: Value = self
            .chain
            .request("evm_increaseTime", params)
            .await
            .unwrap();
        let _: Value = self.chain.request("evm_mine", json!([])).await.unwrap();
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a node on a port, 0 for any, and returns it with the address that it listens on.
async fn spawn(arguments: &[String], port: u16) -> (Child, String) {
    let mut process = Command::new(binary())
        .args(["--port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = process.stdout.take().unwrap();
    let (found, address) = mpsc::channel();
    // Reads to the end, so that the node never waits for a full pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("Listening on ") {
                let _ = found.send(address.trim().to_string());
            }
        }
    });
    let address = tokio::task::spawn_blocking(move || address.recv_timeout(START))
        .await
        .unwrap();
    let Ok(address) = address else {
        process.kill().unwrap();
        panic!("anvil did not start within {START:?}");
    };
    (process, address)
}

/// The binary of the npm package for this platform; its absence is a failure, not a reason to skip.
fn binary() -> PathBuf {
    let contracts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let package = format!("node_modules/@foundry-rs/anvil-{system}-{machine}/bin/anvil");
    let binary = contracts.join(package);
    assert!(
        binary.exists(),
        "{} is missing: run `npm ci --ignore-scripts` in metering/contracts, or set IPSX_WITHOUT_ANVIL",
        binary.display()
    );
    binary
}
