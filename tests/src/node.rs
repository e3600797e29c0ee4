//! A real chain node for one test: started on a free loopback port, killed when the test ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ipsx_metering::{Address, U256};
use ipsx_settlement::RpcChain;
use serde_json::{Value, json};

/// An anvil, with no account of its own.
pub struct Node {
    process: Child,
    /// URL of its JSON-RPC.
    pub url: String,
    /// The same, connected.
    pub chain: RpcChain,
}

impl Node {
    /// Starts it; `None` if tests are to do without one, by IPSX_WITHOUT_ANVIL.
    pub fn start() -> Option<Self> {
        if std::env::var_os("IPSX_WITHOUT_ANVIL").is_some() {
            return None;
        }
        let chain_id = rand::random::<u32>().to_string();
        let mut process = Command::new(binary())
            .args(["--port", "0", "--accounts", "0", "--chain-id", &chain_id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let address = line.strip_prefix("Listening on ")?;
            Some(address.trim().to_owned())
        });
        // Read to the end, so that the node never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let url = format!("http://{}", address.expect("anvil says where it listens"));
        let chain = RpcChain::new(&url).unwrap();
        Some(Self {
            process,
            url,
            chain,
        })
    }

    /// Gives an account gas money.
    pub async fn fund(&self, account: Address) {
        let wei = U256::from(10_u64).pow(U256::from(22));
        let params = json!([account, wei]);
        let _: Value = self.request("anvil_setBalance", params).await;
    }

    /// Makes an empty block `seconds` later.
    pub async fn advance(&self, seconds: u64) {
        let _: Value = self.request("evm_increaseTime", json!([seconds])).await;
        let _: Value = self.request("evm_mine", json!([])).await;
    }

    /// Makes this many empty blocks.
    pub async fn mine(&self, blocks: u64) {
        let _: Value = self.request("anvil_mine", json!([blocks])).await;
    }

    /// Takes back the newest blocks and puts empty ones in their place.
    pub async fn reorganise(&self, blocks: u64) {
        let _: Value = self.request("anvil_reorg", json!([blocks, []])).await;
    }

    async fn request(&self, method: &'static str, params: Value) -> Value {
        self.chain.request(method, params).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The binary of the npm package for this platform; its absence is a failure, not a reason to skip.
fn binary() -> PathBuf {
    let contracts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../metering/contracts");
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = format!("node_modules/@foundry-rs/anvil-linux-{machine}/bin/anvil");
    let binary = contracts.join(package);
    assert!(
        binary.exists(),
        "{} is missing: run `npm ci --ignore-scripts` in metering/contracts, or set IPSX_WITHOUT_ANVIL",
        binary.display()
    );
    binary
}
