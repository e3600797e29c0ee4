//! From the network's word to a provider that is ready.

use std::time::Duration;

use ipsx_agent_core::requester::check_ready;
use ipsx_market::http::DealView;
use ipsx_market::messages::Ready;
use ipsx_market::status::ProviderStatus;
use ipsx_metering::UnixSeconds;

use super::{Requester, is_over};
use crate::broker::BrokerError;
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::store::LeaseRecord;

/// Shortest and longest pause between two looks at whether a provider is ready, while the broker does not tell.
const READY_POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// Also while it does, it is looked after this time.
const LOOK: Duration = Duration::from_secs(10);

impl Requester {
    /// Waits until the provider has opened its peer.
    pub(super) async fn ready(&self, record: &LeaseRecord) -> Result<Ready, Failure> {
        let (deal, start_by) = (record.deal.id(), record.deal.start_by);
        let mut changes = self.session.follow(deal);
        let mut pause = READY_POLL.0;
        loop {
            let change = changes
                .until(|change| change.provider >= ProviderStatus::Ready || is_over(change.status));
            let told = tokio::time::timeout(LOOK, change).await == Ok(true);
            match self.session.deal(deal).await {
                Ok(DealView {
                    ready: Some(ready), ..
                }) => {
                    check_ready(&record.deal, &self.network.rules, &ready)
                        .map_err(|fault| Failure::new(ExitCode::LeaseFailed, fault.to_string()))?;
                    return Ok(ready);
                }
                Ok(view) if is_over(view.status) || unix_now() > start_by => {
                    return Err(not_started(&view, start_by));
                }
                Ok(_) => {}
                // The deal is on the broker's disk: it goes on when the broker does.
                Err(BrokerError::Unreachable { .. }) if unix_now() <= start_by => {}
                Err(error) => return Err(error.into()),
            }
            if !told {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(READY_POLL.1);
            }
        }
    }
}

fn not_started(view: &DealView, start_by: UnixSeconds) -> Failure {
    let cause = view.cause.map_or_else(
        || format!("it was not ready by {start_by}"),
        |cause| ipsx_agent_core::requester::in_words(cause).to_string(),
    );
    Failure::new(
        ExitCode::LeaseFailed,
        format!(
            "the lease {} did not start: {cause}; nothing was paid, try again",
            view.deal_id
        ),
    )
}
