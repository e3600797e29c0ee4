//! The voucher store against kill -9 and against a disk without room.
//!
//! This program plays the payer; the provider is the same program again, told by an environment variable to accept
//! what it reads until it dies. What the payer has sent and what the provider has acknowledged is all in the payer's
//! hands, so that the two can be compared.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use ipsx_metering::{Amount, Channel, ChannelId, Domain, NetworkId, SecretKey, Signed, Voucher};
use ipsx_settlement::{Accepted, StoreError, VoucherStore};
use tokio::task::JoinSet;

const FOLDER: &str = "IPSX_TEST_PROVIDER_FOLDER";
const CHANNELS: u8 = 6;
/// Lives of the provider, each ended by a kill.
const LIVES: u32 = 300;
/// No life is longer, however slow the machine: the test has an end.
const PATIENCE: Duration = Duration::from_secs(30);

fn key() -> SecretKey {
    SecretKey::from_bytes(&[5; 32]).unwrap()
}

fn domain() -> Domain {
    Domain {
        chain_id: 1,
        contract: Address::repeat_byte(4),
    }
}

fn channel(number: u8) -> Channel {
    Channel {
        network: NetworkId(B256::repeat_byte(1)),
        payer: Address::repeat_byte(2),
        payer_signer: key().address(),
        provider: Address::repeat_byte(3),
        salt: B256::repeat_byte(number),
    }
}

fn voucher(number: u8, cumulative: u128) -> Signed<Voucher> {
    let message = Voucher {
        channel_id: channel(number).id(),
        cumulative: Amount(cumulative),
        receipt_hash: B256::repeat_byte(number),
    };
    Signed::sign(message, &domain(), &key())
}

fn store_path(folder: &Path) -> PathBuf {
    folder.join("vouchers.db")
}

fn say(text: String) {
    let mut output = std::io::stdout().lock();
    // Lines of the test harness may be unfinished.
    writeln!(output, "\n{text}").unwrap();
    output.flush().unwrap();
}

/// The provider: says what it finds, then accepts what it reads and says so.
#[tokio::test]
async fn provider_accepting_vouchers() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let opened = VoucherStore::open(&store_path(Path::new(&folder)), domain()).await;
    let store = match opened {
        Ok(store) => Arc::new(store),
        Err(error) => return say(format!("closed {error}")),
    };
    for number in 0..CHANNELS {
        store.add_channel(&channel(number)).await.unwrap();
    }
    for stored in store.channels().await.unwrap() {
        if let Some(found) = stored.voucher {
            say(format!("found {}", serde_json::to_string(&found).unwrap()));
        }
    }
    say("open".into());
    let (read, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = read.send(line);
        }
    });
    let mut accepting = JoinSet::new();
    while let Some(line) = lines.recv().await {
        // Cut short by the payer's end.
        let Ok(voucher) = serde_json::from_str::<Signed<Voucher>>(&line) else {
            break;
        };
        let store = store.clone();
        accepting.spawn(async move {
            let Voucher {
                channel_id,
                cumulative,
                ..
            } = voucher.message;
            // The receipt's hash stands for the channel's number.
            let added = store
                .add_channel(&channel(voucher.message.receipt_hash[0]))
                .await;
            let accepted = match added {
                Ok(()) => store.accept(&voucher).await,
                Err(error) => Err(error),
            };
            match accepted {
                Ok(Accepted::Newer | Accepted::NotNewer { .. }) => {
                    say(format!("accepted {channel_id} {}", cumulative.0));
                }
                Err(StoreError::Full(_)) => say(format!("full {channel_id} {}", cumulative.0)),
                Err(other) => panic!("{other}"),
            }
        });
    }
    accepting.join_all().await;
}

/// What the payer knows.
#[derive(Default)]
struct Payer {
    /// Each voucher it has signed.
    sent: HashMap<(ChannelId, u128), Signed<Voucher>>,
    /// The highest voucher of each channel that was acknowledged.
    acknowledged: HashMap<ChannelId, u128>,
    refused: usize,
}

impl Payer {
    /// Takes one line of the provider's; true when it says that it is open.
    fn hear(&mut self, line: &str, found: &mut HashMap<ChannelId, u128>) -> bool {
        let words: Vec<_> = line.splitn(2, ' ').collect();
        match words[..] {
            ["open"] => return true,
            ["found", json] => {
                let Ok(voucher) = serde_json::from_str::<Signed<Voucher>>(json) else {
                    return false;
                };
                let key = (voucher.message.channel_id, voucher.message.cumulative.0);
                assert_eq!(self.sent.get(&key), Some(&voucher), "never sent");
                found.insert(key.0, key.1);
            }
            ["accepted", rest] => {
                // A kill may cut the last line short; then it is no whole line.
                if let Some((id, amount)) = parse(rest) {
                    let known = self.acknowledged.entry(id).or_default();
                    *known = amount.max(*known);
                }
            }
            ["full", _] => self.refused += 1,
            ["closed", why] => panic!("the provider did not open: {why}"),
            _ => {}
        }
        false
    }

    /// What a provider found when it opened is what it had acknowledged, or more.
    fn compare(&self, found: &HashMap<ChannelId, u128>) {
        for (id, acknowledged) in &self.acknowledged {
            let found = found.get(id).copied().unwrap_or(0);
            assert!(
                found >= *acknowledged,
                "channel {id}: {acknowledged} was acknowledged, {found} is there"
            );
        }
    }
}

fn parse(text: &str) -> Option<(ChannelId, u128)> {
    let (id, amount) = text.split_once(' ')?;
    let id: B256 = id.parse().ok()?;
    Some((ChannelId(id), amount.parse().ok()?))
}

/// A provider at work.
struct Provider {
    process: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Provider {
    fn start(folder: &Path) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), folder)
    }

    /// Starts it by a command that ends with this program's name.
    fn spawn(mut command: Command, folder: &Path) -> Self {
        let mut process = command
            .args(["--exact", "voucher_kills::provider_accepting_vouchers"])
            .args(["--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (heard, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Only whole lines count: a kill may cut the last one short.
            while output.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
                let _ = heard.send(line.trim_end().to_string());
                line.clear();
            }
        });
        Self {
            process,
            input,
            lines,
        }
    }

    fn send(&mut self, voucher: &Signed<Voucher>) -> std::io::Result<()> {
        let line = serde_json::to_string(voucher).unwrap();
        writeln!(self.input, "{line}")
    }

    /// Waits for a line that says it is open, and compares what it found.
    fn opened(&self, payer: &mut Payer) {
        let (mut found, begin) = (HashMap::new(), Instant::now());
        while begin.elapsed() < PATIENCE {
            let line = self.lines.recv_timeout(PATIENCE).expect("it ended");
            if payer.hear(&line, &mut found) {
                return payer.compare(&found);
            }
        }
        panic!("not open after {PATIENCE:?}");
    }

    fn kill(mut self, payer: &mut Payer) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let mut found = HashMap::new();
        while let Ok(line) = self.lines.recv() {
            payer.hear(&line, &mut found);
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Only if the test failed half-way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One provider's lives one after the other. Some are killed while they open, the others while they write.
fn live_and_die(lives: u32, seed: u64) -> (usize, u128) {
    let folder = tempfile::tempdir().unwrap();
    let mut payer = Payer::default();
    let mut random = seed;
    let mut draw = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut cumulative = 0;
    for life in 0..lives {
        let mut provider = Provider::start(folder.path());
        if life % 5 == 4 {
            // Anywhere in the start: the process, the recovery of the log, the check, the tables.
            std::thread::sleep(Duration::from_micros(draw(60_000)));
            provider.kill_unheard();
            continue;
        }
        provider.opened(&mut payer);
        let until = Instant::now() + Duration::from_micros(draw(40_000));
        while Instant::now() < until {
            cumulative += 1;
            let voucher = voucher(draw(CHANNELS.into()) as u8, cumulative);
            let id = voucher.message.channel_id;
            payer.sent.insert((id, cumulative), voucher.clone());
            provider.send(&voucher).unwrap();
        }
        provider.kill(&mut payer);
    }
    // The last word is the store's own.
    Provider::start(folder.path()).opened(&mut payer);
    let acknowledged = payer.acknowledged.values().max().copied();
    (payer.sent.len(), acknowledged.unwrap_or(0))
}

impl Provider {
    /// Killed while it opens: it has acknowledged nothing.
    fn kill_unheard(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Ok(line) = self.lines.recv() {
            assert!(!line.starts_with("closed"), "{line}");
        }
    }
}

#[test]
fn hundreds_of_kills_lose_no_acknowledged_voucher() {
    let lanes: Vec<_> = (0..2)
        .map(|lane| std::thread::spawn(move || live_and_die(LIVES / 2, 77 + lane)))
        .collect();
    for lane in lanes {
        let (sent, acknowledged) = lane.join().unwrap();
        assert!(sent > 200, "only {sent} vouchers in {} lives", LIVES / 2);
        assert!(acknowledged > 100, "only {acknowledged} acknowledged");
    }
}

/// A file system of 4 MB: what does not fit is refused by name, what was acknowledged stays, and with room
/// again the same store goes on.
#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let mut payer = Payer::default();
    let mut provider = disk.provider();
    provider.opened(&mut payer);
    let ballast = disk.fill();
    let mut found = HashMap::new();
    let begin = Instant::now();
    let mut cumulative = 0;
    let mut after = 0;
    while after < 50 {
        assert!(
            begin.elapsed() < PATIENCE,
            "{} refused of {cumulative}",
            payer.refused
        );
        cumulative += 1;
        // New channels take room; old ones could make do with what there is.
        let voucher = voucher((cumulative % 256) as u8, cumulative);
        let key = (voucher.message.channel_id, cumulative);
        payer.sent.insert(key, voucher.clone());
        provider.send(&voucher).unwrap();
        let refused = payer.refused;
        let accepted = payer.acknowledged.clone();
        while payer.refused == refused && payer.acknowledged == accepted {
            let line = provider.lines.recv_timeout(PATIENCE).unwrap();
            payer.hear(&line, &mut found);
        }
        if payer.refused == 20 && ballast.exists() {
            std::fs::remove_file(&ballast).unwrap();
        }
        after += u32::from(payer.refused >= 20 && payer.refused == refused);
    }
    assert!(payer.refused >= 20);
    provider.kill(&mut payer);
    disk.provider().opened(&mut payer);
}

/// A tmpfs in a mount namespace of its own, which a process in it keeps alive.
struct SmallDisk {
    keeper: Child,
}

impl SmallDisk {
    /// `None` where namespaces are not allowed, which is said aloud.
    fn mount() -> Option<Self> {
        let script = "mount -t tmpfs -o size=4m,mode=777 tmpfs /mnt && echo mounted && exec cat";
        let started = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut line = String::new();
        if let Ok(mut keeper) = started {
            let output = keeper.stdout.take().unwrap();
            let _ = BufReader::new(output).read_line(&mut line);
            if line.trim() == "mounted" {
                return Some(Self { keeper });
            }
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        let reason = b"skipped: no mount namespaces here, so a full disk is not tested\n";
        std::io::stderr().write_all(reason).unwrap();
        None
    }

    fn provider(&self) -> Provider {
        let mut enter = Command::new("nsenter");
        enter
            .arg(format!("--target={}", self.keeper.id()))
            .args(["--user", "--preserve-credentials", "--mount", "--"])
            .arg(std::env::current_exe().unwrap());
        Provider::spawn(enter, Path::new("/mnt"))
    }

    /// Takes all the room that is left, and returns the file to delete for getting it back.
    fn fill(&self) -> PathBuf {
        // From outside the namespace.
        let path = PathBuf::from(format!("/proc/{}/root/mnt/ballast", self.keeper.id()));
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[1; 4_096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
