//! Waiting for an offer, while the request rests at the broker.

use std::time::Duration;

use ipsx_market::http::{EndDeal, ProposedDeal, RequestView};
use ipsx_market::messages::{EndCause, EndReport};
use ipsx_market::resting::RequestStatus;
use ipsx_metering::{Amount, RequestId};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::show::Shown;
use super::{Requester, interrupts};
use crate::broker::BrokerError;
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};

/// How long the broker is asked to wait for news at a time.
const POLL: Duration = Duration::from_secs(25);
/// Pause before a broker that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long somebody waits for offers, and how that is seen and given up.
pub struct Patience<'a> {
    /// How long the request may rest.
    pub seconds: u32,
    /// How many leases are wanted.
    pub count: u8,
    /// The user's wishes to end.
    pub interrupts: &'a mut mpsc::Receiver<u32>,
    /// Where the waiting is shown.
    pub shown: &'a Shown<'a>,
}

impl<'a> Patience<'a> {
    /// Patience of whoever waits at all, with the wishes to end of `early`, until there are leases that hear them.
    pub fn of(
        wait: Option<u32>,
        count: u8,
        early: &'a mut Option<mpsc::Receiver<u32>>,
        shown: &'a Shown<'a>,
    ) -> Option<Self> {
        // Without patience, an interrupt ends the program until a lease begins.
        let seconds = wait?;
        Some(Self {
            seconds,
            count,
            interrupts: early.get_or_insert_with(interrupts),
            shown,
        })
    }
}

impl Requester {
    /// Waits until deals came of a request that rests. Takes it back if the user wishes to end.
    pub(super) async fn wait(
        &self,
        view: &RequestView,
        patience: Option<Patience<'_>>,
    ) -> Result<Vec<ProposedDeal>, Failure> {
        let patience = patience.ok_or_else(|| unasked(view))?;
        let (id, until) = (view.request, view.rest_until);
        patience.shown.rests(view, patience.count);
        let mut second = interval(Duration::from_secs(1));
        let asking = self.ask_after(id);
        tokio::pin!(asking);
        loop {
            tokio::select! {
                answer = &mut asking => {
                    match answer {
                        Ok(view) if view.status != RequestStatus::Resting => {
                            patience.shown.rests(&view, patience.count);
                            return outcome(view);
                        }
                        Ok(_) => {}
                        // The request is on the broker's disk: it goes on when the broker does.
                        Err(BrokerError::Unreachable { .. }) if unix_now() <= until => {}
                        Err(error) => return Err(error.into()),
                    }
                    asking.set(self.ask_after(id));
                }
                _ = second.tick() => patience.shown.waiting(until.since(unix_now())),
                _ = patience.interrupts.recv() => return Err(self.take_back(id).await),
            }
        }
    }

    async fn ask_after(&self, id: RequestId) -> Result<RequestView, BrokerError> {
        let answer = self.session.resting(id, POLL).await;
        if let Err(BrokerError::Unreachable { .. }) = &answer {
            sleep(RETRY).await;
        }
        answer
    }

    /// Takes a request back, and a deal that came of it in the same moment.
    async fn take_back(&self, id: RequestId) -> Failure {
        let said = match self.session.cancel(id).await {
            Ok(_) => "the request was taken back; nothing was paid".into(),
            Err(BrokerError::Problem(_)) => {
                self.refuse_deals(id).await;
                "the request no longer rested; what came of it is not signed, and nothing was paid"
                    .into()
            }
            Err(error) => format!(
                "the request could not be taken back ({error}); it rests until its time is up, but nothing that comes of it is signed or paid"
            ),
        };
        Failure::new(ExitCode::Interrupted, said)
    }

    /// Tells the broker that what came of a request will not be signed, so that nobody waits for it; untold, it expires by
    /// itself.
    async fn refuse_deals(&self, id: RequestId) {
        let view = self.session.resting(id, Duration::ZERO).await;
        let report = EndReport {
            cause: EndCause::RequesterEnded,
            usage: Default::default(),
            amount: Amount::ZERO,
            voucher: None,
        };
        let end = EndDeal { report };
        for deal in view.map(|view| view.deals).unwrap_or_default() {
            if let Err(error) = self.session.end(deal.deal_id, &end).await {
                tracing::info!(%error, "the broker could not be told that the deal is not signed");
            }
        }
    }
}

/// What came of a request that no longer rests.
fn outcome(view: RequestView) -> Result<Vec<ProposedDeal>, Failure> {
    let nothing = |code, what: &str| Err(Failure::new(code, what));
    match view.status {
        RequestStatus::Matched => Ok(view.deals),
        RequestStatus::Expired => nothing(
            ExitCode::NoMatch,
            "not enough offers came that fit; wait longer with --wait, or widen the filters",
        ),
        RequestStatus::Refused => {
            let reason = view.reason.unwrap_or_default();
            Err(Failure::new(
                ExitCode::LeaseFailed,
                format!("many offers fitted, and too few providers signed: {reason}"),
            ))
        }
        RequestStatus::Cancelled => nothing(
            ExitCode::Interrupted,
            "the request was taken back elsewhere",
        ),
        RequestStatus::Resting => Err(no_deal()),
    }
}

/// The broker shows nothing of what it says there is.
pub(super) fn no_deal() -> Failure {
    Failure::new(
        ExitCode::Refused,
        "the broker says that the request is matched, and shows no deal; nothing was signed",
    )
}

fn unasked(view: &RequestView) -> Failure {
    Failure::new(
        ExitCode::Refused,
        format!(
            "the broker lets the request {} rest, which was not asked for; nothing was signed",
            view.request
        ),
    )
}
