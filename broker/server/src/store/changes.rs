//! What changed deals and requests that rest, in the order in which it was written down.
//!
//! A wallet's numbers only grow, and a change is readable before any with a higher number is written: whoever has read up to
//! a number has missed none below it. With SQLite that is so for all wallets, since one task writes; in PostgreSQL, where
//! several brokers write, whoever writes for a wallet keeps the others waiting ([`Write::wallets`](super::Write::wallets)).

use ipsx_market::http::{DealEvent, RequestEvent};
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, DealId, UnixSeconds};
use serde::de::DeserializeOwned;

use super::rows::hex;
use super::{Row, Store, StoreError};

/// A change, and the number by which one goes on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) number: u64,
    pub(crate) event: Event,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Deal(DealEvent),
    Request(RequestEvent),
}

impl Store {
    /// The number of a wallet's latest change as a requester; 0 before the first.
    pub(crate) async fn latest_change(&self, wallet: Address) -> Result<u64, StoreError> {
        let sql = "SELECT COALESCE(MAX(number), 0) FROM transitions WHERE wallet = $1";
        let row = self.row(sql, [hex(wallet).into()]).await?;
        row.map_or(Ok(0), |row| self.unsigned(&row, 0))
    }

    /// Changes of one deal with higher numbers than this, oldest first.
    pub(crate) async fn changes_of_deal(
        &self,
        id: DealId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Change>, StoreError> {
        let values = [
            id.to_string().into(),
            signed(after).into(),
            i64::from(limit).into(),
        ];
        let sql =
            "SELECT number, at, deal_id, side, provider, requester, status, cause, request FROM transitions
             WHERE deal_id = $1 AND number > $2 ORDER BY number LIMIT $3";
        let rows = self.rows(sql, values).await?;
        rows.iter().map(|row| self.change(row)).collect()
    }

    /// Changes of all deals of a requester with higher numbers than this, oldest first.
    pub(crate) async fn changes_of(
        &self,
        wallet: Address,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Change>, StoreError> {
        let values = [
            hex(wallet).into(),
            signed(after).into(),
            i64::from(limit).into(),
        ];
        let sql =
            "SELECT number, at, deal_id, side, provider, requester, status, cause, request FROM transitions
             WHERE wallet = $1 AND number > $2 ORDER BY number LIMIT $3";
        let rows = self.rows(sql, values).await?;
        rows.iter().map(|row| self.change(row)).collect()
    }

    pub(super) fn change(&self, row: &Row) -> Result<Change, StoreError> {
        let request = row.maybe_text(8).map_err(|e| self.damaged("change", e))?;
        let event = match request {
            Some(request) => Event::Request(self.request_event(row, &request)?),
            None => Event::Deal(self.deal_event(row)?),
        };
        let number = self.unsigned(row, 0)?;
        Ok(Change { number, event })
    }

    fn deal_event(&self, row: &Row) -> Result<DealEvent, StoreError> {
        let status = self.text("change", row, 6)?;
        let known = DealStatus::ALL.into_iter().find(|s| s.as_str() == status);
        let deal_id = self.text("change", row, 2)?.parse();
        Ok(DealEvent {
            deal_id: deal_id.map_err(|e| self.damaged("change", e))?,
            at: UnixSeconds(self.unsigned(row, 1)?),
            side: self.word(row, 3)?,
            provider: self.word(row, 4)?,
            requester: self.word(row, 5)?,
            status: known.ok_or_else(|| self.damaged("change", status))?,
            cause: self.text("change", row, 7)?,
        })
    }

    fn request_event(&self, row: &Row, request: &str) -> Result<RequestEvent, StoreError> {
        let request = request.parse();
        Ok(RequestEvent {
            request: request.map_err(|e| self.damaged("change", e))?,
            at: UnixSeconds(self.unsigned(row, 1)?),
            status: self.word(row, 6)?,
        })
    }

    /// A unit variant, by its name.
    fn word<T: DeserializeOwned>(&self, row: &Row, column: usize) -> Result<T, StoreError> {
        let quoted = format!("\"{}\"", self.text("change", row, column)?);
        serde_json::from_str(&quoted).map_err(|e| self.damaged("change", e))
    }

    fn unsigned(&self, row: &Row, column: usize) -> Result<u64, StoreError> {
        let number = row.number(column).map_err(|e| self.damaged("change", e))?;
        u64::try_from(number).map_err(|e| self.damaged("change", e))
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
