//! Idempotency keys, what was answered under them, and finding again what was done under one whose answer was lost.

use ipsx_market::record::DealRecord;
use ipsx_metering::{Address, RequestId, Signed, UnixSeconds, Withdrawal};

use super::{Store, StoreError, hex, seconds};

/// How long an answer is kept, seconds.
pub(crate) const KEPT: u64 = 24 * 3_600;
/// Keys of one wallet at the same time.
pub(crate) const MAX_KEYS: i64 = 10_000;

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Nothing, until now.
    New,
    /// The same was asked before, and no answer is kept.
    Unanswered,
    /// The same was asked before: status and body of the answer.
    Answered(u16, String),
    /// Something else was asked under it.
    Other,
    /// The wallet has too many already.
    TooMany,
}

/// Whether a request's nonce could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceState {
    /// It was free.
    Fresh,
    /// The same request has it.
    Same,
    /// Another request has it.
    Other,
}

impl Store {
    /// Takes a key for a request with this fingerprint, unless it is taken.
    pub(crate) async fn take_key(
        &self,
        wallet: Address,
        key: &str,
        fingerprint: &str,
        now: UnixSeconds,
    ) -> Result<KeyState, StoreError> {
        let mut tx = self.pool.begin().await.map_err(|e| self.failed(e))?;
        let row: Option<(String, Option<i64>, Option<String>)> = sqlx::query_as(
            "SELECT fingerprint, status, body FROM answers WHERE wallet = ? AND key = ? AND at > ?",
        )
        .bind(hex(wallet))
        .bind(key)
        .bind(seconds(UnixSeconds(now.0.saturating_sub(KEPT))))
        .fetch_optional(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        if let Some((earlier, status, body)) = row {
            return Ok(match (earlier == fingerprint, status, body) {
                (false, ..) => KeyState::Other,
                (true, Some(status), Some(body)) => {
                    let status = u16::try_from(status);
                    KeyState::Answered(status.map_err(|e| self.damaged("answer", e))?, body)
                }
                (true, ..) => KeyState::Unanswered,
            });
        }
        let (held,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM answers WHERE wallet = ?")
            .bind(hex(wallet))
            .fetch_one(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        if held >= MAX_KEYS {
            return Ok(KeyState::TooMany);
        }
        // One that is too old is taken over.
        sqlx::query(
            "INSERT INTO answers (wallet, key, fingerprint, at) VALUES (?, ?, ?, ?)
             ON CONFLICT (wallet, key) DO UPDATE SET
             fingerprint = excluded.fingerprint, at = excluded.at, status = NULL, body = NULL",
        )
        .bind(hex(wallet))
        .bind(key)
        .bind(fingerprint)
        .bind(seconds(now))
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        tx.commit().await.map_err(|e| self.failed(e))?;
        Ok(KeyState::New)
    }

    /// Keeps what was answered.
    pub(crate) async fn keep_answer(
        &self,
        wallet: Address,
        key: &str,
        status: u16,
        body: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE answers SET status = ?, body = ? WHERE wallet = ? AND key = ?")
            .bind(i64::from(status))
            .bind(body)
            .bind(hex(wallet))
            .bind(key)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Marks a request's nonce as used, and says by which request it was.
    pub(crate) async fn use_request_nonce(
        &self,
        requester: Address,
        nonce: u64,
        request: RequestId,
        expires_at: UnixSeconds,
    ) -> Result<NonceState, StoreError> {
        let done = sqlx::query(
            "INSERT INTO request_nonces (requester, nonce, expires_at, request) VALUES (?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(hex(requester))
        .bind(nonce.to_string())
        .bind(seconds(expires_at))
        .bind(request.to_string())
        .execute(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        if done.rows_affected() == 1 {
            return Ok(NonceState::Fresh);
        }
        let (earlier,): (String,) =
            sqlx::query_as("SELECT request FROM request_nonces WHERE requester = ? AND nonce = ?")
                .bind(hex(requester))
                .bind(nonce.to_string())
                .fetch_one(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        Ok(if earlier == request.to_string() {
            NonceState::Same
        } else {
            NonceState::Other
        })
    }

    /// The deal that came of a request, if one did; the latest, should there be several.
    pub(crate) async fn deal_of_request(
        &self,
        requester: Address,
        request: RequestId,
    ) -> Result<Option<DealRecord>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT record FROM deals WHERE requester = ? AND record ->> '$.deal.request' = ?
             ORDER BY proposed_at DESC LIMIT 1",
        )
        .bind(hex(requester))
        .bind(request.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        row.map(|(text,)| self.read("deal", &text)).transpose()
    }

    /// The consent that was given under a key within the last day.
    pub(crate) async fn withdrawal_under(
        &self,
        owner: Address,
        key: &str,
        now: UnixSeconds,
    ) -> Result<Option<Signed<Withdrawal>>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT signed FROM withdrawals WHERE owner = ? AND key = ? AND at > ?
             ORDER BY at DESC LIMIT 1",
        )
        .bind(hex(owner))
        .bind(key)
        .bind(seconds(UnixSeconds(now.0.saturating_sub(KEPT))))
        .fetch_optional(&self.pool)
        .await
        .map_err(|e| self.failed(e))?;
        row.map(|(text,)| self.read("withdrawal", &text))
            .transpose()
    }
}
