//! What requesters ask about requests that rest.

use ipsx_market::http::RequestView;
use ipsx_market::market::{Answered, RequestRefusal};
use ipsx_market::resting::{RequestRecord, RequestStatus};
use ipsx_metering::{Address, RequestId, UnixSeconds};

use super::deals::proposed;
use super::{Desk, DeskError};
use crate::clock;

impl Desk {
    /// Where a request stands, for its requester.
    pub(crate) async fn request_view(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<RequestView, DeskError> {
        let Some(record) = self.store.request(id).await? else {
            // It never rested, if there was one.
            let deal = self.store.deal_of_request(requester, id).await?;
            let deal = deal.ok_or(RequestRefusal::Unknown(id))?;
            return Ok(RequestView {
                request: id,
                status: RequestStatus::Matched,
                rest_until: UnixSeconds(0),
                changed_at: deal.proposed_at,
                deal: Some(proposed(&deal)),
            });
        };
        if record.request.message.requester != requester {
            return Err(RequestRefusal::NotYours(id).into());
        }
        self.view(&record).await
    }

    /// Takes a request back that rests. Said again, it changes nothing.
    pub(crate) async fn cancel_request(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<RequestView, DeskError> {
        let now = clock::now();
        let mut books = self.books().await?;
        match books.market.cancel(requester, id, now) {
            Ok(commands) => self.execute(books, commands, now).await?,
            Err(RequestRefusal::Unknown(_)) => {
                // What became of it may be in line for the disk.
                let settled = self.line_up(&mut books, Default::default()).await;
                drop(books);
                settled.await?;
            }
            Err(refusal) => return Err(refusal.into()),
        }
        let view = self.request_view(requester, id).await?;
        match view.status {
            RequestStatus::Cancelled => Ok(view),
            status => Err(RequestRefusal::Over(id, status).into()),
        }
    }

    /// What came of a request that was posted before, if anything did.
    pub(super) async fn answered(
        &self,
        requester: Address,
        id: RequestId,
    ) -> Result<Option<Answered>, DeskError> {
        if let Some(record) = self.store.deal_of_request(requester, id).await? {
            return Ok(Some(Answered::Deal(Box::new(proposed(&record)))));
        }
        let Some(record) = self.store.request(id).await? else {
            return Ok(None);
        };
        let view = self.view(&record).await?;
        Ok(Some(Answered::Rests(Box::new(view))))
    }

    async fn view(&self, record: &RequestRecord) -> Result<RequestView, DeskError> {
        let requester = record.request.message.requester;
        let deal = match record.status {
            RequestStatus::Matched => self.store.deal_of_request(requester, record.id()).await?,
            _ => None,
        };
        Ok(record.view(deal.as_ref().map(proposed)))
    }
}
