//! Several deals of one request, signed and bound at once.

use ipsx_market::http::{BoundBundle, BoundDeal, SignBundle};
use ipsx_market::record::DealRecord;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, DealId, RequestId, Signature};

use super::deals::already_bound;
use super::release::Step;
use super::{Books, Desk, DeskError};
use crate::clock;

impl Desk {
    /// The requester signs several deals of a request: funds them and binds them together, or aborts them.
    pub(crate) async fn sign_bundle(
        &self,
        requester: Address,
        request: RequestId,
        body: SignBundle,
    ) -> Result<BoundBundle, DeskError> {
        let signatures = body.signatures.iter();
        let signatures: Vec<_> = signatures.map(|s| (s.deal_id, s.signature)).collect();
        if signatures.is_empty() {
            return Err(DeskError::Invalid("no deal is signed".into()));
        }
        let ids: Vec<DealId> = signatures.iter().map(|(id, _)| *id).collect();
        if let Some(deals) = self.bound_before(requester, &signatures).await? {
            return Ok(BoundBundle { deals });
        }
        let now = clock::now();
        let signed = {
            let mut books = self.books().await?;
            if let Some(id) = ids.iter().find(|id| books.funding.contains(id)) {
                return Err(DeskError::BeingFunded(*id));
            }
            // A broker that was stopped in between goes on with the signatures when they are sent again.
            let resumed = signatures
                .iter()
                .all(|signed| waits(&books, requester, signed));
            let commands = match resumed {
                true => Vec::new(),
                false => books
                    .market
                    .sign_bundle(request, requester, &signatures, now)?,
            };
            books.funding.extend(ids.iter().copied());
            self.begin(&mut books, Step::default(), commands, now).await
        };
        let legs: Vec<_> = ids.iter().map(|id| (*id, None)).collect();
        let bound = match signed.await {
            Ok(()) => self.fund(&legs, body.authorization.as_ref()).await,
            Err(error) => Err(error),
        };
        let outcome = if bound.is_ok() { "released" } else { "refused" };
        let counter = self.metrics.reservations.with_label_values(&[outcome]);
        counter.inc_by(ids.len() as u64);
        let mut books = self.books.lock().await;
        books.funding.retain(|id| !ids.contains(id));
        if let Err(error) = &bound
            && !self.has_stopped()
        {
            tracing::info!(%request, %error, "the deals can't be funded");
            let now = clock::now();
            let commands = ids.iter().flat_map(|id| books.market.give_up(*id, now));
            let commands = commands.collect();
            self.execute(books, commands, now).await?;
        }
        Ok(BoundBundle { deals: bound? })
    }

    /// The answer to signatures that were sent before and whose answer was lost.
    async fn bound_before(
        &self,
        requester: Address,
        signatures: &[(DealId, Signature)],
    ) -> Result<Option<Vec<BoundDeal>>, DeskError> {
        let mut bound = Vec::new();
        for (id, signature) in signatures {
            let Some(record) = self.current(*id).await? else {
                return Ok(None);
            };
            match already_bound(&record, requester, *signature) {
                Some(deal) => bound.push(deal),
                None => return Ok(None),
            }
        }
        // They may not be on disk yet.
        let mut books = self.books().await?;
        let settled = self.line_up(&mut books, Step::default()).await;
        drop(books);
        settled.await?;
        Ok(Some(bound))
    }

    /// A deal as it is, whether it goes on or not.
    async fn current(&self, id: DealId) -> Result<Option<DealRecord>, DeskError> {
        let here = self.books().await?.market.deal(id).cloned();
        match here {
            Some(record) => Ok(Some(record)),
            None => Ok(self.store.deal(id).await?),
        }
    }
}

/// Whether a deal has this signature already, and nothing came of it.
fn waits(books: &Books, requester: Address, (id, signature): &(DealId, Signature)) -> bool {
    books.market.deal(*id).is_some_and(|record| {
        record.deal.requester == requester
            && record.status() == DealStatus::Proposed
            && record.requester_signature == Some(*signature)
    })
}
