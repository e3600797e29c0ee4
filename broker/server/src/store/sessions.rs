//! Requesters' sessions, and what is forgotten when its time is over.

use std::str::FromStr;

use async_trait::async_trait;
use ipsx_market::proof::REMEMBERED;
use ipsx_metering::{Address, UnixSeconds};

use super::answers::KEPT;
use super::rows::{hex, seconds};
use super::{Store, StoreError, Tx, Write};

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

/// Forgets sessions, nonces, answers and proofs that no longer count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForgetExpired(pub(crate) UnixSeconds);

#[async_trait]
impl Write for ForgetExpired {
    type Done = ();

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let now = self.0;
        let a_day_ago = UnixSeconds(now.0.saturating_sub(KEPT));
        let long_ago = UnixSeconds(now.0.saturating_sub(REMEMBERED));
        for (sql, before) in [
            ("DELETE FROM sessions WHERE expires_at < $1", now),
            ("DELETE FROM used_nonces WHERE expires_at < $1", now),
            ("DELETE FROM request_nonces WHERE expires_at < $1", now),
            ("DELETE FROM answers WHERE at < $1", a_day_ago),
            ("DELETE FROM proofs WHERE at < $1", long_ago),
        ] {
            tx.execute(sql, [seconds(before).into()]).await?;
        }
        Ok(())
    }
}

impl Store {
    /// Whose session a token opens, if it still counts.
    pub(crate) async fn session(
        &self,
        token_hash: &str,
        now: UnixSeconds,
    ) -> Result<Option<Address>, StoreError> {
        let sql = "SELECT wallet FROM sessions WHERE token_hash = $1 AND expires_at > $2";
        let values = [token_hash.into(), seconds(now).into()];
        let Some(row) = self.row(sql, values).await? else {
            return Ok(None);
        };
        let wallet = Address::from_str(&self.text("session", &row, 0)?);
        wallet.map(Some).map_err(|e| self.damaged("session", e))
    }
}
