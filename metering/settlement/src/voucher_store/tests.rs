#![allow(clippy::unwrap_used)]
use super::*;
use ipsx_metering::{Address, B256, NetworkId, SecretKey, Signature};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};

fn domain() -> Domain {
    Domain {
        chain_id: 7,
        contract: Address::repeat_byte(7),
    }
}

fn session() -> SecretKey {
    SecretKey::from_bytes(&[1; 32]).unwrap()
}

fn channel(number: u8) -> Channel {
    Channel {
        network: NetworkId(B256::repeat_byte(1)),
        payer: Address::repeat_byte(2),
        payer_signer: session().address(),
        provider: Address::repeat_byte(3),
        salt: B256::repeat_byte(number),
    }
}

fn voucher(number: u8, cumulative: u128) -> Signed<Voucher> {
    let message = Voucher {
        channel_id: channel(number).id(),
        cumulative: Amount(cumulative),
        receipt_hash: B256::repeat_byte(9),
    };
    Signed::sign(message, &domain(), &session())
}

fn reservation(number: u8, capacity: u128, until: u64) -> Signed<Reservation> {
    let message = Reservation {
        channel_id: channel(number).id(),
        capacity: Amount(capacity),
        valid_until: UnixSeconds(until),
    };
    Signed::sign(message, &domain(), &session())
}

async fn open(path: &Path) -> VoucherStore {
    VoucherStore::open(path, domain()).await.unwrap()
}

async fn latest(store: &VoucherStore, number: u8) -> u128 {
    let stored = store.channel(channel(number).id()).await.unwrap().unwrap();
    stored.voucher.unwrap().message.cumulative.0
}

#[tokio::test]
async fn an_older_voucher_never_replaces_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("vouchers.db")).await;
    store.add_channel(&channel(1)).await.unwrap();
    store.add_channel(&channel(1)).await.unwrap();
    // Above 2^64, where a wrong order of bytes would show.
    let large = u128::from(u64::MAX) + 5;
    for (cumulative, expected) in [
        (255, Accepted::Newer),
        (256, Accepted::Newer),
        (
            255,
            Accepted::NotNewer {
                stored: Amount(256),
            },
        ),
        (
            256,
            Accepted::NotNewer {
                stored: Amount(256),
            },
        ),
        (large, Accepted::Newer),
        (
            u128::from(u64::MAX),
            Accepted::NotNewer {
                stored: Amount(large),
            },
        ),
    ] {
        let accepted = store.accept(&voucher(1, cumulative)).await.unwrap();
        assert_eq!(accepted, expected);
    }
    let stored = store.channel(channel(1).id()).await.unwrap().unwrap();
    assert_eq!(stored.channel, channel(1));
    assert_eq!(stored.voucher, Some(voucher(1, large)));
}

#[tokio::test]
async fn only_the_session_keys_vouchers_are_kept_and_a_batch_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("vouchers.db")).await;
    let unknown = store.accept(&voucher(1, 5)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownChannel(_))));
    let unknown = store.accept_reservation(&reservation(1, 5, 5)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownChannel(_))));
    store.add_channel(&channel(1)).await.unwrap();
    store.add_channel(&channel(2)).await.unwrap();
    let mut forged = voucher(2, 5);
    forged.message.cumulative = Amount::MAX;
    let batch = [voucher(1, 10), forged];
    let refused = store.accept_all(&batch).await;
    assert!(matches!(refused, Err(StoreError::NotTheirs { .. })));
    let stored = store.channel(channel(1).id()).await.unwrap().unwrap();
    assert_eq!(stored.voucher, None);
    let batch = [voucher(1, 10), voucher(2, 20), voucher(1, 5)];
    let accepted = store.accept_all(&batch).await.unwrap();
    assert_eq!(
        accepted,
        [
            Accepted::Newer,
            Accepted::Newer,
            Accepted::NotNewer { stored: Amount(10) }
        ]
    );
}

#[tokio::test]
async fn the_best_claim_is_the_most_valuable_that_has_not_lapsed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("vouchers.db")).await;
    store.add_channel(&channel(1)).await.unwrap();
    store.accept(&voucher(1, 100)).await.unwrap();
    let day = GRACE_SECONDS;
    let best = async |now: u64| {
        let stored = store.channel(channel(1).id()).await.unwrap().unwrap();
        let best = stored.best_claim(UnixSeconds(now));
        best.map(|(r, due)| (r.message.valid_until.0, due.0))
    };
    assert_eq!(best(0).await, None);
    for (capacity, until) in [
        (50, 1_000),
        (120, 2_000),
        (500, 3_000),
        (90, 1_500),
        (80, 900),
    ] {
        let reservation = reservation(1, capacity, until);
        store.accept_reservation(&reservation).await.unwrap();
    }
    let stored = store.channel(channel(1).id()).await.unwrap().unwrap();
    // Of these, the last one covers at least as much for at least as long as all the others.
    assert_eq!(stored.reservations.len(), 1);
    assert_eq!(
        stored.latest_reservation().unwrap().message.capacity,
        Amount(500)
    );
    store
        .accept_reservation(&reservation(1, 70, 4_000))
        .await
        .unwrap();
    assert_eq!(best(0).await, Some((3_000, 100)));
    assert_eq!(best(3_000 + day).await, Some((3_000, 100)));
    assert_eq!(best(3_001 + day).await, Some((4_000, 70)));
    assert_eq!(best(4_001 + day).await, None);
    store
        .set_claimed(channel(1).id(), Amount(60))
        .await
        .unwrap();
    store
        .set_claimed(channel(1).id(), Amount(40))
        .await
        .unwrap();
    assert_eq!(best(0).await, Some((3_000, 40)));
    assert_eq!(best(3_001 + day).await, Some((4_000, 10)));
    assert_eq!(store.unclaimed().await.unwrap().len(), 1);
    store
        .set_claimed(channel(1).id(), Amount(100))
        .await
        .unwrap();
    assert_eq!(best(0).await, None);
    assert!(store.unclaimed().await.unwrap().is_empty());
    assert_eq!(store.channels().await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_process_and_one_contract_for_each_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = open(&path).await;
    let second = VoucherStore::open(&path, domain()).await;
    let own = std::process::id();
    assert!(
        matches!(&second, Err(StoreError::InUse { pid: Some(pid), .. }) if *pid == own),
        "{second:?}"
    );
    let text = second.unwrap_err().to_string();
    assert!(text.contains(&format!("pid {own}")), "{text}");
    store.close().await;
    let other = Domain {
        chain_id: 8,
        ..domain()
    };
    let wrong = VoucherStore::open(&path, other).await;
    assert!(matches!(wrong, Err(StoreError::OtherContract(_))));
    open(&path).await;
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    std::fs::write(
        &path,
        "this is no database, and long enough to be taken for one",
    )
    .unwrap();
    let garbage = VoucherStore::open(&path, domain()).await;
    assert!(
        matches!(garbage, Err(StoreError::Corrupt { .. })),
        "{garbage:?}"
    );

    let path = folder.path().join("damaged.db");
    let store = open(&path).await;
    for number in 1..=200 {
        store.add_channel(&channel(number)).await.unwrap();
    }
    store.close().await;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[0xa5; 4_096]).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut before = Vec::new();
    file.read_to_end(&mut before).unwrap();
    let damaged = VoucherStore::open(&path, domain()).await;
    assert!(
        matches!(damaged, Err(StoreError::Corrupt { .. })),
        "{damaged:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// A copy of the files while the store is open is what a killed process leaves behind.
#[tokio::test]
async fn what_was_accepted_survives_a_kill_and_a_torn_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = open(&path).await;
    store.add_channel(&channel(1)).await.unwrap();
    let log = folder.path().join("vouchers.db-wal");
    let mut lengths = Vec::new();
    for cumulative in 1..=5 {
        store.accept(&voucher(1, cumulative)).await.unwrap();
        lengths.push(std::fs::metadata(&log).unwrap().len() as usize);
    }
    let database = std::fs::read(&path).unwrap();
    let whole = std::fs::read(&log).unwrap();
    for cut in [0, 1, 1_000, 4_000] {
        let left = &whole[..lengths[4] - cut];
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("vouchers.db");
        std::fs::write(&path, &database).unwrap();
        std::fs::write(copy.path().join("vouchers.db-wal"), left).unwrap();
        let expected = if cut == 0 { 5 } else { 4 };
        assert_eq!(latest(&open(&path).await, 1).await, expected, "cut {cut}");
    }
}

/// A thousand vouchers, one each millisecond: a disk that answers sooner than the next one comes is not asked for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_one_by_one_is_gathered() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder.path().join("vouchers.db")).await);
    for number in 0..10 {
        store.add_channel(&channel(number)).await.unwrap();
    }
    let before = store.commits();
    let mut asking = tokio::task::JoinSet::new();
    for cumulative in 1..=100 {
        for number in 0..10 {
            let (store, voucher) = (store.clone(), voucher(number, cumulative));
            asking.spawn(async move { store.accept(&voucher).await.unwrap() });
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    assert_eq!(asking.join_all().await.len(), 1_000);
    let commits = store.commits() - before;
    assert!(commits < 250, "{commits} syncs for 1,000 vouchers");
    // A channel that somebody waits for does not wait for vouchers to be gathered.
    let begun = tokio::time::Instant::now();
    for number in 10..20 {
        for cumulative in 101..=200 {
            let (store, voucher) = (store.clone(), voucher(0, cumulative));
            tokio::spawn(async move { store.accept(&voucher).await.unwrap() });
        }
        store.add_channel(&channel(number)).await.unwrap();
    }
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

/// A thousand tasks ask while the disk is busy with the first of them; the others share one sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_at_once_is_written_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = Arc::new(open(&path).await);
    for number in 0..10 {
        store.add_channel(&channel(number)).await.unwrap();
    }
    let vouchers = (0..10).flat_map(|number| (1..=100).map(move |sum| voucher(number, sum)));
    let mut vouchers: Vec<_> = vouchers.collect();
    let before = store.commits();
    let waiting = async |requests| {
        while store.writes.max_capacity() - store.writes.capacity() != requests {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    // Whoever holds the file's lock keeps the store's commit waiting, as a slow disk does.
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = vouchers.pop().unwrap();
    let mut first = Box::pin(store.accept(&first));
    tokio::select! {
        biased;
        answer = &mut first => panic!("it is not on disk: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    waiting(0).await;
    let mut asking = tokio::task::JoinSet::new();
    for voucher in vouchers {
        let store = store.clone();
        asking.spawn(async move { store.accept(&voucher).await.unwrap() });
    }
    waiting(999).await;
    assert_eq!(store.commits(), before);
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(first.await.unwrap(), Accepted::Newer);
    assert_eq!(asking.join_all().await.len(), 999);
    assert_eq!(store.commits() - before, 2);
    for number in 0..10 {
        assert_eq!(latest(&store, number).await, 100);
    }
    Arc::into_inner(store).unwrap().close().await;
    let store = open(&path).await;
    let again = store.accept(&voucher(3, 100)).await.unwrap();
    assert_eq!(
        again,
        Accepted::NotNewer {
            stored: Amount(100)
        }
    );
}

async fn accept_checked(
    store: &VoucherStore,
    voucher: &Signed<Voucher>,
    checked: Option<CheckedSignature>,
) -> Result<Accepted, StoreError> {
    let accepted = store.accept_checked(&[(voucher.clone(), checked)]).await?;
    Ok(accepted[0])
}

/// A check that somebody else has made saves one here, and only for the very voucher that it was of.
#[tokio::test]
async fn a_check_counts_for_its_own_voucher_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("vouchers.db")).await;
    store.add_channel(&channel(1)).await.unwrap();
    let mut signer = KnownSigner::new(session().address());
    let good = voucher(1, 5);
    let checked = signer.check_signed(&good, &domain()).unwrap();
    let mut forged = voucher(1, 500);
    forged.signature = good.signature;
    let refused = accept_checked(&store, &forged, Some(checked)).await;
    assert!(matches!(refused, Err(StoreError::NotTheirs { .. })));
    // Of another contract, and by another key: as good as none.
    let elsewhere = Domain {
        chain_id: domain().chain_id + 1,
        ..domain()
    };
    let foreign = Signed::sign(forged.message.clone(), &elsewhere, &session());
    let checked_there = signer.check_signed(&foreign, &elsewhere).unwrap();
    let refused = accept_checked(&store, &foreign, Some(checked_there)).await;
    assert!(matches!(refused, Err(StoreError::NotTheirs { .. })));
    let stranger = SecretKey::from_bytes(&[77; 32]).unwrap();
    let theirs = Signed::sign(forged.message, &domain(), &stranger);
    let mut signer = KnownSigner::new(stranger.address());
    let checked_theirs = signer.check_signed(&theirs, &domain()).unwrap();
    let refused = accept_checked(&store, &theirs, Some(checked_theirs)).await;
    assert!(matches!(refused, Err(StoreError::NotTheirs { .. })));
    let kept = store.channel(channel(1).id()).await.unwrap().unwrap();
    assert_eq!(kept.voucher, None);
    let accepted = accept_checked(&store, &good, Some(checked)).await.unwrap();
    assert_eq!(accepted, Accepted::Newer);
    assert_eq!(
        accept_checked(&store, &voucher(1, 6), None).await.unwrap(),
        Accepted::Newer
    );
    let unknown = accept_checked(&store, &voucher(9, 1), None).await;
    assert!(matches!(unknown, Err(StoreError::UnknownChannel(_))));
    assert_eq!(latest(&store, 1).await, 6);
}

/// A plain verification does not see `v`; the contract does.
#[tokio::test]
async fn a_voucher_with_the_other_v_is_kept_and_claimed_with_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("vouchers.db")).await;
    store.add_channel(&channel(1)).await.unwrap();
    for cumulative in 1..=4 {
        let mut shown = voucher(1, cumulative);
        shown.signature.0[64] = 27 + 28 - shown.signature.0[64];
        assert_eq!(store.accept(&shown).await.unwrap(), Accepted::Newer);
        let stored = store.unclaimed().await.unwrap().remove(0);
        assert_eq!(stored.voucher, Some(voucher(1, cumulative)));
    }
    let mut odd = voucher(1, 9);
    odd.signature.0[64] = 1;
    let refused = store.accept(&odd).await;
    assert!(matches!(refused, Err(StoreError::NotTheirs { .. })));
}

/// Each bit of each value that is kept, in turn: either the file is refused, or nothing in it has changed.
#[tokio::test]
async fn a_bit_that_flips_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = open(&path).await;
    store.add_channel(&channel(1)).await.unwrap();
    store.accept(&voucher(1, 77)).await.unwrap();
    store
        .accept_reservation(&reservation(1, 0x0102_0304, 0x0506_0708))
        .await
        .unwrap();
    store
        .set_claimed(channel(1).id(), Amount(33))
        .await
        .unwrap();
    let good = store.channels().await.unwrap();
    store.close().await;
    let whole = std::fs::read(&path).unwrap();
    let (channel, Signature(promise)) = (channel(1), voucher(1, 77).signature);
    let Signature(reserved) = reservation(1, 0x0102_0304, 0x0506_0708).signature;
    let kept: [Vec<u8>; 8] = [
        channel.id().0.to_vec(),
        channel.payer.to_vec(),
        channel.payer_signer.to_vec(),
        77_u128.to_be_bytes().to_vec(),
        promise.to_vec(),
        reserved.to_vec(),
        0x0102_0304_u128.to_be_bytes().to_vec(),
        0x0506_0708_u32.to_be_bytes().to_vec(),
    ];
    let values = kept.len();
    let mut noticed = 0;
    for value in kept {
        let places: Vec<_> = (0..=whole.len() - value.len())
            .filter(|at| whole[*at..].starts_with(&value))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            let mut damaged = whole.clone();
            damaged[at + value.len() / 2] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            match VoucherStore::open(&path, domain()).await {
                Err(StoreError::Corrupt { .. }) => noticed += 1,
                Err(other) => panic!("{other}"),
                Ok(store) => {
                    assert_eq!(store.channels().await.unwrap(), good);
                    store.close().await;
                }
            }
        }
    }
    // Some of the places are remains of rows that were written anew.
    assert!(noticed >= values, "{noticed}");
}

/// A file of before the checksums is taken, and its rows get theirs as they change.
#[tokio::test]
async fn a_file_without_checksums_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = open(&path).await;
    store.add_channel(&channel(1)).await.unwrap();
    store.accept(&voucher(1, 5)).await.unwrap();
    for table in ["channels", "vouchers", "reservations"] {
        let drop = format!("ALTER TABLE {table} DROP COLUMN checksum");
        sqlx::query(sqlx::AssertSqlSafe(drop))
            .execute(&store.pool)
            .await
            .unwrap();
    }
    store.close().await;
    let store = open(&path).await;
    assert_eq!(latest(&store, 1).await, 5);
    store.accept(&voucher(1, 6)).await.unwrap();
    store
        .accept_reservation(&reservation(1, 9, 9))
        .await
        .unwrap();
    store.close().await;
    let store = open(&path).await;
    assert_eq!(latest(&store, 1).await, 6);
    let missing: i64 = sqlx::query_scalar("SELECT count(*) FROM vouchers WHERE checksum IS NULL")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(missing, 0);
}
