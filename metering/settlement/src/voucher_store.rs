//! What was promised, on disk: channels, their reservations and their latest vouchers.

mod file;
mod known;
mod rows;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipsx_metering::{
    Amount, Channel, ChannelId, CheckedSignature, Domain, KnownSigner, Reservation, Signed,
    UnixSeconds, Voucher,
};
use rusqlite::{Connection, OptionalExtension};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

pub use file::StoreError;
use file::{BUSY, connect, database_error, lock, make_private, sqlite_error};
use known::KnownChannels;
use rows::Reader;
use writer::{Job, QUEUE, Write, Writer};

/// A claim is good for this long after its reservation.
const GRACE_SECONDS: u64 = 24 * 3_600;
/// Vouchers checked in one go, about 2 ms, before other tasks get their turn.
const TURN: usize = 64;

/// What the store did with a voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is the channel's latest, and on disk.
    Newer,
    /// The one on disk is worth as much or more, and stays.
    NotNewer {
        /// What the one on disk is worth.
        stored: Amount,
    },
}

/// A channel with everything that is kept about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChannel {
    /// Its parameters.
    pub channel: Channel,
    /// The latest voucher.
    pub voucher: Option<Signed<Voucher>>,
    /// The reservations that no other one replaces, the earliest ending first.
    pub reservations: Vec<Signed<Reservation>>,
    /// Paid so far, as far as this store knows.
    pub claimed: Amount,
}

impl StoredChannel {
    /// The reservation that ends last.
    pub fn latest_reservation(&self) -> Option<&Signed<Reservation>> {
        self.reservations.last()
    }

    /// The reservation to claim with at `now`, and what that claim is worth: the most valuable of those that have
    /// not lapsed; among equals the one that ends first, because it draws on deposits that later ones can't.
    pub fn best_claim(&self, now: UnixSeconds) -> Option<(&Signed<Reservation>, Amount)> {
        let cumulative = self.voucher.as_ref()?.message.cumulative;
        let mut best: Option<(&Signed<Reservation>, Amount)> = None;
        for reservation in &self.reservations {
            let Reservation {
                capacity,
                valid_until,
                ..
            } = reservation.message;
            if now > valid_until.after(GRACE_SECONDS) {
                continue;
            }
            let due = cumulative.min(capacity).saturating_sub(self.claimed);
            if due > best.map_or(Amount::ZERO, |(_, due)| due) {
                best = Some((reservation, due));
            }
        }
        best
    }
}

/// The durable store of vouchers for one contract; the only one open on its file.
///
/// Everything that is asked while the disk is busy is written together: ten thousand channels with a voucher each
/// second cost five syncs a second, not ten thousand.
#[derive(Debug)]
pub struct VoucherStore {
    /// Reads only.
    pool: SqlitePool,
    path: PathBuf,
    domain: Domain,
    known: Arc<KnownChannels>,
    commits: Arc<AtomicU64>,
    writes: mpsc::Sender<Job>,
    /// Ends the writer's gathering.
    hurry: Arc<Notify>,
    writer: JoinHandle<()>,
    /// Locked for as long as the store is open; `None` for one that joined.
    _lock: Option<Arc<File>>,
}

impl VoucherStore {
    /// Opens the store at `path`, making it if there is none, for the vouchers of one contract. Reads everything in it
    /// once, so that damage is found now and not when the money is needed.
    pub async fn open(path: &Path, domain: Domain) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        make_private(path)?;
        Self::connect(path, domain, Some(Arc::new(lock))).await
    }

    /// Opens an existing store beside the process that may have it open, to claim what it holds: claims are noted by
    /// the chain's word and never go down, so two processes cannot undo each other's notes.
    pub async fn join(path: &Path, domain: Domain) -> Result<Self, StoreError> {
        make_private(path)?;
        Self::connect(path, domain, None).await
    }

    async fn connect(
        path: &Path,
        domain: Domain,
        lock: Option<Arc<File>>,
    ) -> Result<Self, StoreError> {
        let failed = |error| sqlite_error(path, &error);
        let connection = connect(path).map_err(failed)?;
        check(&connection, path)?;
        bind(&connection, path, &domain)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(|error| database_error(path, error))?;
        let known = Arc::new(KnownChannels::new(domain.separator()));
        let commits = Arc::new(AtomicU64::new(0));
        let hurry = Arc::new(Notify::new());
        let writer = Writer {
            connection: Some(connection),
            path: path.to_path_buf(),
            known: known.clone(),
            commits: commits.clone(),
            hurry: hurry.clone(),
            _lock: lock.clone(),
        };
        let (writes, jobs) = mpsc::channel(QUEUE);
        let runtime = Handle::current();
        let writing = move || runtime.block_on(writer.run(jobs));
        let store = Self {
            pool,
            path: path.to_path_buf(),
            domain,
            known,
            commits,
            writes,
            hurry,
            writer: tokio::task::spawn_blocking(writing),
            _lock: lock,
        };
        match store.load().await {
            Ok(()) => Ok(store),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Reads everything, and remembers each channel's signer and latest amount.
    async fn load(&self) -> Result<(), StoreError> {
        let orphans = sqlx::query("PRAGMA foreign_key_check")
            .fetch_all(&self.pool)
            .await
            .map_err(self.reader().error())?;
        if !orphans.is_empty() {
            return Err(StoreError::Corrupt {
                path: self.path.clone(),
                reason: format!("{} rows belong to no channel", orphans.len()),
            });
        }
        for stored in self.select("", None).await? {
            let latest = stored.voucher.map(|voucher| voucher.message.cumulative);
            let signer = KnownSigner::new(stored.channel.payer_signer);
            let latest = latest.unwrap_or_default();
            self.known.add(stored.channel.id(), signer, latest);
        }
        Ok(())
    }

    /// The contract whose vouchers it holds.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// How often it has written since it was opened, each time with one sync.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Closes the file; everything accepted is on disk already.
    pub async fn close(self) {
        drop(self.writes);
        self.hurry.notify_one();
        // It fails only if it panicked, and then there is nothing left to close.
        let _ = self.writer.await;
        self.pool.close().await;
    }

    /// Makes a channel known. Nothing happens if it is.
    pub async fn add_channel(&self, channel: &Channel) -> Result<(), StoreError> {
        let known = self.known.latest(channel.id()).is_some();
        if known {
            return Ok(());
        }
        self.write(Write::Channel(channel.clone())).await.map(drop)
    }

    /// Keeps a reservation, on disk when this returns, and drops those that it makes useless. Whether the operator
    /// signed it is for the caller to check: the store does not know the operator's key.
    pub async fn accept_reservation(
        &self,
        reservation: &Signed<Reservation>,
    ) -> Result<(), StoreError> {
        let write = Write::Reservation(reservation.clone());
        self.write(write).await.map(drop)
    }

    /// Makes a channel known, if it is not, and keeps a reservation on it, with one sync for many: at busy times that takes
    /// up to a fifth of a second, so this is for what the caller has on disk somewhere else.
    pub async fn reserve(
        &self,
        channel: &Channel,
        reservation: &Signed<Reservation>,
    ) -> Result<(), StoreError> {
        let write = Write::Reserved(Box::new((channel.clone(), reservation.clone())));
        self.write(write).await.map(drop)
    }

    /// Keeps a voucher if it is worth more than the one there is; on disk when this returns.
    ///
    /// Ask from many tasks at once, or use [`accept_all`](Self::accept_all): one after the other, each waits for its
    /// own sync.
    pub async fn accept(&self, voucher: &Signed<Voucher>) -> Result<Accepted, StoreError> {
        let accepted = self.accept_all(std::slice::from_ref(voucher)).await?;
        Ok(accepted[0])
    }

    /// Keeps several vouchers: all of them, or none if one is not valid.
    pub async fn accept_all(
        &self,
        vouchers: &[Signed<Voucher>],
    ) -> Result<Vec<Accepted>, StoreError> {
        for turn in vouchers.chunks(TURN) {
            for voucher in turn {
                self.known.check(voucher)?;
            }
            if turn.len() == TURN {
                tokio::task::yield_now().await;
            }
        }
        self.write(Write::Vouchers(vouchers.to_vec())).await
    }

    /// The same for vouchers whose signatures somebody may have checked; what a check does not cover is checked here.
    pub async fn accept_checked(
        &self,
        vouchers: &[(Signed<Voucher>, Option<CheckedSignature>)],
    ) -> Result<Vec<Accepted>, StoreError> {
        for (voucher, checked) in vouchers {
            let covered = checked.is_some_and(|checked| self.known.is_covered(voucher, &checked));
            if !covered {
                self.known.check(voucher)?;
            }
        }
        let vouchers = vouchers.iter().map(|(voucher, _)| voucher.clone());
        self.write(Write::Vouchers(vouchers.collect())).await
    }

    /// Notes what the chain says a channel was paid. It never goes down.
    pub async fn set_claimed(&self, channel: ChannelId, claimed: Amount) -> Result<(), StoreError> {
        self.write(Write::Claimed(channel, claimed)).await.map(drop)
    }

    /// What the latest voucher on a channel comes to, without asking the disk; `None` if the channel is not known.
    pub fn latest(&self, channel: ChannelId) -> Option<Amount> {
        self.known.latest(channel)
    }

    /// Everything about a channel.
    pub async fn channel(&self, id: ChannelId) -> Result<Option<StoredChannel>, StoreError> {
        let found = self.select("WHERE c.id = ?", Some(id)).await?;
        Ok(self.claimable(found)?.into_iter().next())
    }

    /// All channels.
    pub async fn channels(&self) -> Result<Vec<StoredChannel>, StoreError> {
        self.claimable(self.select("", None).await?)
    }

    /// The channels with more promised than paid, whether or not a reservation still covers it.
    pub async fn unclaimed(&self) -> Result<Vec<StoredChannel>, StoreError> {
        let found = self.select("WHERE v.cumulative > c.claimed", None).await?;
        self.claimable(found)
    }

    async fn write(&self, write: Write) -> Result<Vec<Accepted>, StoreError> {
        let (done, answer) = oneshot::channel();
        let stopped = || StoreError::Database {
            path: self.path.clone(),
            reason: "the task that writes has stopped; restart the program".into(),
        };
        let hurries = write.hurries();
        let job = Job { write, done };
        self.writes.send(job).await.map_err(|_| stopped())?;
        if hurries {
            self.hurry.notify_one();
        }
        answer.await.map_err(|_| stopped())?
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            path: &self.path,
            domain: &self.domain,
        }
    }

    /// Each with its voucher as the contract takes it.
    fn claimable(
        &self,
        mut channels: Vec<StoredChannel>,
    ) -> Result<Vec<StoredChannel>, StoreError> {
        for stored in &mut channels {
            if let Some(voucher) = stored.voucher.take() {
                stored.voucher = Some(self.reader().claimable(&stored.channel, voucher)?);
            }
        }
        Ok(channels)
    }

    async fn select(
        &self,
        condition: &'static str,
        id: Option<ChannelId>,
    ) -> Result<Vec<StoredChannel>, StoreError> {
        let reader = self.reader();
        let argument = id.map(|id| id.0.to_vec()).unwrap_or_default();
        let mut transaction = self.pool.begin().await.map_err(reader.error())?;
        // The condition is one of this file's own constants.
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT c.*, v.cumulative, v.receipt_hash, v.signature, v.checksum AS voucher_checksum
             FROM channels c LEFT JOIN vouchers v ON v.channel = c.id {condition} ORDER BY c.id"
        )))
        .bind(argument.clone())
        .fetch_all(&mut *transaction)
        .await
        .map_err(reader.error())?;
        let reserved = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT r.* FROM reservations r JOIN channels c ON c.id = r.channel
             LEFT JOIN vouchers v ON v.channel = c.id {condition} ORDER BY r.valid_until"
        )))
        .bind(argument)
        .fetch_all(&mut *transaction)
        .await
        .map_err(reader.error())?;
        let mut reservations: HashMap<ChannelId, Vec<_>> = HashMap::new();
        for row in &reserved {
            let id = ChannelId(reader.bytes(row, "channel")?.into());
            let reservation = reader.reservation(id, row)?;
            reservations.entry(id).or_default().push(reservation);
        }
        let mut channels = Vec::with_capacity(rows.len());
        for row in &rows {
            let (channel, claimed) = reader.channel(row)?;
            let id = channel.id();
            channels.push(StoredChannel {
                voucher: reader.voucher(id, row)?,
                reservations: reservations.remove(&id).unwrap_or_default(),
                claimed,
                channel,
            });
        }
        Ok(channels)
    }
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    let verdict: String = verdict.map_err(|error| sqlite_error(path, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.to_path_buf(),
        reason: verdict,
    })
}

/// Makes the tables and ties the file to its contract, or checks that it is tied to this one.
fn bind(connection: &Connection, path: &Path, domain: &Domain) -> Result<(), StoreError> {
    let failed = |error| sqlite_error(path, &error);
    rows::make_tables(connection).map_err(failed)?;
    let ours = (domain.chain_id.to_be_bytes(), domain.contract.0.0);
    let bound = connection
        .query_row("SELECT chain_id, address FROM contract", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional();
    match bound.map_err(failed)? {
        Some(bound) if bound == ours => Ok(()),
        Some(_) => Err(StoreError::OtherContract(path.to_path_buf())),
        None => {
            let insert = "INSERT INTO contract (chain_id, address) VALUES (?, ?)";
            connection.execute(insert, ours).map(drop).map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests;
