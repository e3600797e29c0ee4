//! Deals, what changed them, and the network's word on each.

use ipsx_market::deal::Outcome;
use ipsx_market::fleet::ShardId;
use ipsx_market::record::{DealRecord, Transition};
use ipsx_metering::{Address, DealId, RequestId, Signed, UnixSeconds};

use super::rows::{hex, seconds};
use super::{Row, Store, StoreError, Tx};

/// Keeps a deal, what changed it, and its outcome if it has one.
pub(super) async fn save_deal(
    tx: &mut Tx,
    record: &DealRecord,
    transitions: &[Transition],
) -> Result<(), StoreError> {
    let values = [
        record.deal_id.to_string().into(),
        hex(record.deal.provider).into(),
        hex(record.deal.requester).into(),
        record.deal.channel().id().to_string().into(),
        record.status().as_str().into(),
        seconds(record.proposed_at).into(),
        i64::from(record.closed_at.is_some()).into(),
        tx.json("deal", record)?.into(),
        record.deal.request.to_string().into(),
        i64::from(ShardId::of(record).number()).into(),
    ];
    tx.execute(
        "INSERT INTO deals (deal_id, provider, requester, channel, status, proposed_at, closed, record, request, shard)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (deal_id) DO UPDATE SET status = excluded.status, closed = excluded.closed, record = excluded.record,
         shard = excluded.shard",
        values,
    )
    .await?;
    for transition in transitions {
        insert_transition(tx, record.deal.requester, transition).await?;
    }
    if let Some(outcome) = &record.outcome {
        let at = transitions.last().map_or(record.proposed_at, |t| t.at);
        save_outcome(tx, outcome, at).await?;
    }
    Ok(())
}

async fn insert_transition(
    tx: &mut Tx,
    wallet: Address,
    transition: &Transition,
) -> Result<(), StoreError> {
    let values = [
        transition.deal_id.to_string().into(),
        seconds(transition.at).into(),
        tx.word(&transition.side)?.into(),
        tx.word(&transition.provider)?.into(),
        tx.word(&transition.requester)?.into(),
        transition.status().as_str().into(),
        transition.cause.to_string().into(),
        hex(wallet).into(),
    ];
    tx.execute(
        "INSERT INTO transitions (deal_id, at, side, provider, requester, status, cause, wallet)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values,
    )
    .await
    .map(drop)
}

/// Keeps the network's word on a deal; [`StoreError::OtherOutcome`] if it has given another one.
pub(super) async fn save_outcome(
    tx: &mut Tx,
    signed: &Signed<Outcome>,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let id = signed.message.deal_id;
    let outcome = tx.word(&signed.message.outcome)?;
    let values = [
        id.to_string().into(),
        outcome.as_str().into(),
        tx.json("outcome", signed)?.into(),
        seconds(at).into(),
    ];
    let inserted = tx
        .execute(
            "INSERT INTO outcomes (deal_id, outcome, signed, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            values,
        )
        .await?;
    if inserted == 1 {
        return Ok(());
    }
    let kept = tx
        .row(
            "SELECT outcome FROM outcomes WHERE deal_id = $1",
            [id.to_string().into()],
        )
        .await?;
    let kept = kept.map(|row| row.text(0)).transpose();
    match kept.map_err(|e| tx.damaged("outcome", e))? {
        Some(kept) if kept == outcome => Ok(()),
        _ => Err(StoreError::OtherOutcome(id)),
    }
}

impl Store {
    /// The network's word on a deal.
    pub(crate) async fn outcome(&self, id: DealId) -> Result<Option<Signed<Outcome>>, StoreError> {
        let sql = "SELECT signed FROM outcomes WHERE deal_id = $1";
        let row = self.row(sql, [id.to_string().into()]).await?;
        row.map(|row| self.json("outcome", &row, 0)).transpose()
    }

    /// A deal.
    pub(crate) async fn deal(&self, id: DealId) -> Result<Option<DealRecord>, StoreError> {
        let sql = "SELECT record FROM deals WHERE deal_id = $1";
        let row = self.row(sql, [id.to_string().into()]).await?;
        row.map(|row| self.json("deal", &row, 0)).transpose()
    }

    /// Deals that are not closed.
    pub(crate) async fn open_deals(&self) -> Result<Vec<DealRecord>, StoreError> {
        let sql = "SELECT record FROM deals WHERE closed = 0 ORDER BY deal_id";
        self.records(&self.rows(sql, []).await?)
    }

    /// A requester's deals, newest first, or those that follow the one named.
    pub(crate) async fn deals_of(
        &self,
        requester: Address,
        after: Option<(UnixSeconds, DealId)>,
        limit: u32,
    ) -> Result<Vec<DealRecord>, StoreError> {
        let (at, id) = after.map_or((i64::MAX, String::new()), |(at, id)| {
            (seconds(at), id.to_string())
        });
        let values = [
            hex(requester).into(),
            at.into(),
            id.into(),
            i64::from(limit).into(),
        ];
        let sql =
            "SELECT record FROM deals WHERE requester = $1 AND (proposed_at, deal_id) < ($2, $3)
             ORDER BY proposed_at DESC, deal_id DESC LIMIT $4";
        self.records(&self.rows(sql, values).await?)
    }

    /// All deals that came of a request, in the order of its legs, and of each leg the latest last.
    pub(crate) async fn deals_of_request(
        &self,
        requester: Address,
        request: RequestId,
    ) -> Result<Vec<DealRecord>, StoreError> {
        let values = [hex(requester).into(), request.to_string().into()];
        let sql = "SELECT record FROM deals WHERE requester = $1 AND request = $2
             ORDER BY proposed_at, deal_id";
        let mut records = self.records(&self.rows(sql, values).await?)?;
        records.sort_by_key(|record| record.deal.leg);
        Ok(records)
    }

    /// Deals that were aborted or expired without the network's word, because the broker stopped in between.
    pub(crate) async fn deals_without_outcome(&self) -> Result<Vec<DealRecord>, StoreError> {
        let sql = "SELECT record FROM deals WHERE closed = 1
             AND NOT EXISTS (SELECT 1 FROM outcomes WHERE outcomes.deal_id = deals.deal_id)";
        self.records(&self.rows(sql, []).await?)
    }

    fn records(&self, rows: &[Row]) -> Result<Vec<DealRecord>, StoreError> {
        rows.iter().map(|row| self.json("deal", row, 0)).collect()
    }
}
