//! What was promised, on disk: channels, their reservations and their latest vouchers.

mod file;

use std::fs::File;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256};
use ipsx_metering::{
    Amount, Channel, ChannelId, Domain, NetworkId, Reservation, Signature, Signed, UnixSeconds,
    Voucher,
};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqliteConnection};

pub use file::StoreError;
use file::{database_error, lock, make_private};

/// A write waits this long for that of another process.
const BUSY: std::time::Duration = std::time::Duration::from_secs(10);
/// A claim is good for this long after its reservation.
const GRACE_SECONDS: u64 = 24 * 3_600;

/// Amounts are 16 bytes, big endian: SQLite compares blobs byte by byte, and its integers have 64 bits only.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS contract (
    chain_id BLOB NOT NULL,
    address BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS channels (
    id BLOB PRIMARY KEY,
    network BLOB NOT NULL,
    payer BLOB NOT NULL,
    payer_signer BLOB NOT NULL,
    provider BLOB NOT NULL,
    salt BLOB NOT NULL,
    claimed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vouchers (
    channel BLOB PRIMARY KEY REFERENCES channels (id),
    cumulative BLOB NOT NULL,
    receipt_hash BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    channel BLOB NOT NULL REFERENCES channels (id),
    capacity BLOB NOT NULL,
    valid_until INTEGER NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (channel, capacity, valid_until)
) STRICT, WITHOUT ROWID;
";

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
#[derive(Debug)]
pub struct VoucherStore {
    pool: SqlitePool,
    path: PathBuf,
    domain: Domain,
    /// Locked for as long as the store is open; `None` for one that joined.
    _lock: Option<File>,
}

impl VoucherStore {
    /// Opens the store at `path`, making it if there is none, for the vouchers of one contract.
    pub async fn open(path: &Path, domain: Domain) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        make_private(path)?;
        Self::connect(path, domain, Some(lock)).await
    }

    /// Opens an existing store beside the process that may have it open, to claim what it holds: claims are noted by
    /// the chain's word and never go down, so two processes cannot undo each other's notes.
    pub async fn join(path: &Path, domain: Domain) -> Result<Self, StoreError> {
        make_private(path)?;
        Self::connect(path, domain, None).await
    }

    async fn connect(path: &Path, domain: Domain, lock: Option<File>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .foreign_keys(true);
        let connected = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await;
        let pool = connected.map_err(|e| database_error(path, e))?;
        let store = Self {
            pool,
            path: path.to_path_buf(),
            domain,
            _lock: lock,
        };
        store.check().await?;
        store.bind().await?;
        Ok(store)
    }

    /// The contract whose vouchers it holds.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// Closes the file; everything accepted is on disk already.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Makes a channel known. Nothing happens if it is.
    pub async fn add_channel(&self, channel: &Channel) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO channels (id, network, payer, payer_signer, provider, salt, claimed)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(channel.id().0.to_vec())
        .bind(channel.network.0.to_vec())
        .bind(channel.payer.to_vec())
        .bind(channel.payer_signer.to_vec())
        .bind(channel.provider.to_vec())
        .bind(channel.salt.to_vec())
        .bind(Amount::ZERO.0.to_be_bytes().to_vec())
        .execute(&self.pool)
        .await
        .map_err(self.error())?;
        Ok(())
    }

    /// Keeps a reservation, on disk when this returns, and drops those that it makes useless. Whether the operator
    /// signed it is for the caller to check: the store does not know the operator's key.
    pub async fn accept_reservation(
        &self,
        reservation: &Signed<Reservation>,
    ) -> Result<(), StoreError> {
        let Reservation {
            channel_id,
            capacity,
            valid_until,
        } = reservation.message;
        let mut transaction = self.pool.begin().await.map_err(self.error())?;
        self.load_channel(&mut transaction, channel_id).await?;
        // One that covers no more and ends no later is of no use; the caller may also bring an old one again.
        sqlx::query(
            "DELETE FROM reservations WHERE channel = ? AND capacity <= ? AND valid_until <= ?",
        )
        .bind(channel_id.0.to_vec())
        .bind(capacity.0.to_be_bytes().to_vec())
        .bind(seconds(valid_until))
        .execute(&mut *transaction)
        .await
        .map_err(self.error())?;
        sqlx::query(
            "INSERT INTO reservations (channel, capacity, valid_until, signature)
             SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS
             (SELECT 1 FROM reservations WHERE channel = ?1 AND capacity >= ?2 AND valid_until >= ?3)",
        )
        .bind(channel_id.0.to_vec())
        .bind(capacity.0.to_be_bytes().to_vec())
        .bind(seconds(valid_until))
        .bind(reservation.signature.0.to_vec())
        .execute(&mut *transaction)
        .await
        .map_err(self.error())?;
        transaction.commit().await.map_err(self.error())
    }

    /// Keeps a voucher if it is worth more than the one there is; on disk when this returns.
    pub async fn accept(&self, voucher: &Signed<Voucher>) -> Result<Accepted, StoreError> {
        let accepted = self.accept_all(std::slice::from_ref(voucher)).await?;
        Ok(accepted[0])
    }

    /// Keeps several vouchers with one write to the disk: all of them, or none if one is not valid.
    pub async fn accept_all(
        &self,
        vouchers: &[Signed<Voucher>],
    ) -> Result<Vec<Accepted>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(self.error())?;
        let mut accepted = Vec::with_capacity(vouchers.len());
        for voucher in vouchers {
            accepted.push(self.keep(&mut transaction, voucher).await?);
        }
        transaction.commit().await.map_err(self.error())?;
        Ok(accepted)
    }

    /// Notes what the chain says a channel was paid. It never goes down.
    pub async fn set_claimed(&self, channel: ChannelId, claimed: Amount) -> Result<(), StoreError> {
        let claimed = claimed.0.to_be_bytes().to_vec();
        sqlx::query("UPDATE channels SET claimed = ?1 WHERE id = ?2 AND claimed < ?1")
            .bind(claimed)
            .bind(channel.0.to_vec())
            .execute(&self.pool)
            .await
            .map_err(self.error())?;
        Ok(())
    }

    /// Everything about a channel.
    pub async fn channel(&self, id: ChannelId) -> Result<Option<StoredChannel>, StoreError> {
        let found = self.select("WHERE c.id = ?", Some(id.0.to_vec())).await?;
        Ok(found.into_iter().next())
    }

    /// All channels.
    pub async fn channels(&self) -> Result<Vec<StoredChannel>, StoreError> {
        self.select("", None).await
    }

    /// The channels with more promised than paid, whether or not a reservation still covers it.
    pub async fn unclaimed(&self) -> Result<Vec<StoredChannel>, StoreError> {
        self.select("WHERE v.cumulative > c.claimed", None).await
    }

    async fn keep(
        &self,
        connection: &mut SqliteConnection,
        voucher: &Signed<Voucher>,
    ) -> Result<Accepted, StoreError> {
        let id = voucher.message.channel_id;
        let channel = self.load_channel(connection, id).await?;
        // A forged voucher of a huge amount would shut out every good one.
        voucher
            .verify(&self.domain, channel.payer_signer)
            .map_err(|reason| StoreError::NotTheirs {
                channel: id,
                reason,
            })?;
        let written = sqlx::query(
            "INSERT INTO vouchers (channel, cumulative, receipt_hash, signature) VALUES (?, ?, ?, ?)
             ON CONFLICT (channel) DO UPDATE SET cumulative = excluded.cumulative,
             receipt_hash = excluded.receipt_hash, signature = excluded.signature
             WHERE excluded.cumulative > vouchers.cumulative",
        )
        .bind(id.0.to_vec())
        .bind(voucher.message.cumulative.0.to_be_bytes().to_vec())
        .bind(voucher.message.receipt_hash.to_vec())
        .bind(voucher.signature.0.to_vec())
        .execute(&mut *connection)
        .await
        .map_err(self.error())?;
        if written.rows_affected() > 0 {
            return Ok(Accepted::Newer);
        }
        let row = sqlx::query("SELECT cumulative FROM vouchers WHERE channel = ?")
            .bind(id.0.to_vec())
            .fetch_one(connection)
            .await
            .map_err(self.error())?;
        Ok(Accepted::NotNewer {
            stored: self.amount(&row, "cumulative")?,
        })
    }

    async fn load_channel(
        &self,
        connection: &mut SqliteConnection,
        id: ChannelId,
    ) -> Result<Channel, StoreError> {
        let row = sqlx::query("SELECT * FROM channels WHERE id = ?")
            .bind(id.0.to_vec())
            .fetch_optional(connection)
            .await
            .map_err(self.error())?;
        self.read_channel(&row.ok_or(StoreError::UnknownChannel(id))?)
    }

    async fn select(
        &self,
        condition: &'static str,
        argument: Option<Vec<u8>>,
    ) -> Result<Vec<StoredChannel>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(self.error())?;
        // The condition is one of this file's own constants.
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT c.*, v.cumulative, v.receipt_hash, v.signature
             FROM channels c LEFT JOIN vouchers v ON v.channel = c.id {condition} ORDER BY c.id"
        ));
        let mut query = sqlx::query(sql);
        if let Some(argument) = argument {
            query = query.bind(argument);
        }
        let rows = query
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.error())?;
        let mut channels = Vec::with_capacity(rows.len());
        for row in rows {
            let channel = self.read_channel(&row)?;
            let id = channel.id();
            let reservations = sqlx::query(
                "SELECT capacity, valid_until, signature FROM reservations
                 WHERE channel = ? ORDER BY valid_until",
            )
            .bind(id.0.to_vec())
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.error())?;
            channels.push(StoredChannel {
                voucher: self.read_voucher(id, &row)?,
                reservations: reservations
                    .iter()
                    .map(|row| self.read_reservation(id, row))
                    .collect::<Result<_, _>>()?,
                claimed: self.amount(&row, "claimed")?,
                channel,
            });
        }
        Ok(channels)
    }

    fn read_channel(&self, row: &SqliteRow) -> Result<Channel, StoreError> {
        Ok(Channel {
            network: NetworkId(B256::new(self.bytes(row, "network")?)),
            payer: Address::new(self.bytes(row, "payer")?),
            payer_signer: Address::new(self.bytes(row, "payer_signer")?),
            provider: Address::new(self.bytes(row, "provider")?),
            salt: B256::new(self.bytes(row, "salt")?),
        })
    }

    fn read_voucher(
        &self,
        channel_id: ChannelId,
        row: &SqliteRow,
    ) -> Result<Option<Signed<Voucher>>, StoreError> {
        let present: Option<&[u8]> = row.try_get("cumulative").map_err(self.error())?;
        if present.is_none() {
            return Ok(None);
        }
        Ok(Some(Signed {
            message: Voucher {
                channel_id,
                cumulative: self.amount(row, "cumulative")?,
                receipt_hash: B256::new(self.bytes(row, "receipt_hash")?),
            },
            signature: Signature(self.bytes(row, "signature")?),
        }))
    }

    fn read_reservation(
        &self,
        channel_id: ChannelId,
        row: &SqliteRow,
    ) -> Result<Signed<Reservation>, StoreError> {
        let valid_until: i64 = row.try_get("valid_until").map_err(self.error())?;
        Ok(Signed {
            message: Reservation {
                channel_id,
                capacity: self.amount(row, "capacity")?,
                valid_until: UnixSeconds(valid_until.unsigned_abs()),
            },
            signature: Signature(self.bytes(row, "signature")?),
        })
    }

    fn amount(&self, row: &SqliteRow, column: &'static str) -> Result<Amount, StoreError> {
        Ok(Amount(u128::from_be_bytes(self.bytes(row, column)?)))
    }

    fn bytes<const N: usize>(
        &self,
        row: &SqliteRow,
        column: &'static str,
    ) -> Result<[u8; N], StoreError> {
        let bytes: &[u8] = row.try_get(column).map_err(self.error())?;
        bytes.try_into().map_err(|_| StoreError::Corrupt {
            path: self.path.clone(),
            reason: format!("{column} has {} bytes instead of {N}", bytes.len()),
        })
    }

    async fn check(&self) -> Result<(), StoreError> {
        let row = sqlx::query("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await
            .map_err(self.error())?;
        let verdict: String = row.try_get(0).map_err(self.error())?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(StoreError::Corrupt {
            path: self.path.clone(),
            reason: verdict,
        })
    }

    /// Makes the tables and ties the file to its contract, or checks that it is tied to this one.
    async fn bind(&self) -> Result<(), StoreError> {
        sqlx::raw_sql(SCHEMA)
            .execute(&self.pool)
            .await
            .map_err(self.error())?;
        let mut transaction = self.pool.begin().await.map_err(self.error())?;
        let row = sqlx::query("SELECT chain_id, address FROM contract")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(self.error())?;
        if let Some(row) = row {
            let chain_id = u64::from_be_bytes(self.bytes(&row, "chain_id")?);
            let contract = Address::new(self.bytes(&row, "address")?);
            if (Domain { chain_id, contract }) == self.domain {
                return Ok(());
            }
            return Err(StoreError::OtherContract(self.path.clone()));
        }
        sqlx::query("INSERT INTO contract (chain_id, address) VALUES (?, ?)")
            .bind(self.domain.chain_id.to_be_bytes().to_vec())
            .bind(self.domain.contract.to_vec())
            .execute(&mut *transaction)
            .await
            .map_err(self.error())?;
        transaction.commit().await.map_err(self.error())
    }

    fn error(&self) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        |error| database_error(&self.path, error)
    }
}

fn seconds(time: UnixSeconds) -> i64 {
    i64::try_from(time.0.min(UnixSeconds::MAX.0)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
