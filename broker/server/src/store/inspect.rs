//! Everything in the store, read once: whether it can be read, and whether it agrees with itself.

use std::collections::BTreeMap;

use ipsx_market::deal::Outcome;
use ipsx_market::record::DealRecord;
use ipsx_metering::{Address, CLAIM_WINDOW, PayerAccount, Signed, UnixSeconds, Withdrawal};

use super::database::Database;
use super::{Row, Store, StoreError, Value};

/// Rows that are read at once.
const PAGE: i64 = 500;
/// Clocks of brokers that share a store may differ by so much, seconds.
const SLACK: u64 = 60;

/// What is wrong, in the order in which it was found.
type Findings = Vec<String>;

impl Store {
    /// Reads everything; returns what is wrong, nothing if nothing is.
    ///
    /// # Errors
    ///
    /// When the database can't be read on, so that the rest stays unknown.
    pub(crate) async fn inspect(&self, now: UnixSeconds) -> Result<Findings, StoreError> {
        let mut findings = self.integrity().await?;
        let (accounts, damaged) = self.accounts().await?;
        findings.extend(damaged.iter().map(StoreError::to_string));
        self.inspect_deals(&accounts, now, &mut findings).await?;
        self.inspect_requests(&mut findings).await?;
        self.inspect_rest(now, &mut findings).await?;
        Ok(findings)
    }

    /// What the database itself finds. PostgreSQL has checksums and `pg_amcheck` of its own for that.
    async fn integrity(&self) -> Result<Findings, StoreError> {
        if matches!(self.database, Database::Postgres(_)) {
            return Ok(Findings::new());
        }
        let rows = self.rows("PRAGMA integrity_check", []).await?;
        let said = rows.iter().map(|row| self.text("page", row, 0));
        let said: Vec<_> = said.collect::<Result<_, _>>()?;
        let orphans = self.rows("PRAGMA foreign_key_check", []).await?;
        let mut findings: Findings = said.into_iter().filter(|line| line != "ok").collect();
        if !orphans.is_empty() {
            findings.push(format!("{} rows belong to no deal", orphans.len()));
        }
        Ok(findings)
    }

    async fn inspect_deals(
        &self,
        accounts: &BTreeMap<Address, PayerAccount>,
        now: UnixSeconds,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let sql = "SELECT d.deal_id, d.record, d.status, d.closed, d.requester, d.request, o.signed
             FROM deals d LEFT JOIN outcomes o ON o.deal_id = d.deal_id
             WHERE d.deal_id > $1 ORDER BY d.deal_id LIMIT $2";
        let mut after = String::new();
        loop {
            let rows = self.rows(sql, [after.into(), PAGE.into()]).await?;
            for row in &rows {
                let id = self.text("deal", row, 0)?;
                match self.inspect_deal(row, accounts, now) {
                    Ok(wrong) => {
                        findings.extend(wrong.iter().map(|what| format!("deal {id}: {what}")));
                    }
                    Err(error) => findings.push(format!("deal {id}: {error}")),
                }
            }
            match rows.last() {
                Some(last) => after = self.text("deal", last, 0)?,
                None => return Ok(()),
            }
        }
    }

    fn inspect_deal(
        &self,
        row: &Row,
        accounts: &BTreeMap<Address, PayerAccount>,
        now: UnixSeconds,
    ) -> Result<Vec<&'static str>, StoreError> {
        let record: DealRecord = self.json("deal", row, 1)?;
        let word = row.maybe_text(6).map_err(|e| self.damaged("outcome", e))?;
        let word = word.map(|text| {
            serde_json::from_str::<Signed<Outcome>>(&text).map_err(|e| self.damaged("outcome", e))
        });
        let word = word.transpose()?;
        let closed = row.number(3).map_err(|e| self.damaged("deal", e))? == 1;
        let mut wrong = Vec::new();
        let mut unless = |holds: bool, what| {
            if !holds {
                wrong.push(what);
            }
        };
        let same_id = record.deal.id() == record.deal_id
            && self.text("deal", row, 0)? == record.deal_id.to_string();
        unless(same_id, "its record is of another deal");
        let columns = self.text("deal", row, 2)? == record.status().as_str()
            && closed == record.closed_at.is_some()
            && self.text("deal", row, 4)? == super::rows::hex(record.deal.requester)
            && self.text("deal", row, 5)? == record.deal.request.to_string();
        unless(columns, "its columns are not as its record says");
        unless(!closed || word.is_some(), "it is closed without an outcome");
        let said = record
            .outcome
            .as_ref()
            .is_none_or(|outcome| Some(outcome) == word.as_ref());
        unless(said, "its outcome is not the one that is kept");
        let late = now.after(SLACK);
        let times = [Some(record.proposed_at), record.over_at, record.closed_at];
        unless(
            times.into_iter().flatten().all(|at| at <= late),
            "it is from the future",
        );
        unless(
            is_promised(&record, accounts, now),
            "its reservation is not in its payer's account",
        );
        Ok(wrong)
    }

    async fn inspect_rest(
        &self,
        now: UnixSeconds,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let late = i64::try_from(now.after(SLACK).0).unwrap_or(i64::MAX);
        for (sql, what) in [
            ("SELECT COUNT(*) FROM transitions WHERE at > $1", "changes"),
            ("SELECT COUNT(*) FROM outcomes WHERE at > $1", "outcomes"),
            ("SELECT COUNT(*) FROM withdrawals WHERE at > $1", "consents"),
            ("SELECT COUNT(*) FROM answers WHERE at > $1", "answers"),
            ("SELECT COUNT(*) FROM proofs WHERE at > $1", "proofs"),
        ] {
            let row = self.row(sql, [late.into()]).await?;
            let count = row.map_or(Ok(0), |row| row.number(0));
            let count = count.map_err(|e| self.damaged("row", e))?;
            if count > 0 {
                findings.push(format!("{count} {what} are from the future"));
            }
        }
        for row in self.rows("SELECT signed FROM withdrawals", []).await? {
            if let Err(error) = self.json::<Signed<Withdrawal>>("withdrawal", &row, 0) {
                findings.push(error.to_string());
            }
        }
        for row in self.rows(super::proofs::SELECT, []).await? {
            if let Err(error) = self.proof(&row) {
                findings.push(error.to_string());
            }
        }
        let sql =
            "SELECT number, at, deal_id, side, provider, requester, status, cause, request FROM transitions
             WHERE number > $1 ORDER BY number LIMIT $2";
        let mut after = 0;
        loop {
            let rows = self.rows(sql, [Value::Number(after), PAGE.into()]).await?;
            for row in &rows {
                after = row.number(0).map_err(|e| self.damaged("change", e))?;
                if let Err(error) = self.change(row) {
                    findings.push(format!("change {after}: {error}"));
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Whether a reservation that can still be claimed on counts against its payer's deposit.
fn is_promised(
    record: &DealRecord,
    accounts: &BTreeMap<Address, PayerAccount>,
    now: UnixSeconds,
) -> bool {
    let Some(reservation) = record.reservation.as_ref().map(|signed| &signed.message) else {
        return true;
    };
    if reservation.valid_until.after(CLAIM_WINDOW) < now {
        return true;
    }
    let account = accounts.get(&record.deal.payer);
    let exposure = account.and_then(|account| account.channels.get(&reservation.channel_id));
    exposure.is_some_and(|exposure| {
        exposure.promises.iter().any(|promise| {
            promise.capacity >= reservation.capacity
                && promise.valid_until >= reservation.valid_until
        })
    })
}
