//! What changed deals, in the order in which it was written down.
//!
//! Numbers only grow, and a change is readable before any with a higher number is written: whoever has read up to a
//! number has missed none below it.

use ipsx_market::http::DealEvent;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, DealId, UnixSeconds};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use super::{Store, StoreError, hex};

/// A change, and the number by which one goes on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) number: u64,
    pub(crate) event: DealEvent,
}

/// A row, as text.
struct Written {
    number: i64,
    at: i64,
    /// The deal, then side, provider and requester, status and cause.
    words: [String; 6],
}

impl FromRow<'_, SqliteRow> for Written {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let word = |column: &str| row.try_get::<String, _>(column);
        Ok(Self {
            number: row.try_get("number")?,
            at: row.try_get("at")?,
            words: [
                word("deal_id")?,
                word("side")?,
                word("provider")?,
                word("requester")?,
                word("status")?,
                word("cause")?,
            ],
        })
    }
}

impl Store {
    /// The number of a wallet's latest change as a requester; 0 before the first.
    pub(crate) async fn latest_change(&self, wallet: Address) -> Result<u64, StoreError> {
        let (number,): (i64,) =
            sqlx::query_as("SELECT COALESCE(MAX(number), 0) FROM transitions WHERE wallet = ?")
                .bind(hex(wallet))
                .fetch_one(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        Ok(unsigned(number))
    }

    /// Changes of one deal with higher numbers than this, oldest first.
    pub(crate) async fn changes_of_deal(
        &self,
        id: DealId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Change>, StoreError> {
        let rows: Vec<Written> = sqlx::query_as(
            "SELECT number, at, deal_id, side, provider, requester, status, cause FROM transitions
             WHERE deal_id = ? AND number > ? ORDER BY number LIMIT ?",
        )
        .bind(id.to_string())
        .bind(signed(after))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|row| self.change(row)).collect()
    }

    /// Changes of all deals of a requester with higher numbers than this, oldest first.
    pub(crate) async fn changes_of(
        &self,
        wallet: Address,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Change>, StoreError> {
        let rows: Vec<Written> = sqlx::query_as(
            "SELECT number, at, deal_id, side, provider, requester, status, cause FROM transitions
             WHERE wallet = ? AND number > ? ORDER BY number LIMIT ?",
        )
        .bind(hex(wallet))
        .bind(signed(after))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|row| self.change(row)).collect()
    }

    fn change(&self, row: &Written) -> Result<Change, StoreError> {
        let [deal, side, provider, requester, status, cause] = &row.words;
        let quoted = |word: &str| format!("\"{word}\"");
        let known = DealStatus::ALL.into_iter().find(|s| s.as_str() == status);
        Ok(Change {
            number: unsigned(row.number),
            event: DealEvent {
                deal_id: deal.parse().map_err(|e| self.damaged("change", e))?,
                at: UnixSeconds(unsigned(row.at)),
                side: self.read("change", &quoted(side))?,
                provider: self.read("change", &quoted(provider))?,
                requester: self.read("change", &quoted(requester))?,
                status: known.ok_or_else(|| self.damaged("change", status))?,
                cause: cause.clone(),
            },
        })
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
