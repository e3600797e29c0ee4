//! What a provider keeps besides its vouchers: consent, leases, how far each channel has come, the month's traffic.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipsx_agent_core::provider::{ConsentRecord, LeaseRecord, MonthTraffic};
use ipsx_market::messages::EndReport;
use ipsx_metering::{
    Address, B256, ChannelId, ChannelState, DealId, Domain, NetworkId, Receipt, Signed, UnixSeconds,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};

use super::config::records_path;
use super::error::ProviderError;
use crate::network::Network;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS owner (wallet BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS consents (
    version BLOB NOT NULL,
    policy_hash BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (version, policy_hash)
) STRICT;
CREATE TABLE IF NOT EXISTS leases (
    deal_id BLOB PRIMARY KEY,
    network BLOB NOT NULL,
    record TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    report TEXT,
    ended_at INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS unfinished ON leases (network) WHERE report IS NULL;
CREATE TABLE IF NOT EXISTS receipts (deal_id BLOB PRIMARY KEY, receipt TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS answered (deal_id BLOB PRIMARY KEY, receipt TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS served (network BLOB PRIMARY KEY, served TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS channels (id BLOB PRIMARY KEY, state TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS months (
    network BLOB NOT NULL,
    month INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (network, month)
) STRICT;
";

/// A lease as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLease {
    /// The bound deal.
    pub record: LeaseRecord,
    /// When its peer was opened.
    pub opened_at: UnixSeconds,
    /// How it ended; `None` while it is open, or when the program was killed.
    pub report: Option<EndReport>,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
}

/// A network that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Chain and contract.
    pub domain: Domain,
    /// Its operator.
    pub operator: Address,
    /// Its fee in basis points.
    pub fee_bps: u16,
}

/// What is kept of a lease's receipts when it has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastReceipts<'a> {
    /// The last one.
    pub last: Option<&'a Signed<Receipt>>,
    /// The one that the last voucher answers.
    pub answered: Option<&'a Signed<Receipt>>,
}

/// The provider's records in one data folder.
#[derive(Clone, Debug)]
pub struct Records {
    pool: SqlitePool,
    path: PathBuf,
}

impl Records {
    /// Opens the records of `wallet`, making the folder and the file if they are missing.
    pub async fn open(data: &Path, wallet: Address) -> Result<Self, ProviderError> {
        let path = records_path(data);
        make_private(data, &path)?;
        let records = Self::connect(path, true).await?;
        records.run(SCHEMA, "prepare").await?;
        records.check_owner(wallet).await?;
        Ok(records)
    }

    /// Opens existing records for reading, also while a provider runs; `None` if there are none.
    pub async fn read(data: &Path) -> Result<Option<Self>, ProviderError> {
        let path = records_path(data);
        if !path.exists() {
            return Ok(None);
        }
        Self::connect(path, false).await.map(Some)
    }

    async fn connect(path: PathBuf, write: bool) -> Result<Self, ProviderError> {
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(10))
            .read_only(!write);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(|error| failed("open", &path)(error))?;
        Ok(Self { pool, path })
    }

    /// Whether a consent was recorded that `covers` accepts.
    pub async fn consent(
        &self,
        covers: impl Fn(&ConsentRecord) -> bool,
    ) -> Result<bool, ProviderError> {
        let rows = sqlx::query("SELECT version, policy_hash, accepted_at FROM consents")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read"))?;
        for row in rows {
            let record = ConsentRecord {
                version: B256::new(self.bytes(&row, "version")?),
                policy_hash: B256::new(self.bytes(&row, "policy_hash")?),
                accepted_at: self.seconds(&row, "accepted_at")?.unwrap_or_default(),
            };
            if covers(&record) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records a consent with the text that was accepted. Durable when it returns.
    pub async fn put_consent(
        &self,
        record: &ConsentRecord,
        text: &str,
    ) -> Result<(), ProviderError> {
        sqlx::query(
            "INSERT INTO consents (version, policy_hash, accepted_at, text) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(record.version.to_vec())
        .bind(record.policy_hash.to_vec())
        .bind(signed(record.accepted_at.0))
        .bind(text)
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// Records a lease before its peer is opened. Durable when it returns.
    pub async fn put_lease(
        &self,
        record: &LeaseRecord,
        now: UnixSeconds,
    ) -> Result<(), ProviderError> {
        sqlx::query(
            "INSERT INTO leases (deal_id, network, record, opened_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(record.deal.id().0.to_vec())
        .bind(record.deal.network.0.to_vec())
        .bind(self.json(record)?)
        .bind(signed(now.0))
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// Records how a lease ended, the last receipt that was signed for it, and the one that its last voucher answers.
    pub async fn put_end(
        &self,
        lease: DealId,
        report: &EndReport,
        receipts: LastReceipts<'_>,
        now: UnixSeconds,
    ) -> Result<(), ProviderError> {
        if let Some(receipt) = receipts.last {
            self.put_progress(&[], &[(lease, receipt)]).await?;
        }
        if let Some(receipt) = receipts.answered {
            self.put_answered(lease, receipt).await?;
        }
        sqlx::query(
            "UPDATE leases SET report = ?, ended_at = ? WHERE deal_id = ? AND report IS NULL",
        )
        .bind(self.json(report)?)
        .bind(signed(now.0))
        .bind(lease.0.to_vec())
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// Every lease, the newest first.
    pub async fn leases(&self) -> Result<Vec<KeptLease>, ProviderError> {
        let rows = sqlx::query(
            "SELECT record, opened_at, report, ended_at FROM leases ORDER BY opened_at DESC, deal_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read"))?;
        rows.iter().map(|row| self.lease(row)).collect()
    }

    /// Notes where a network's contract is and who runs it, for who has to prove something without its broker.
    pub async fn put_served(&self, network: &Network) -> Result<(), ProviderError> {
        let served = Served {
            domain: network.info.domain,
            operator: network.info.operator,
            fee_bps: network.info.fee_bps,
        };
        sqlx::query(
            "INSERT INTO served (network, served) VALUES (?, ?)
             ON CONFLICT (network) DO UPDATE SET served = excluded.served",
        )
        .bind(network.info.network.0.to_vec())
        .bind(self.json(&served)?)
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// What was noted of a network; `None` if no provider has run on it here.
    pub async fn served(&self, network: NetworkId) -> Result<Option<Served>, ProviderError> {
        let row = sqlx::query("SELECT served FROM served WHERE network = ?")
            .bind(network.0.to_vec())
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read"))?;
        row.map(|row| self.parsed(&row, "served")).transpose()
    }

    async fn put_answered(
        &self,
        lease: DealId,
        receipt: &Signed<Receipt>,
    ) -> Result<(), ProviderError> {
        sqlx::query(
            "INSERT INTO answered (deal_id, receipt) VALUES (?, ?) ON CONFLICT (deal_id) DO NOTHING",
        )
        .bind(lease.0.to_vec())
        .bind(self.json(receipt)?)
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// The latest receipt that was kept of each lease.
    pub async fn receipts(&self) -> Result<HashMap<DealId, Signed<Receipt>>, ProviderError> {
        self.receipts_in("SELECT deal_id, receipt FROM receipts")
            .await
    }

    /// The receipt that the last voucher of each lease that has ended answers.
    pub async fn answered(&self) -> Result<HashMap<DealId, Signed<Receipt>>, ProviderError> {
        self.receipts_in("SELECT deal_id, receipt FROM answered")
            .await
    }

    async fn receipts_in(
        &self,
        query: &'static str,
    ) -> Result<HashMap<DealId, Signed<Receipt>>, ProviderError> {
        let rows = sqlx::query(query)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read"))?;
        let mut receipts = HashMap::with_capacity(rows.len());
        for row in rows {
            let deal = DealId(B256::new(self.bytes(&row, "deal_id")?));
            receipts.insert(deal, self.parsed(&row, "receipt")?);
        }
        Ok(receipts)
    }

    /// The leases of a network that were open when the program ended.
    pub async fn unfinished(&self, network: NetworkId) -> Result<Vec<LeaseRecord>, ProviderError> {
        let rows = sqlx::query(
            "SELECT record, opened_at, report, ended_at FROM leases WHERE report IS NULL AND network = ?",
        )
        .bind(network.0.to_vec())
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read"))?;
        let lease = |row| self.lease(row).map(|lease| lease.record);
        rows.iter().map(lease).collect()
    }

    /// Replaces what the next meters of some channels start from, and the receipts that are kept of some leases. All of
    /// it is durable when it returns, with one sync, or none of it is there.
    pub async fn put_progress(
        &self,
        channels: &[(ChannelId, &ChannelState)],
        receipts: &[(DealId, &Signed<Receipt>)],
    ) -> Result<(), ProviderError> {
        let mut transaction = self.pool.begin().await.map_err(self.failed("write"))?;
        for (id, state) in channels {
            sqlx::query(
                "INSERT INTO channels (id, state) VALUES (?, ?)
                 ON CONFLICT (id) DO UPDATE SET state = excluded.state",
            )
            .bind(id.0.to_vec())
            .bind(self.json(state)?)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed("write"))?;
        }
        for (lease, receipt) in receipts {
            sqlx::query(
                "INSERT INTO receipts (deal_id, receipt) VALUES (?, ?)
                 ON CONFLICT (deal_id) DO UPDATE SET receipt = excluded.receipt",
            )
            .bind(lease.0.to_vec())
            .bind(self.json(receipt)?)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed("write"))?;
        }
        transaction.commit().await.map_err(self.failed("write"))
    }

    /// What the next meter of each channel starts from.
    pub async fn channels(&self) -> Result<HashMap<ChannelId, ChannelState>, ProviderError> {
        let rows = sqlx::query("SELECT id, state FROM channels")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read"))?;
        let mut channels = HashMap::with_capacity(rows.len());
        for row in rows {
            let id = ChannelId(B256::new(self.bytes(&row, "id")?));
            channels.insert(id, self.parsed(&row, "state")?);
        }
        Ok(channels)
    }

    /// Replaces a month's traffic.
    pub async fn put_month(
        &self,
        network: NetworkId,
        traffic: MonthTraffic,
    ) -> Result<(), ProviderError> {
        sqlx::query(
            "INSERT INTO months (network, month, bytes) VALUES (?, ?, ?)
             ON CONFLICT (network, month) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(network.0.to_vec())
        .bind(i64::from(traffic.month))
        .bind(signed(traffic.bytes))
        .execute(&self.pool)
        .await
        .map_err(self.failed("write"))?;
        Ok(())
    }

    /// The latest month's traffic.
    pub async fn month(&self, network: NetworkId) -> Result<MonthTraffic, ProviderError> {
        let row = sqlx::query(
            "SELECT month, bytes FROM months WHERE network = ? ORDER BY month DESC LIMIT 1",
        )
        .bind(network.0.to_vec())
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed("read"))?;
        let Some(row) = row else {
            return Ok(MonthTraffic::default());
        };
        let month: i64 = row.try_get("month").map_err(self.failed("read"))?;
        let bytes: i64 = row.try_get("bytes").map_err(self.failed("read"))?;
        Ok(MonthTraffic {
            month: u32::try_from(month).unwrap_or(0),
            bytes: bytes.unsigned_abs(),
        })
    }

    async fn check_owner(&self, wallet: Address) -> Result<(), ProviderError> {
        let row = sqlx::query("SELECT wallet FROM owner")
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read"))?;
        let Some(row) = row else {
            sqlx::query("INSERT INTO owner (wallet) VALUES (?)")
                .bind(wallet.to_vec())
                .execute(&self.pool)
                .await
                .map_err(self.failed("write"))?;
            return Ok(());
        };
        let found = Address::new(self.bytes(&row, "wallet")?);
        if found == wallet {
            return Ok(());
        }
        Err(ProviderError::OtherWallet {
            path: self.path.clone(),
            found,
            wallet,
        })
    }

    /// Anything, to see what happens.
    #[cfg(test)]
    pub(super) async fn run_sql(&self, sql: &'static str) {
        self.run(sql, "test")
            .await
            .expect("the test's statement is well-formed");
    }

    async fn run(&self, sql: &'static str, action: &'static str) -> Result<(), ProviderError> {
        sqlx::raw_sql(sql)
            .execute(&self.pool)
            .await
            .map_err(self.failed(action))?;
        Ok(())
    }

    fn lease(&self, row: &SqliteRow) -> Result<KeptLease, ProviderError> {
        let report: Option<&str> = row.try_get("report").map_err(self.failed("read"))?;
        Ok(KeptLease {
            record: self.parsed(row, "record")?,
            opened_at: self.seconds(row, "opened_at")?.unwrap_or_default(),
            report: report.map(|text| self.parse(text)).transpose()?,
            ended_at: self.seconds(row, "ended_at")?,
        })
    }

    fn seconds(&self, row: &SqliteRow, column: &str) -> Result<Option<UnixSeconds>, ProviderError> {
        let value: Option<i64> = row.try_get(column).map_err(self.failed("read"))?;
        Ok(value.map(|value| UnixSeconds(value.unsigned_abs())))
    }

    fn bytes<const N: usize>(
        &self,
        row: &SqliteRow,
        column: &str,
    ) -> Result<[u8; N], ProviderError> {
        let bytes: &[u8] = row.try_get(column).map_err(self.failed("read"))?;
        bytes
            .try_into()
            .map_err(|_| self.damaged(format!("{column} has {} bytes instead of {N}", bytes.len())))
    }

    fn parsed<T: DeserializeOwned>(
        &self,
        row: &SqliteRow,
        column: &str,
    ) -> Result<T, ProviderError> {
        self.parse(row.try_get(column).map_err(self.failed("read"))?)
    }

    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T, ProviderError> {
        serde_json::from_str(text).map_err(|error| self.damaged(error.to_string()))
    }

    fn json(&self, value: &impl Serialize) -> Result<String, ProviderError> {
        serde_json::to_string(value).map_err(|error| self.damaged(error.to_string()))
    }

    fn damaged(&self, reason: String) -> ProviderError {
        ProviderError::Records {
            action: "understand",
            path: self.path.clone(),
            reason: format!("{reason}. Restore it from a copy"),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> ProviderError + '_ {
        failed(action, &self.path)
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(sqlx::Error) -> ProviderError + 'a {
    move |error| ProviderError::Records {
        action,
        path: path.into(),
        reason: error.to_string(),
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Makes the folder and the file, readable by the user alone.
fn make_private(data: &Path, path: &Path) -> Result<(), ProviderError> {
    let failed = |error: std::io::Error| ProviderError::Records {
        action: "make",
        path: path.into(),
        reason: error.to_string(),
    };
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true);
    let mut file = std::fs::OpenOptions::new();
    file.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
        std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    }
    folder.create(data).map_err(failed)?;
    file.open(path).map(drop).map_err(failed)
}
