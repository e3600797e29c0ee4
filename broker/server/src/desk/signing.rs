//! What requesters sign is funded and bound: one deal, or several of a request at once.

use std::collections::HashMap;

use ipsx_market::deal::Binding;
use ipsx_market::http::{BoundBundle, BoundDeal, SignBundle, SignDeal};
use ipsx_market::record::DealRecord;
use ipsx_metering::{Address, Authorization, DealId, RequestId, Signature, Signed, Voucher};

use super::release::Step;
use super::{Books, Desk, DeskError};
use crate::clock;

/// A deal with the requester's signature.
pub(super) struct SignedDeal {
    pub(super) id: DealId,
    signature: Signature,
    pub(super) prepaid: Option<Signed<Voucher>>,
}

impl SignedDeal {
    fn record<'a>(
        &self,
        books: &'a Books,
        over: &'a HashMap<DealId, DealRecord>,
    ) -> Option<&'a DealRecord> {
        books.market.deal(self.id).or_else(|| over.get(&self.id))
    }

    /// The answer to a signature that was sent before and whose answer was lost.
    fn bound(&self, record: &DealRecord, requester: Address) -> Option<BoundDeal> {
        let outcome = record.outcome.clone();
        let outcome = outcome.filter(|word| word.message.outcome == Binding::Bound)?;
        self.is_on(record, requester).then(|| BoundDeal {
            outcome,
            reservation: record.reservation.clone(),
        })
    }

    fn is_on(&self, record: &DealRecord, requester: Address) -> bool {
        record.deal.requester == requester && record.requester_signature == Some(self.signature)
    }
}

impl Desk {
    /// The requester signs: funds the deal and binds it, or aborts it.
    pub(crate) async fn sign(
        &self,
        requester: Address,
        id: DealId,
        body: SignDeal,
    ) -> Result<BoundDeal, DeskError> {
        let signed = [SignedDeal {
            id,
            signature: body.signature,
            prepaid: body.prepaid,
        }];
        let authorization = body.authorization.as_ref();
        let bound = self.sign_all(requester, None, &signed, authorization);
        bound.await?.pop().ok_or(DeskError::NoAnswer)
    }

    /// The requester signs several deals of a request: funds and binds all of them, or none.
    pub(crate) async fn sign_bundle(
        &self,
        requester: Address,
        request: RequestId,
        body: SignBundle,
    ) -> Result<BoundBundle, DeskError> {
        if body.signatures.is_empty() {
            return Err(DeskError::Invalid("`signatures` is empty".into()));
        }
        let signed = body.signatures.into_iter().map(|signed| SignedDeal {
            id: signed.deal_id,
            signature: signed.signature,
            prepaid: signed.prepaid,
        });
        let signed: Vec<_> = signed.collect();
        let authorization = body.authorization.as_ref();
        let deals = self.sign_all(requester, Some(request), &signed, authorization);
        Ok(BoundBundle {
            deals: deals.await?,
        })
    }

    async fn sign_all(
        &self,
        requester: Address,
        bundle: Option<RequestId>,
        signed: &[SignedDeal],
        authorization: Option<&Signed<Authorization>>,
    ) -> Result<Vec<BoundDeal>, DeskError> {
        let now = clock::now();
        let over = self.over(signed).await?;
        {
            let mut books = self.books().await?;
            let bound = |deal: &SignedDeal| deal.bound(deal.record(&books, &over)?, requester);
            if let Some(bound) = signed.iter().map(bound).collect() {
                // It may not be on disk yet.
                let settled = self.line_up(&mut books, Step::default()).await;
                drop(books);
                settled.await?;
                return Ok(bound);
            }
            let domain = self.operator.domain();
            for deal in signed {
                if let Some(record) = books.market.deal(deal.id) {
                    let prepaid = record.deal.check_prepaid(deal.prepaid.as_ref(), &domain);
                    prepaid.map_err(|fault| DeskError::Invalid(fault.to_string()))?;
                }
                if books.funding.contains(&deal.id) {
                    return Err(DeskError::BeingFunded(deal.id));
                }
            }
            match (bundle, signed) {
                (Some(request), _) => {
                    let signatures = signed.iter().map(|deal| (deal.id, deal.signature));
                    let signatures: Vec<_> = signatures.collect();
                    let market = &mut books.market;
                    market.sign_bundle(request, requester, &signatures, now)?;
                }
                (None, [deal]) => {
                    let (id, signature) = (deal.id, deal.signature);
                    books.market.sign(id, requester, signature, now)?;
                }
                (None, _) => return Err(DeskError::NoAnswer),
            }
            books.funding.extend(signed.iter().map(|deal| deal.id));
        }
        let bound = self.fund(signed, authorization).await;
        let outcome = if bound.is_ok() { "released" } else { "refused" };
        let counter = self.metrics.reservations.with_label_values(&[outcome]);
        counter.inc_by(signed.len() as u64);
        let mut books = self.books.lock().await;
        for deal in signed {
            books.funding.remove(&deal.id);
        }
        if let Err(error) = &bound
            && !self.has_stopped()
        {
            let now = clock::now();
            let mut commands = Vec::new();
            for deal in signed {
                tracing::info!(deal = %deal.id, %error, "the deal can't be funded");
                commands.extend(books.market.give_up(deal.id, now));
            }
            self.execute(books, commands, now).await?;
        }
        bound
    }

    /// Those that are going on no more, as they came out.
    async fn over(&self, signed: &[SignedDeal]) -> Result<HashMap<DealId, DealRecord>, DeskError> {
        let going_on = |books: &Books, id: &DealId| books.market.deal(*id).is_some();
        let ids: Vec<_> = {
            let books = self.books().await?;
            let ids = signed.iter().map(|deal| deal.id);
            ids.filter(|id| !going_on(&books, id)).collect()
        };
        let mut over = HashMap::new();
        for id in ids {
            if let Some(record) = self.store.deal(id).await? {
                over.insert(id, record);
            }
        }
        Ok(over)
    }
}
