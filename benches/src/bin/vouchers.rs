//! Vouchers accepted and signed in a second of one core, next to what the bare library does in the same run.
//!
//! `cargo run --release -p ipsx-benches --bin vouchers [FOLDER]`; the store is made below FOLDER, or below the
//! system's folder for temporary files. Figures are per second of processor time, all threads of the program added
//! up, so that a busy machine does not change them; the wall clock, with the waiting for the disk, is beside it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_benches::{Samples, cpu_time};
use ipsx_metering::{
    Address, Amount, B256, Channel, Domain, KnownSigner, NetworkId, SecretKey, Signed, TypedData,
    Voucher,
};
use ipsx_settlement::VoucherStore;
use secp256k1::{Message, PublicKey, SECP256K1, ecdsa};
use tokio::task::JoinSet;

const CHANNELS: u32 = 10_000;
/// Vouchers that are handed to the store together: what comes while it gathers for 200 ms, at the 25,000 a second that are
/// aimed at.
const BATCH: usize = 5_000;
const ROUNDS: u32 = 15;
/// Above every amount that the measurement of accepting uses.
const AFTER_ACCEPT: u128 = 100;
/// How long each channel sends a voucher each second.
const STEADY_SECONDS: u32 = 5;

/// One channel with its payer's session key.
struct Lease {
    channel: Channel,
    key: SecretKey,
    public: PublicKey,
}

fn lease(number: u32) -> Lease {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    let key = SecretKey::from_bytes(&secret).unwrap();
    let public = secp256k1::SecretKey::from_byte_array(secret)
        .unwrap()
        .public_key(SECP256K1);
    let mut salt = B256::ZERO;
    salt.0[..4].copy_from_slice(&number.to_be_bytes());
    let channel = Channel {
        network: NetworkId(B256::repeat_byte(1)),
        payer: Address::repeat_byte(2),
        payer_signer: key.address(),
        provider: Address::repeat_byte(3),
        salt,
    };
    Lease {
        channel,
        key,
        public,
    }
}

fn domain() -> Domain {
    Domain {
        chain_id: 1,
        contract: Address::repeat_byte(4),
    }
}

fn voucher(channel: &Channel, cumulative: u128) -> Voucher {
    Voucher {
        channel_id: channel.id(),
        cumulative: Amount(cumulative),
        receipt_hash: B256::repeat_byte(5),
    }
}

/// How long `work` took: of processors, and on the wall.
fn measure(work: impl FnOnce()) -> (Duration, Duration) {
    let (cpu, wall) = (cpu_time(), Instant::now());
    work();
    let wall = wall.elapsed();
    let cpu = cpu_time().zip(cpu).map(|(now, before)| now - before);
    (cpu.unwrap_or(wall), wall)
}

#[derive(Default)]
struct Rates(Vec<f64>, Vec<f64>);

impl Rates {
    fn add(&mut self, count: usize, (cpu, wall): (Duration, Duration)) {
        self.0.push(count as f64 / cpu.as_secs_f64());
        self.1.push(count as f64 / wall.as_secs_f64());
    }

    /// Prints the share of `whole` that each round had: one after the other, both met the same machine.
    fn print_share(&self, whole: &Self) {
        let shares = self.0.iter().zip(&whole.0).map(|(a, b)| 100.0 * a / b);
        let shares = Samples::new(shares.collect()).unwrap();
        println!(
            "{:44} {:>7.0}% {:>7.0}% {:>7.0}%",
            "",
            shares.median(),
            shares.least(),
            shares.most()
        );
    }

    /// Prints the medians, and the least and most of the processor's time.
    fn print(&self, name: &str) {
        let sample = |rates: &Vec<f64>| Samples::new(rates.clone()).unwrap();
        let (cpu, wall) = (sample(&self.0), sample(&self.1));
        println!(
            "{name:44} {:>8.0} {:>8.0} {:>8.0} {:>9.0}",
            cpu.median(),
            cpu.least(),
            cpu.most(),
            wall.median()
        );
    }
}

fn main() {
    let folder = match std::env::args_os().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let leases: Vec<_> = (0..CHANNELS).map(lease).collect();
    println!(
        "{:44} {:>8} {:>8} {:>8} {:>9}",
        "per second of one core", "median", "least", "most", "on a wall"
    );
    sign(&leases);
    let path = folder.path().join("vouchers.db");
    let store = runtime.block_on(async {
        let store = VoucherStore::open(&path, domain()).await.unwrap();
        let store = Arc::new(store);
        let mut adding = JoinSet::new();
        for lease in &leases {
            let (store, channel) = (store.clone(), lease.channel.clone());
            adding.spawn(async move { store.add_channel(&channel).await.unwrap() });
        }
        adding.join_all().await;
        store
    });
    accept(&runtime, &store, &leases);
    check_once(&runtime, &store, &leases);
    runtime.block_on(steady(&store, &leases));
}

/// A payer of many leases with one session key.
fn sign(leases: &[Lease]) {
    let key = &leases[0].key;
    let bare_key = {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&0_u32.to_be_bytes());
        secp256k1::SecretKey::from_byte_array(secret).unwrap()
    };
    let separator = domain().separator();
    let (mut bare, mut ours) = (Rates::default(), Rates::default());
    for round in 0..ROUNDS {
        let vouchers: Vec<_> = leases
            .iter()
            .map(|lease| voucher(&lease.channel, u128::from(round) + 1))
            .collect();
        let hashes: Vec<_> = vouchers
            .iter()
            .map(|v| Message::from_digest(v.hash_within(&separator).0))
            .collect();
        bare.add(
            hashes.len(),
            measure(|| {
                for hash in &hashes {
                    black_box(SECP256K1.sign_ecdsa(*hash, &bare_key));
                }
            }),
        );
        ours.add(
            vouchers.len(),
            measure(|| {
                for voucher in &vouchers {
                    black_box(key.sign_hash(voucher.hash_within(&separator)));
                }
            }),
        );
    }
    bare.print("sign: libsecp256k1 alone");
    ours.print("sign: voucher hashed and signed");
    ours.print_share(&bare);
}

fn signed(leases: &[Lease], cumulative: u128) -> Vec<Signed<Voucher>> {
    let sign =
        |lease: &Lease| Signed::sign(voucher(&lease.channel, cumulative), &domain(), &lease.key);
    leases.iter().map(sign).collect()
}

/// Vouchers of ten thousand channels: checked and on disk.
fn accept(runtime: &tokio::runtime::Runtime, store: &VoucherStore, leases: &[Lease]) {
    let (mut bare, mut ours) = (Rates::default(), Rates::default());
    let separator = domain().separator();
    // The first voucher of each channel tells its public key.
    runtime.block_on(async { store.accept_all(&signed(leases, 1)).await.unwrap() });
    for round in 0..ROUNDS {
        let vouchers = signed(leases, u128::from(round) + 2);
        let parsed: Vec<_> = vouchers
            .iter()
            .zip(leases)
            .map(|(v, lease)| {
                let hash = Message::from_digest(v.message.hash_within(&separator).0);
                let signature = ecdsa::Signature::from_compact(&v.signature.0[..64]).unwrap();
                (hash, signature, lease.public)
            })
            .collect();
        bare.add(
            parsed.len(),
            measure(|| {
                for (hash, signature, key) in &parsed {
                    SECP256K1.verify_ecdsa(*hash, signature, key).unwrap();
                }
            }),
        );
        ours.add(
            vouchers.len(),
            measure(|| {
                for batch in vouchers.chunks(BATCH) {
                    runtime.block_on(store.accept_all(batch)).unwrap();
                }
            }),
        );
    }
    bare.print("verify: libsecp256k1 alone");
    ours.print("accept: hashed, verified, synced to disk");
    ours.print_share(&bare);
}

/// What a provider does with a voucher: its meter checks it, and the store checks it again, or takes the meter's word.
fn check_once(runtime: &tokio::runtime::Runtime, store: &VoucherStore, leases: &[Lease]) {
    let (mut twice, mut once) = (Rates::default(), Rates::default());
    let mut signers: Vec<_> = leases
        .iter()
        .map(|lease| KnownSigner::new(lease.key.address()))
        .collect();
    for round in 0..=ROUNDS {
        for trusting in [false, true] {
            let cumulative = AFTER_ACCEPT + 2 * u128::from(round) + u128::from(trusting);
            let vouchers = signed(leases, cumulative);
            let spent = measure(|| {
                for (batch, signers) in vouchers.chunks(BATCH).zip(signers.chunks_mut(BATCH)) {
                    let checked: Vec<_> = batch
                        .iter()
                        .zip(signers)
                        .map(|(voucher, signer)| {
                            let check = signer.check_signed(voucher, &domain()).unwrap();
                            (voucher.clone(), trusting.then_some(check))
                        })
                        .collect();
                    runtime.block_on(store.accept_checked(&checked)).unwrap();
                }
            });
            // The first round learns the keys.
            if round > 0 {
                let rates = if trusting { &mut once } else { &mut twice };
                rates.add(vouchers.len(), spent);
            }
        }
    }
    twice.print("meter and store: each checks");
    once.print("meter and store: checked once");
    once.print_share(&twice);
}

/// Each channel sends its own voucher each second, at its own moment.
async fn steady(store: &Arc<VoucherStore>, leases: &[Lease]) {
    let first = 2 * AFTER_ACCEPT;
    let rounds: Vec<_> = (0..STEADY_SECONDS)
        .map(|second| signed(leases, first + u128::from(second)))
        .collect();
    let (before, cpu, begin) = (store.commits(), cpu_time(), Instant::now());
    let mut channels = JoinSet::new();
    for number in 0..leases.len() {
        let vouchers: Vec<_> = rounds.iter().map(|round| round[number].clone()).collect();
        let store = store.clone();
        let offset = Duration::from_micros(1_000_000 * number as u64 / leases.len() as u64);
        channels.spawn(async move {
            let mut slowest = Duration::ZERO;
            for (second, voucher) in (0..).zip(vouchers) {
                let at = begin + offset + Duration::from_secs(second);
                tokio::time::sleep_until(at.into()).await;
                let asked = Instant::now();
                store.accept(&voucher).await.unwrap();
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        });
    }
    let slowest = channels.join_all().await.into_iter().max();
    let seconds = begin.elapsed().as_secs_f64();
    let commits = store.commits() - before;
    println!(
        "{} channels with a voucher each second, for {STEADY_SECONDS} s: {:.1} syncs a second, slowest answer after {} ms",
        leases.len(),
        commits as f64 / seconds,
        slowest.unwrap_or_default().as_millis()
    );
    if let Some(busy) = cpu_time().zip(cpu).map(|(now, before)| now - before) {
        println!("of one core: {:.0}%", 100.0 * busy.as_secs_f64() / seconds);
    }
}
