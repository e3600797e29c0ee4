//! The capacity ledger, and consents to withdraw.

use std::str::FromStr;

use ipsx_metering::{Address, PayerAccount, Signed, UnixSeconds, Withdrawal};

use super::answers::KEPT;
use super::rows::{hex, seconds};
use super::{Store, StoreError, Tx};

/// Keeps one row of the ledger, or drops it.
pub(super) async fn save_account(
    tx: &mut Tx,
    payer: Address,
    account: Option<&PayerAccount>,
) -> Result<(), StoreError> {
    let Some(account) = account else {
        let sql = "DELETE FROM accounts WHERE payer = $1";
        return tx.execute(sql, [hex(payer).into()]).await.map(drop);
    };
    let values = [hex(payer).into(), tx.json("account", account)?.into()];
    tx.execute(
        "INSERT INTO accounts (payer, account, version) VALUES ($1, $2, 1)
         ON CONFLICT (payer) DO UPDATE SET account = excluded.account, version = accounts.version + 1",
        values,
    )
    .await
    .map(drop)
}

/// Keeps one row of the ledger; [`StoreError::Stale`] if it was written since it was read.
pub(super) async fn save_shared_account(
    tx: &mut Tx,
    payer: Address,
    account: &PayerAccount,
    version: i64,
) -> Result<(), StoreError> {
    let values = [
        hex(payer).into(),
        tx.json("account", account)?.into(),
        version.into(),
    ];
    let written = tx
        .execute(
            "INSERT INTO accounts (payer, account, version) VALUES ($1, $2, $3 + 1)
         ON CONFLICT (payer) DO UPDATE SET account = excluded.account, version = excluded.version
         WHERE accounts.version = $3",
            values,
        )
        .await?;
    match written {
        1 => Ok(()),
        _ => Err(StoreError::Stale(payer)),
    }
}

/// Keeps a consent to an immediate withdrawal, and the idempotency key that it was given under.
pub(super) async fn save_withdrawal(
    tx: &mut Tx,
    withdrawal: &Signed<Withdrawal>,
    key: Option<&str>,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let nonce = i64::try_from(withdrawal.message.nonce).unwrap_or(i64::MAX);
    let values = [
        hex(withdrawal.message.owner).into(),
        nonce.into(),
        tx.json("withdrawal", withdrawal)?.into(),
        seconds(now).into(),
        key.into(),
    ];
    tx.execute(
        "INSERT INTO withdrawals (owner, nonce, signed, at, key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        values,
    )
    .await
    .map(drop)
}

impl Store {
    /// The capacity ledger's rows.
    pub(crate) async fn accounts(&self) -> Result<Vec<(Address, PayerAccount)>, StoreError> {
        let rows = self.rows("SELECT payer, account FROM accounts", []).await?;
        let account = |row| {
            let payer = Address::from_str(&self.text("account", row, 0)?);
            let payer = payer.map_err(|e| self.damaged("account", e))?;
            Ok((payer, self.json("account", row, 1)?))
        };
        rows.iter().map(account).collect()
    }

    /// The consent that was given under a key within the last day.
    pub(crate) async fn withdrawal_under(
        &self,
        owner: Address,
        key: &str,
        now: UnixSeconds,
    ) -> Result<Option<Signed<Withdrawal>>, StoreError> {
        let since = seconds(UnixSeconds(now.0.saturating_sub(KEPT)));
        let values = [hex(owner).into(), key.into(), since.into()];
        let sql = "SELECT signed FROM withdrawals WHERE owner = $1 AND key = $2 AND at > $3
             ORDER BY at DESC LIMIT 1";
        let row = self.row(sql, values).await?;
        row.map(|row| self.json("withdrawal", &row, 0)).transpose()
    }
}
