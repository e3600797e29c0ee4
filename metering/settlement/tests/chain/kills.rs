//! kill -9 while blocks are made: nothing that was acknowledged is lost.
//!
//! The victim is this test program again, told by an environment variable to write until it dies.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use alloy_primitives::{Address, U256};
use ipsx_settlement::{Chain, EmbeddedChain, Genesis, Signer, Transaction, Wallet, send};

use crate::world::manual_clock;

const FOLDER: &str = "IPSX_TEST_VICTIM_FOLDER";
/// Rounds of writing, killing and looking.
const KILLS: u64 = 6;

fn key() -> Wallet {
    Wallet::from_secret(&[5; 32]).unwrap()
}

fn open_chain(folder: &Path) -> EmbeddedChain {
    let (_, clock) = manual_clock();
    let genesis = Genesis::funding([key().address()]);
    EmbeddedChain::open_or_create(&folder.join("chain"), genesis, clock).unwrap()
}

/// Where to write, if this process is a victim.
fn victims_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}

fn acknowledge(number: u128) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\nacknowledged {number}").unwrap();
    output.flush().unwrap();
}

#[tokio::test]
async fn victim_making_blocks() {
    let Some(folder) = victims_folder() else {
        return;
    };
    let chain = open_chain(&folder);
    for _ in 0..100_000 {
        let transaction = Transaction {
            to: Some(Address::repeat_byte(9)),
            data: Default::default(),
            value: U256::from(1),
        };
        let receipt = send(&chain, &key(), transaction).await.unwrap();
        acknowledge(receipt.block_number.into());
    }
}

/// Starts a victim, kills it a while after its first acknowledgement, and returns the last one it got out.
fn run_and_kill(test: &str, folder: &Path, after: Duration) -> u128 {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let last = read_and_kill(&mut victim, output, after);
    victim.wait().unwrap();
    last
}

fn read_and_kill(victim: &mut Child, output: BufReader<ChildStdout>, after: Duration) -> u128 {
    let mut last = 0;
    for line in output.lines().map_while(Result::ok) {
        let Some(number) = line.strip_prefix("acknowledged ") else {
            continue;
        };
        if last == 0 {
            std::thread::sleep(after);
            victim.kill().unwrap();
        }
        // The last line may be cut short by the kill; then it is no longer than a good one.
        last = number.parse::<u128>().unwrap_or(0).max(last);
    }
    assert!(last > 0, "the victim acknowledged nothing");
    last
}

#[tokio::test]
async fn no_acknowledged_block_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..KILLS {
        let after = Duration::from_millis(3 + 7 * round);
        let last = run_and_kill("kills::victim_making_blocks", folder.path(), after);
        let chain = open_chain(folder.path());
        let found = u128::from(chain.head().await.unwrap().number);
        assert!(found == last || found == last + 1, "{found} after {last}");
        let received = chain.balance(Address::repeat_byte(9)).await.unwrap();
        assert_eq!(received, U256::from(found));
        assert!(found > before);
        before = found;
    }
}
