//! Requesters' sessions, and what is forgotten when its time is over.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use ipsx_metering::{Address, UnixSeconds};

use super::answers::KEPT;
use super::row::Value;
use super::rows::{hex, seconds};
use super::{Store, StoreError, Tx, Write};

/// Sessions that are remembered beside the database; more, and all are looked up anew.
const REMEMBERED: usize = 100_000;
/// Rows of a table that are forgotten in one transaction, for which others wait.
const AT_ONCE: i64 = 250;

/// Sessions that were looked up. What a token opens never changes, and only its time ends it: whoever asks often need not
/// wait for the database each time.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<String, (Address, UnixSeconds)>>);

impl Known {
    fn wallet(&self, token_hash: &str, now: UnixSeconds) -> Option<Address> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (wallet, expires_at) = known.get(token_hash)?;
        (*expires_at > now).then_some(*wallet)
    }

    fn remember(&self, token_hash: &str, wallet: Address, expires_at: UnixSeconds) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(token_hash.into(), (wallet, expires_at));
    }
}

/// A session that is opened by a sign-in nonce. Done: false if the nonce was used before.
#[derive(Clone, Debug)]
pub(crate) struct OpenSession {
    /// The nonce, and until when it would count.
    pub(crate) nonce: (String, UnixSeconds),
    /// Hash of the session's token.
    pub(crate) token_hash: String,
    /// Whose.
    pub(crate) wallet: Address,
    /// Until when.
    pub(crate) expires_at: UnixSeconds,
}

#[async_trait]
impl Write for OpenSession {
    type Done = bool;

    async fn write(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let (nonce, end) = &self.nonce;
        let used = tx
            .execute(
                "INSERT INTO used_nonces (nonce, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                [nonce.as_str().into(), seconds(*end).into()],
            )
            .await?;
        if used == 0 {
            return Ok(false);
        }
        let values = [
            self.token_hash.as_str().into(),
            hex(self.wallet).into(),
            seconds(self.expires_at).into(),
        ];
        tx.execute(
            "INSERT INTO sessions (token_hash, wallet, expires_at) VALUES ($1, $2, $3)",
            values,
        )
        .await?;
        Ok(true)
    }
}

/// Forgets some of the sessions, nonces and answers that no longer count. Done: whether there may be more.
struct ForgetSome(UnixSeconds);

#[async_trait]
impl Write for ForgetSome {
    type Done = bool;

    async fn write(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let now = self.0;
        let a_day_ago = UnixSeconds(now.0.saturating_sub(KEPT));
        let mut is_more = false;
        for (sql, before) in [
            (
                "DELETE FROM sessions WHERE token_hash IN
                 (SELECT token_hash FROM sessions WHERE expires_at < $1 LIMIT $2)",
                now,
            ),
            (
                "DELETE FROM used_nonces WHERE nonce IN
                 (SELECT nonce FROM used_nonces WHERE expires_at < $1 LIMIT $2)",
                now,
            ),
            (
                "DELETE FROM request_nonces WHERE (requester, nonce) IN
                 (SELECT requester, nonce FROM request_nonces WHERE expires_at < $1 LIMIT $2)",
                now,
            ),
            (
                "DELETE FROM answers WHERE (wallet, key) IN (SELECT wallet, key FROM answers WHERE at < $1 LIMIT $2)",
                a_day_ago,
            ),
            (
                "DELETE FROM requests WHERE request IN
                 (SELECT request FROM requests WHERE expires_at < $1 AND status <> 'resting' LIMIT $2)",
                a_day_ago,
            ),
        ] {
            let values = [seconds(before).into(), Value::Number(AT_ONCE)];
            is_more |= tx.execute(sql, values).await? >= AT_ONCE.unsigned_abs();
        }
        Ok(is_more)
    }
}

impl Store {
    /// Forgets sessions, nonces and answers that no longer count, in many small transactions.
    pub(crate) async fn forget_expired(&self, now: UnixSeconds) -> Result<(), StoreError> {
        while self.write(ForgetSome(now)).await? {}
        Ok(())
    }

    /// Whose session a token opens, if it still counts.
    pub(crate) async fn session(
        &self,
        token_hash: &str,
        now: UnixSeconds,
    ) -> Result<Option<Address>, StoreError> {
        if let Some(wallet) = self.sessions.wallet(token_hash, now) {
            return Ok(Some(wallet));
        }
        let sql =
            "SELECT wallet, expires_at FROM sessions WHERE token_hash = $1 AND expires_at > $2";
        let values = [token_hash.into(), seconds(now).into()];
        let Some(row) = self.row(sql, values).await? else {
            return Ok(None);
        };
        let wallet = Address::from_str(&self.text("session", &row, 0)?);
        let wallet = wallet.map_err(|e| self.damaged("session", e))?;
        let expires_at = row.number(1).map_err(|e| self.damaged("session", e))?;
        let expires_at = UnixSeconds(u64::try_from(expires_at).unwrap_or(0));
        self.sessions.remember(token_hash, wallet, expires_at);
        Ok(Some(wallet))
    }
}
