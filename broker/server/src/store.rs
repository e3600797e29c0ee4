//! Everything that must survive, in SQLite: the only place with queries.

mod answers;
mod changes;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipsx_market::deal::Outcome;
use ipsx_market::record::{DealRecord, Transition};
use ipsx_metering::{Address, DealId, PayerAccount, Signed, UnixSeconds, Withdrawal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

pub(crate) use answers::{KEPT, KeyState, NonceState};
pub(crate) use changes::Change;

/// The store failed, or holds what it should not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database said no.
    #[error("the store {path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
    /// A row can't be read, or a value not be written.
    #[error("the store {path} holds a {what} that can't be read: {reason}. Restore it from a copy")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which kind of row.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A second, different outcome of one deal.
    #[error("deal {0} has another outcome already; an outcome is never changed")]
    OtherOutcome(DealId),
}

/// The broker's database. Each method is durable when it returns.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    path: PathBuf,
}

impl Store {
    /// Opens the database, making or migrating it.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        // One connection: writes are serial anyway, and a reader never sees the store between two of them.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await;
        let pool = pool.map_err(|source| database(path, source))?;
        let migrated = sqlx::migrate!("./migrations").run(&pool).await;
        migrated.map_err(|error| database(path, error.into()))?;
        Ok(Self {
            pool,
            path: path.to_path_buf(),
        })
    }

    /// Closes the file.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        let answered = sqlx::query("SELECT 1").execute(&self.pool).await;
        answered.map(|_| ()).map_err(|e| self.failed(e))
    }

    /// A value kept under a name.
    pub(crate) async fn meta<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT value FROM meta WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|(text,)| self.read("setting", &text)).transpose()
    }

    /// Keeps a value under a name.
    pub(crate) async fn set_meta<T: Serialize>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
            .bind(key)
            .bind(self.write("setting", value)?)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Keeps a deal, what changed it, and its outcome if it has one, all or nothing.
    pub(crate) async fn save_deal(
        &self,
        record: &DealRecord,
        transitions: &[Transition],
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await.map_err(|e| self.failed(e))?;
        sqlx::query(
            "INSERT INTO deals (deal_id, provider, requester, channel, status, proposed_at, closed, record)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (deal_id) DO UPDATE SET status = excluded.status, closed = excluded.closed, record = excluded.record",
        )
        .bind(record.deal_id.to_string())
        .bind(hex(record.deal.provider))
        .bind(hex(record.deal.requester))
        .bind(record.deal.channel().id().to_string())
        .bind(record.status().as_str())
        .bind(seconds(record.proposed_at))
        .bind(record.closed_at.is_some())
        .bind(self.write("deal", record)?)
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        for transition in transitions {
            self.insert_transition(&mut tx, record.deal.requester, transition)
                .await?;
        }
        if let Some(outcome) = &record.outcome {
            let at = transitions.last().map_or(record.proposed_at, |t| t.at);
            self.insert_outcome(&mut tx, outcome, at).await?;
        }
        tx.commit().await.map_err(|e| self.failed(e))
    }

    /// Keeps the network's word on a deal; [`StoreError::OtherOutcome`] if it has given another one.
    pub(crate) async fn save_outcome(
        &self,
        outcome: &Signed<Outcome>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await.map_err(|e| self.failed(e))?;
        self.insert_outcome(&mut tx, outcome, now).await?;
        tx.commit().await.map_err(|e| self.failed(e))
    }

    /// The network's word on a deal.
    pub(crate) async fn outcome(&self, id: DealId) -> Result<Option<Signed<Outcome>>, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT signed FROM outcomes WHERE deal_id = ?")
                .bind(id.to_string())
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        row.map(|(text,)| self.read("outcome", &text)).transpose()
    }

    /// A deal.
    pub(crate) async fn deal(&self, id: DealId) -> Result<Option<DealRecord>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT record FROM deals WHERE deal_id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|(text,)| self.read("deal", &text)).transpose()
    }

    /// Deals that are not closed.
    pub(crate) async fn open_deals(&self) -> Result<Vec<DealRecord>, StoreError> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT record FROM deals WHERE closed = 0 ORDER BY deal_id")
                .fetch_all(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        rows.iter().map(|(text,)| self.read("deal", text)).collect()
    }

    /// A requester's deals, newest first, or those that follow the one named.
    pub(crate) async fn deals_of(
        &self,
        requester: Address,
        after: Option<(UnixSeconds, DealId)>,
        limit: u32,
    ) -> Result<Vec<DealRecord>, StoreError> {
        let (at, id) = after.map_or((i64::MAX, String::new()), |(at, id)| {
            (seconds(at), id.to_string())
        });
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT record FROM deals WHERE requester = ? AND (proposed_at, deal_id) < (?, ?)
             ORDER BY proposed_at DESC, deal_id DESC LIMIT ?",
        )
        .bind(hex(requester))
        .bind(at)
        .bind(id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|(text,)| self.read("deal", text)).collect()
    }

    /// Deals that were aborted or expired without the network's word, because the broker stopped in between.
    pub(crate) async fn deals_without_outcome(&self) -> Result<Vec<DealRecord>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT record FROM deals WHERE closed = 1 AND deal_id NOT IN (SELECT deal_id FROM outcomes)",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|(text,)| self.read("deal", text)).collect()
    }

    /// The capacity ledger's rows.
    pub(crate) async fn accounts(&self) -> Result<Vec<(Address, PayerAccount)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT payer, account FROM accounts")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        let row = |(payer, account): &(String, String)| {
            let payer = Address::from_str(payer);
            let payer = payer.map_err(|e| self.damaged("account", e))?;
            Ok((payer, self.read("account", account)?))
        };
        rows.iter().map(row).collect()
    }

    /// Keeps one row of the ledger, or drops it.
    pub(crate) async fn save_account(
        &self,
        payer: Address,
        account: Option<&PayerAccount>,
    ) -> Result<(), StoreError> {
        let query = match account {
            Some(account) => sqlx::query(
                "INSERT INTO accounts (payer, account) VALUES (?, ?)
                 ON CONFLICT (payer) DO UPDATE SET account = excluded.account",
            )
            .bind(hex(payer))
            .bind(self.write("account", account)?),
            None => sqlx::query("DELETE FROM accounts WHERE payer = ?").bind(hex(payer)),
        };
        query
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Keeps a consent to an immediate withdrawal, and the idempotency key that it was given under.
    pub(crate) async fn save_withdrawal(
        &self,
        withdrawal: &Signed<Withdrawal>,
        key: Option<&str>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO withdrawals (owner, nonce, signed, at, key) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(hex(withdrawal.message.owner))
        .bind(i64::try_from(withdrawal.message.nonce).unwrap_or(i64::MAX))
        .bind(self.write("withdrawal", withdrawal)?)
        .bind(seconds(now))
        .bind(key)
        .execute(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Opens a session with a sign-in nonce; false if the nonce was used before.
    pub(crate) async fn open_session(
        &self,
        nonce: (&str, UnixSeconds),
        token_hash: &str,
        wallet: Address,
        expires_at: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await.map_err(|e| self.failed(e))?;
        let used = sqlx::query(
            "INSERT INTO used_nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(nonce.0)
        .bind(seconds(nonce.1))
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        if used.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("INSERT INTO sessions (token_hash, wallet, expires_at) VALUES (?, ?, ?)")
            .bind(token_hash)
            .bind(hex(wallet))
            .bind(seconds(expires_at))
            .execute(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        tx.commit().await.map_err(|e| self.failed(e))?;
        Ok(true)
    }

    /// Whose session a token opens, if it still counts.
    pub(crate) async fn session(
        &self,
        token_hash: &str,
        now: UnixSeconds,
    ) -> Result<Option<Address>, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT wallet FROM sessions WHERE token_hash = ? AND expires_at > ?")
                .bind(token_hash)
                .bind(seconds(now))
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        row.map(|(wallet,)| Address::from_str(&wallet).map_err(|e| self.damaged("session", e)))
            .transpose()
    }

    /// Forgets sessions, nonces and answers that no longer count.
    pub(crate) async fn forget_expired(&self, now: UnixSeconds) -> Result<(), StoreError> {
        let a_day_ago = UnixSeconds(now.0.saturating_sub(KEPT));
        for (query, before) in [
            ("DELETE FROM sessions WHERE expires_at < ?", now),
            ("DELETE FROM used_nonces WHERE expires_at < ?", now),
            ("DELETE FROM request_nonces WHERE expires_at < ?", now),
            ("DELETE FROM answers WHERE at < ?", a_day_ago),
        ] {
            sqlx::query(query)
                .bind(seconds(before))
                .execute(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    async fn insert_transition(
        &self,
        tx: &mut SqliteConnection,
        wallet: Address,
        transition: &Transition,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO transitions (deal_id, wallet, at, side, provider, requester, status, cause)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(transition.deal_id.to_string())
        .bind(hex(wallet))
        .bind(seconds(transition.at))
        .bind(self.word(&transition.side)?)
        .bind(self.word(&transition.provider)?)
        .bind(self.word(&transition.requester)?)
        .bind(transition.status().as_str())
        .bind(transition.cause.to_string())
        .execute(tx)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(())
    }

    async fn insert_outcome(
        &self,
        tx: &mut SqliteConnection,
        signed: &Signed<Outcome>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let id = signed.message.deal_id;
        let outcome = self.word(&signed.message.outcome)?;
        sqlx::query(
            "INSERT INTO outcomes (deal_id, outcome, signed, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(id.to_string())
        .bind(&outcome)
        .bind(self.write("outcome", signed)?)
        .bind(seconds(now))
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        let (kept,): (String,) = sqlx::query_as("SELECT outcome FROM outcomes WHERE deal_id = ?")
            .bind(id.to_string())
            .fetch_one(tx)
            .await
            .map_err(|e| self.failed(e))?;
        if kept == outcome {
            Ok(())
        } else {
            Err(StoreError::OtherOutcome(id))
        }
    }

    fn write<T: Serialize>(&self, what: &'static str, value: &T) -> Result<String, StoreError> {
        serde_json::to_string(value).map_err(|e| self.damaged(what, e))
    }

    fn read<T: DeserializeOwned>(&self, what: &'static str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|e| self.damaged(what, e))
    }

    /// A unit variant's name.
    fn word<T: Serialize>(&self, value: &T) -> Result<String, StoreError> {
        let text = self.write("status", value)?;
        Ok(text.trim_matches('"').into())
    }

    fn failed(&self, source: sqlx::Error) -> StoreError {
        database(&self.path, source)
    }

    fn damaged(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            what,
            reason: reason.to_string(),
        }
    }
}

fn database(path: &Path, source: sqlx::Error) -> StoreError {
    StoreError::Database {
        path: path.to_path_buf(),
        source,
    }
}

fn seconds(at: UnixSeconds) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn hex(address: Address) -> String {
    // Lower case: the checksummed form would make two texts of one address.
    format!("{address:#x}")
}
