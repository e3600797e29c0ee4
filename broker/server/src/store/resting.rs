//! Requests that rest, and what became of those that did.

use ipsx_market::resting::{RequestRecord, RequestStatus};
use ipsx_metering::RequestId;

use super::rows::{hex, seconds};
use super::{Row, Store, StoreError, Tx};

/// Keeps a request as it stands now, and that it came to stand there. [`StoreError::RequestOver`] if it rests no more.
pub(super) async fn save_request(tx: &mut Tx, record: &RequestRecord) -> Result<(), StoreError> {
    let (id, request) = (record.id().to_string(), &record.request.message);
    let number = i64::try_from(record.number).unwrap_or(i64::MAX);
    let values = [
        id.as_str().into(),
        hex(request.requester).into(),
        number.into(),
        record.status.as_str().into(),
        seconds(request.expires_at).into(),
        tx.json("request", record)?.into(),
    ];
    let written = tx
        .execute(
            "INSERT INTO requests (request, requester, number, status, expires_at, record)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (request) DO UPDATE SET status = excluded.status, record = excluded.record
         WHERE requests.status = 'resting'",
            values,
        )
        .await?;
    if written == 0 {
        return Err(StoreError::RequestOver(record.id()));
    }
    let status = record.status.as_str();
    let values = [
        id.as_str().into(),
        seconds(record.changed_at).into(),
        status.into(),
        hex(request.requester).into(),
    ];
    tx.execute(
        "INSERT INTO transitions (request, at, status, cause, wallet) VALUES ($1, $2, $3, $3, $4)",
        values,
    )
    .await
    .map(drop)
}

/// The same for one that nobody has matched, and that rests at several brokers: does nothing if it is over already, or if
/// one of them decides on it right now.
pub(super) async fn save_shared_request(
    tx: &mut Tx,
    record: &RequestRecord,
) -> Result<(), StoreError> {
    let sql = "SELECT 1 WHERE pg_try_advisory_xact_lock($1)";
    if tx.row(sql, [turn_of(record.id()).into()]).await?.is_none() {
        return Ok(());
    }
    match save_request(tx, record).await {
        Err(StoreError::RequestOver(_)) => Ok(()),
        saved => saved,
    }
}

/// The number of the lock by which brokers take turns with a request.
pub(super) fn turn_of(id: RequestId) -> i64 {
    let mut number = [0; 8];
    number.copy_from_slice(&id.0[..8]);
    i64::from_be_bytes(number)
}

impl Store {
    /// The requests that rest, the oldest first.
    pub(crate) async fn resting_requests(&self) -> Result<Vec<RequestRecord>, StoreError> {
        let sql = "SELECT record FROM requests WHERE status = 'resting' ORDER BY number";
        let rows = self.rows(sql, []).await?;
        rows.iter().map(|row| self.request_of(row)).collect()
    }

    /// A request that rests or has rested; those that were over before the last day or so are forgotten.
    pub(crate) async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, StoreError> {
        let sql = "SELECT record FROM requests WHERE request = $1";
        let row = self.row(sql, [id.to_string().into()]).await?;
        row.map(|row| self.request_of(&row)).transpose()
    }

    fn request_of(&self, row: &Row) -> Result<RequestRecord, StoreError> {
        self.json("request", row, 0)
    }

    /// What is wrong with the requests that rest.
    pub(super) async fn inspect_requests(
        &self,
        findings: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let sql = "SELECT record, request, status FROM requests";
        for row in self.rows(sql, []).await? {
            let id = self.text("request", &row, 1)?;
            match self.request_of(&row) {
                Ok(record) => {
                    let status = RequestStatus::as_str(record.status);
                    if record.id().to_string() != id || self.text("request", &row, 2)? != status {
                        findings.push(format!("request {id}: its record says something else"));
                    }
                }
                Err(error) => findings.push(format!("request {id}: {error}")),
            }
        }
        Ok(())
    }
}
