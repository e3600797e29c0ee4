//! The capacity ledger, and consents to withdraw.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use ipsx_metering::{
    AccountUpdate, Address, ChannelId, Exposure, PayerAccount, Signed, UnixSeconds, Withdrawal,
};
use serde::de::DeserializeOwned;

use super::answers::KEPT;
use super::rows::{hex, seconds};
use super::{Row, Store, StoreError, Tx};

/// Keeps what has changed of a payer's account, or drops all of it.
pub(super) async fn save_account(
    tx: &mut Tx,
    payer: Address,
    update: &AccountUpdate,
) -> Result<(), StoreError> {
    let Some(account) = &update.account else {
        for sql in [
            "DELETE FROM accounts WHERE payer = $1",
            "DELETE FROM exposures WHERE payer = $1",
        ] {
            tx.execute(sql, [hex(payer).into()]).await?;
        }
        return Ok(());
    };
    let values = [hex(payer).into(), tx.json("account", account)?.into()];
    tx.execute(
        "INSERT INTO accounts (payer, deposit, version) VALUES ($1, $2, 1)
         ON CONFLICT (payer) DO UPDATE SET deposit = excluded.deposit, version = accounts.version + 1",
        values,
    )
    .await?;
    save_exposures(tx, payer, &update.channels).await
}

/// The same for an account that several brokers write; [`StoreError::Stale`] if it was written since it was read.
pub(super) async fn save_shared_account(
    tx: &mut Tx,
    payer: Address,
    update: &AccountUpdate,
    version: i64,
) -> Result<(), StoreError> {
    // The row stays, or another one might be taken for it.
    let account = update.account.clone().unwrap_or_default();
    let values = [
        hex(payer).into(),
        tx.json("account", &account)?.into(),
        version.into(),
    ];
    let written = tx
        .execute(
            "INSERT INTO accounts (payer, deposit, version) VALUES ($1, $2, $3 + 1)
         ON CONFLICT (payer) DO UPDATE SET deposit = excluded.deposit, version = excluded.version
         WHERE accounts.version = $3",
            values,
        )
        .await?;
    match written {
        1 => save_exposures(tx, payer, &update.channels).await,
        _ => Err(StoreError::Stale(payer)),
    }
}

async fn save_exposures(
    tx: &mut Tx,
    payer: Address,
    changed: &[(ChannelId, Option<Exposure>)],
) -> Result<(), StoreError> {
    for (channel, exposure) in changed {
        let (payer, channel) = (hex(payer), channel.to_string());
        let Some(exposure) = exposure else {
            let sql = "DELETE FROM exposures WHERE payer = $1 AND channel = $2";
            tx.execute(sql, [payer.into(), channel.into()]).await?;
            continue;
        };
        let exposure = tx.json("exposure", exposure)?;
        let sql = "INSERT INTO exposures (payer, channel, exposure) VALUES ($1, $2, $3)
             ON CONFLICT (payer, channel) DO UPDATE SET exposure = excluded.exposure";
        let values = [payer.into(), channel.into(), exposure.into()];
        tx.execute(sql, values).await?;
    }
    Ok(())
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
    /// The capacity ledger, and what of it can't be read.
    pub(crate) async fn accounts(
        &self,
    ) -> Result<(BTreeMap<Address, PayerAccount>, Vec<StoreError>), StoreError> {
        let (mut accounts, mut damaged) = (BTreeMap::new(), Vec::new());
        // First: several brokers may write meanwhile, and an account is there before its channels.
        let mut exposures: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let sql = "SELECT payer, exposure, channel FROM exposures";
        for row in self.rows(sql, []).await? {
            let channel = self.text("exposure", &row, 2);
            let channel = channel.and_then(|id| self.parsed::<ChannelId>("exposure", &id));
            let read = self.parts("exposure", &row);
            match channel
                .and_then(|channel| read.map(|(payer, exposure)| (payer, channel, exposure)))
            {
                Ok((payer, channel, exposure)) => {
                    exposures
                        .entry(payer)
                        .or_default()
                        .push((channel, exposure));
                }
                Err(error) => damaged.push(error),
            }
        }
        for row in self.rows("SELECT payer, deposit FROM accounts", []).await? {
            match self.parts("account", &row) {
                Ok((payer, account)) => drop(accounts.insert(payer, account)),
                Err(error) => damaged.push(error),
            }
        }
        for (payer, channels) in exposures {
            let account: Option<&mut PayerAccount> = accounts.get_mut(&payer);
            match account {
                Some(account) => account.channels = channels.into_iter().collect(),
                None => {
                    let reason = format!("{payer} has channels and no account");
                    damaged.push(self.damaged("exposure", reason));
                }
            }
        }
        Ok((accounts, damaged))
    }

    fn parts<T: DeserializeOwned>(
        &self,
        what: &'static str,
        row: &Row,
    ) -> Result<(Address, T), StoreError> {
        let payer = self.parsed(what, &self.text(what, row, 0)?)?;
        Ok((payer, self.json(what, row, 1)?))
    }

    fn parsed<T: FromStr<Err: Display>>(
        &self,
        what: &'static str,
        text: &str,
    ) -> Result<T, StoreError> {
        text.parse()
            .map_err(|e: T::Err| self.damaged(what, format!("{text}: {e}")))
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
