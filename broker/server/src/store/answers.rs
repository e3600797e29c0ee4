//! Idempotency keys, what was answered under them, and nonces that were used.

use async_trait::async_trait;
use ipsx_metering::{Address, RequestId, UnixSeconds};

use super::rows::{hex, seconds};
use super::{StoreError, Tx, Write};

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

/// Takes a key for a request with this fingerprint, unless it is taken.
#[derive(Clone, Debug)]
pub(crate) struct TakeKey {
    /// Whose.
    pub(crate) wallet: Address,
    /// The key.
    pub(crate) key: String,
    /// What is asked for.
    pub(crate) fingerprint: String,
    /// When.
    pub(crate) now: UnixSeconds,
}

#[async_trait]
impl Write for TakeKey {
    type Done = KeyState;

    async fn write(&self, tx: &mut Tx) -> Result<KeyState, StoreError> {
        let since = UnixSeconds(self.now.0.saturating_sub(KEPT));
        let values = [
            hex(self.wallet).into(),
            self.key.as_str().into(),
            seconds(since).into(),
        ];
        let sql = "SELECT fingerprint, status, body FROM answers WHERE wallet = $1 AND key = $2 AND at > $3";
        if let Some(row) = tx.row(sql, values).await? {
            let columns = row
                .text(0)
                .and_then(|earlier| Ok((earlier, row.maybe_number(1)?, row.maybe_text(2)?)));
            let (earlier, status, body) = columns.map_err(|e| tx.damaged("answer", e))?;
            return Ok(match (earlier == self.fingerprint, status, body) {
                (false, ..) => KeyState::Other,
                (true, Some(status), Some(body)) => {
                    let status = u16::try_from(status);
                    KeyState::Answered(status.map_err(|e| tx.damaged("answer", e))?, body)
                }
                (true, ..) => KeyState::Unanswered,
            });
        }
        let sql = "SELECT COUNT(*) FROM answers WHERE wallet = $1";
        let held = tx.row(sql, [hex(self.wallet).into()]).await?;
        let held = held.map_or(Ok(0), |row| row.number(0));
        if held.map_err(|e| tx.damaged("answer", e))? >= MAX_KEYS {
            return Ok(KeyState::TooMany);
        }
        // One that is too old is taken over.
        let values = [
            hex(self.wallet).into(),
            self.key.as_str().into(),
            self.fingerprint.as_str().into(),
            seconds(self.now).into(),
        ];
        tx.execute(
            "INSERT INTO answers (wallet, key, fingerprint, at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (wallet, key) DO UPDATE SET
             fingerprint = excluded.fingerprint, at = excluded.at, status = NULL, body = NULL",
            values,
        )
        .await?;
        Ok(KeyState::New)
    }
}

/// Keeps what was answered.
#[derive(Clone, Debug)]
pub(crate) struct KeepAnswer {
    /// Whose.
    pub(crate) wallet: Address,
    /// The key.
    pub(crate) key: String,
    /// The answer's status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: String,
}

#[async_trait]
impl Write for KeepAnswer {
    type Done = ();

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let values = [
            i64::from(self.status).into(),
            self.body.as_str().into(),
            hex(self.wallet).into(),
            self.key.as_str().into(),
        ];
        let sql = "UPDATE answers SET status = $1, body = $2 WHERE wallet = $3 AND key = $4";
        tx.execute(sql, values).await.map(drop)
    }
}

/// Marks a request's nonce as used, and says by which request it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UseNonce {
    /// Whose.
    pub(crate) requester: Address,
    /// The nonce.
    pub(crate) nonce: u64,
    /// By which request.
    pub(crate) request: RequestId,
    /// Until when the request could be taken.
    pub(crate) expires_at: UnixSeconds,
}

#[async_trait]
impl Write for UseNonce {
    type Done = NonceState;

    async fn write(&self, tx: &mut Tx) -> Result<NonceState, StoreError> {
        let request = self.request.to_string();
        let whose = [hex(self.requester).into(), self.nonce.to_string().into()];
        let [requester, nonce] = whose.clone();
        let values = [
            requester,
            nonce,
            seconds(self.expires_at).into(),
            request.as_str().into(),
        ];
        let taken = tx
            .execute(
                "INSERT INTO request_nonces (requester, nonce, expires_at, request) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                values,
            )
            .await?;
        if taken == 1 {
            return Ok(NonceState::Fresh);
        }
        let sql = "SELECT request FROM request_nonces WHERE requester = $1 AND nonce = $2";
        let earlier = tx.row(sql, whose).await?.map(|row| row.text(0)).transpose();
        let earlier = earlier.map_err(|e| tx.damaged("nonce", e))?;
        Ok(if earlier == Some(request) {
            NonceState::Same
        } else {
            NonceState::Other
        })
    }
}
