//! The tables, and what is read from them and found damaged.

use std::path::Path;
use std::sync::LazyLock;

use alloy_primitives::{Address, B256};
use ipsx_metering::{
    Amount, Channel, ChannelId, Domain, KnownSigner, NetworkId, Reservation, Signature, Signed,
    UnixSeconds, Voucher,
};
use rusqlite::{Connection, params, params_from_iter};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::file::{StoreError, database_error};

/// Amounts are 16 bytes, big endian: SQLite compares blobs byte by byte, and its integers have 64 bits only.
///
/// SQLite notices a page that is no page, not a bit that flipped in a value; the checksums do.
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
    claimed BLOB NOT NULL,
    checksum BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vouchers (
    channel BLOB PRIMARY KEY REFERENCES channels (id),
    cumulative BLOB NOT NULL,
    receipt_hash BLOB NOT NULL,
    signature BLOB NOT NULL,
    checksum BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    channel BLOB NOT NULL REFERENCES channels (id),
    capacity BLOB NOT NULL,
    valid_until INTEGER NOT NULL,
    signature BLOB NOT NULL,
    checksum BLOB,
    PRIMARY KEY (channel, capacity, valid_until)
) STRICT, WITHOUT ROWID;
";

/// Rows of one statement; a batch is cut into the largest of these that it fills, and its end is filled up.
const MANY: usize = 256;
const SOME: usize = 16;
/// Values of a voucher's row.
const VOUCHER_VALUES: usize = 5;

static KEEP_MANY: LazyLock<String> = LazyLock::new(|| keep_statement(MANY));
static KEEP_SOME: LazyLock<String> = LazyLock::new(|| keep_statement(SOME));
static KEEP_ONE: LazyLock<String> = LazyLock::new(|| keep_statement(1));

fn keep_statement(rows: usize) -> String {
    let row = format!("({})", ["?"; VOUCHER_VALUES].join(","));
    format!(
        "INSERT INTO vouchers (channel, cumulative, receipt_hash, signature, checksum) VALUES {}
         ON CONFLICT (channel) DO UPDATE SET cumulative = excluded.cumulative,
         receipt_hash = excluded.receipt_hash, signature = excluded.signature, checksum = excluded.checksum
         WHERE excluded.cumulative > vouchers.cumulative",
        vec![row; rows].join(",")
    )
}

/// Makes the tables, and gives those of before the checksums a place for them.
pub(super) fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)?;
    for table in ["channels", "vouchers", "reservations"] {
        if !connection.column_exists(None, table, "checksum")? {
            let add = format!("ALTER TABLE {table} ADD COLUMN checksum BLOB");
            connection.execute_batch(&add)?;
        }
    }
    Ok(())
}

/// Makes a channel known. Nothing happens if it is.
pub(super) fn insert_channel(connection: &Connection, channel: &Channel) -> rusqlite::Result<()> {
    let id = channel.id();
    let mut statement = connection.prepare_cached(
        "INSERT INTO channels (id, network, payer, payer_signer, provider, salt, claimed, checksum)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )?;
    let values = params![
        id.0.0,
        channel.network.0.0,
        channel.payer.0.0,
        channel.payer_signer.0.0,
        channel.provider.0.0,
        channel.salt.0,
        big_endian(Amount::ZERO),
        claimed_checksum(id, Amount::ZERO),
    ];
    statement.execute(values).map(drop)
}

/// Keeps a reservation and drops those that it makes useless.
pub(super) fn insert_reservation(
    connection: &Connection,
    reservation: &Signed<Reservation>,
) -> rusqlite::Result<()> {
    let Reservation {
        channel_id,
        capacity,
        valid_until,
    } = reservation.message;
    let (channel, valid_until) = (channel_id.0.0, seconds(valid_until));
    // One that covers no more and ends no later is of no use; the caller may also bring an old one again.
    connection
        .prepare_cached(
            "DELETE FROM reservations WHERE channel = ? AND capacity <= ? AND valid_until <= ?",
        )?
        .execute(params![channel, big_endian(capacity), valid_until])?;
    let checksum = reservation_checksum(channel_id, capacity, valid_until, &reservation.signature);
    let signature = reservation.signature.0;
    connection
        .prepare_cached(
            "INSERT INTO reservations (channel, capacity, valid_until, signature, checksum)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS
             (SELECT 1 FROM reservations WHERE channel = ?1 AND capacity >= ?2 AND valid_until >= ?3)",
        )?
        .execute(params![channel, big_endian(capacity), valid_until, signature, checksum])
        .map(drop)
}

/// Raises what a channel was paid.
pub(super) fn raise_claimed(
    connection: &Connection,
    channel: ChannelId,
    claimed: Amount,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "UPDATE channels SET claimed = ?1, checksum = ?2 WHERE id = ?3 AND claimed < ?1",
    )?;
    let checksum = claimed_checksum(channel, claimed);
    statement
        .execute(params![big_endian(claimed), checksum, channel.0.0])
        .map(drop)
}

/// Writes vouchers, at most one for each channel; one that is worth no more than the one on disk changes nothing.
pub(super) fn upsert_vouchers(
    connection: &Connection,
    vouchers: &[&Signed<Voucher>],
) -> rusqlite::Result<()> {
    let mut rest = vouchers;
    while let Some(last) = rest.last() {
        let (size, statement) = match rest.len() {
            1 => (1, KEEP_ONE.as_str()),
            2..=SOME => (SOME, KEEP_SOME.as_str()),
            _ => (MANY, KEEP_MANY.as_str()),
        };
        let (now, later) = rest.split_at(rest.len().min(size));
        let mut statement = connection.prepare_cached(statement)?;
        // The same voucher a second time changes nothing.
        let rows = now
            .iter()
            .chain(std::iter::repeat_n(last, size - now.len()));
        let values = rows.flat_map(|voucher| {
            let message = &voucher.message;
            [
                message.channel_id.0.to_vec(),
                big_endian(message.cumulative).to_vec(),
                message.receipt_hash.to_vec(),
                voucher.signature.0.to_vec(),
                voucher_checksum(message, &voucher.signature).to_vec(),
            ]
        });
        statement.execute(params_from_iter(values))?;
        rest = later;
    }
    Ok(())
}

fn big_endian(amount: Amount) -> [u8; 16] {
    amount.0.to_be_bytes()
}

fn seconds(time: UnixSeconds) -> i64 {
    i64::try_from(time.0.min(UnixSeconds::MAX.0)).unwrap_or(i64::MAX)
}

/// FNV-1a with 64 bits over a row: against bits that flip. Against people there are the signatures.
fn checksum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.to_be_bytes()
}

fn claimed_checksum(id: ChannelId, claimed: Amount) -> [u8; 8] {
    checksum(&[&id.0.0, &claimed.0.to_be_bytes()])
}

fn voucher_checksum(voucher: &Voucher, signature: &Signature) -> [u8; 8] {
    checksum(&[
        &voucher.channel_id.0.0,
        &voucher.cumulative.0.to_be_bytes(),
        &voucher.receipt_hash.0,
        &signature.0,
    ])
}

fn reservation_checksum(
    id: ChannelId,
    capacity: Amount,
    valid_until: i64,
    signature: &Signature,
) -> [u8; 8] {
    checksum(&[
        &id.0.0,
        &capacity.0.to_be_bytes(),
        &valid_until.to_be_bytes(),
        &signature.0,
    ])
}

/// Reads rows of the store at `path`.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) domain: &'a Domain,
}

impl Reader<'_> {
    /// A channel's parameters and what it was paid.
    pub(super) fn channel(&self, row: &SqliteRow) -> Result<(Channel, Amount), StoreError> {
        let channel = Channel {
            network: NetworkId(B256::new(self.bytes(row, "network")?)),
            payer: Address::new(self.bytes(row, "payer")?),
            payer_signer: Address::new(self.bytes(row, "payer_signer")?),
            provider: Address::new(self.bytes(row, "provider")?),
            salt: B256::new(self.bytes(row, "salt")?),
        };
        let id = ChannelId(B256::new(self.bytes(row, "id")?));
        if channel.id() != id {
            return Err(self.damaged(format!("channel {id} is not what its name says")));
        }
        let claimed = self.amount(row, "claimed")?;
        self.compare(row, "checksum", &claimed_checksum(id, claimed), id)?;
        Ok((channel, claimed))
    }

    /// The voucher of a row that joins a channel's with its voucher's, as it was written.
    pub(super) fn voucher(
        &self,
        channel_id: ChannelId,
        row: &SqliteRow,
    ) -> Result<Option<Signed<Voucher>>, StoreError> {
        let present: Option<&[u8]> = row.try_get("cumulative").map_err(self.error())?;
        if present.is_none() {
            return Ok(None);
        }
        let message = Voucher {
            channel_id,
            cumulative: self.amount(row, "cumulative")?,
            receipt_hash: B256::new(self.bytes(row, "receipt_hash")?),
        };
        let signature = Signature(self.bytes(row, "signature")?);
        let expected = voucher_checksum(&message, &signature);
        self.compare(row, "voucher_checksum", &expected, channel_id)?;
        Ok(Some(Signed { message, signature }))
    }

    /// The voucher as the contract takes it: with the `v` that its signer is recovered from.
    pub(super) fn claimable(
        &self,
        channel: &Channel,
        voucher: Signed<Voucher>,
    ) -> Result<Signed<Voucher>, StoreError> {
        let id = voucher.message.channel_id;
        KnownSigner::new(channel.payer_signer)
            .canonical_signed(voucher, self.domain)
            .map_err(|reason| self.damaged(format!("the voucher of channel {id}: {reason}")))
    }

    pub(super) fn reservation(
        &self,
        channel_id: ChannelId,
        row: &SqliteRow,
    ) -> Result<Signed<Reservation>, StoreError> {
        let valid_until: i64 = row.try_get("valid_until").map_err(self.error())?;
        let capacity = self.amount(row, "capacity")?;
        let signature = Signature(self.bytes(row, "signature")?);
        let expected = reservation_checksum(channel_id, capacity, valid_until, &signature);
        self.compare(row, "checksum", &expected, channel_id)?;
        Ok(Signed {
            message: Reservation {
                channel_id,
                capacity,
                valid_until: UnixSeconds(valid_until.unsigned_abs()),
            },
            signature,
        })
    }

    fn amount(&self, row: &SqliteRow, column: &'static str) -> Result<Amount, StoreError> {
        Ok(Amount(u128::from_be_bytes(self.bytes(row, column)?)))
    }

    pub(super) fn bytes<const N: usize>(
        &self,
        row: &SqliteRow,
        column: &'static str,
    ) -> Result<[u8; N], StoreError> {
        let bytes: &[u8] = row.try_get(column).map_err(self.error())?;
        bytes
            .try_into()
            .map_err(|_| self.damaged(format!("{column} has {} bytes instead of {N}", bytes.len())))
    }

    /// Rows of before the checksums have none.
    fn compare(
        &self,
        row: &SqliteRow,
        column: &'static str,
        expected: &[u8],
        channel: ChannelId,
    ) -> Result<(), StoreError> {
        let found: Option<&[u8]> = row.try_get(column).map_err(self.error())?;
        if found.is_none_or(|found| found == expected) {
            return Ok(());
        }
        Err(self.damaged(format!(
            "the checksum of a row of channel {channel} is wrong"
        )))
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Corrupt {
            path: self.path.to_path_buf(),
            reason,
        }
    }

    pub(super) fn error(&self) -> impl Fn(sqlx::Error) -> StoreError + '_ {
        |error| database_error(self.path, error)
    }
}
