//! Transactions, in which everything is written.

use std::collections::BTreeSet;

use ipsx_metering::Address;
use sqlx::{Postgres, Transaction};

use super::StoreError;
use super::database::statement;
use super::row::{Row, Value};
use super::sqlite::SqliteTx;

/// A transaction: everything that is written goes through one, and counts once it is committed.
pub(crate) struct Tx {
    pub(super) begun: Begun,
    pub(super) place: String,
}

pub(super) enum Begun {
    Sqlite(SqliteTx),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    /// Waits until no other broker writes for these wallets, until the end of the transaction. All are taken at once and
    /// in one order, so that no two brokers wait for each other.
    pub(super) async fn take_turns(
        &mut self,
        wallets: BTreeSet<Address>,
    ) -> Result<(), StoreError> {
        if wallets.is_empty() || matches!(self.begun, Begun::Sqlite(_)) {
            return Ok(());
        }
        let number = |wallet: &Address| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&wallet[..8]);
            i64::from_be_bytes(bytes)
        };
        let numbers: BTreeSet<i64> = wallets.iter().map(number).collect();
        let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
        let sql =
            "SELECT pg_advisory_xact_lock(n) FROM unnest(string_to_array($1, ',')::bigint[]) n";
        self.execute(sql, [numbers.join(",").into()])
            .await
            .map(drop)
    }

    /// Runs a statement; returns how many rows it changed.
    pub(crate) async fn execute(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, StoreError> {
        match &mut self.begun {
            Begun::Sqlite(tx) => {
                let done = tx.execute(sql, values);
                let done = done.map_err(|error| StoreError::sqlite(&self.place, &error));
                done.map(|rows| rows as u64)
            }
            Begun::Postgres(tx) => {
                let done = statement!(sql, values).execute(&mut **tx).await;
                let done = done.map_err(|error| StoreError::database(&self.place, &error));
                done.map(|done| done.rows_affected())
            }
        }
    }

    /// The first row of an answer.
    pub(crate) async fn row(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Option<Row>, StoreError> {
        match &mut self.begun {
            Begun::Sqlite(tx) => {
                let row = tx.row(sql, values);
                let row = row.map_err(|error| StoreError::sqlite(&self.place, &error))?;
                Ok(row.map(Row::Written))
            }
            Begun::Postgres(tx) => {
                let row = statement!(sql, values).fetch_optional(&mut **tx).await;
                let row = row.map_err(|error| StoreError::database(&self.place, &error))?;
                Ok(row.map(Row::Postgres))
            }
        }
    }

    /// A value that can't be read, or not be written.
    pub(crate) fn damaged(&self, what: &'static str, reason: impl ToString) -> StoreError {
        StoreError::damaged(&self.place, what, reason)
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        match self.begun {
            Begun::Sqlite(tx) => {
                let done = tx.commit();
                done.map_err(|error| StoreError::sqlite(&self.place, &error))
            }
            Begun::Postgres(tx) => {
                let done = tx.commit().await;
                done.map_err(|error| StoreError::database(&self.place, &error))
            }
        }
    }

    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        match self.begun {
            Begun::Sqlite(tx) => {
                let done = tx.rollback();
                done.map_err(|error| StoreError::sqlite(&self.place, &error))
            }
            Begun::Postgres(tx) => {
                let done = tx.rollback().await;
                done.map_err(|error| StoreError::database(&self.place, &error))
            }
        }
    }
}
