//! Claims vouchers on the chain, in a task of its own: a slow chain must not slow service.

use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::provider::ProviderEvent;
use ipsx_settlement::claims::{self, ClaimError, ClaimPolicy};
use ipsx_settlement::{Centralizer, Signer, VoucherStore, Wallet};
use tokio::sync::{mpsc, oneshot};

use super::io::Happening;

/// Whether something is about to lapse is looked up this often.
const LOOK: Duration = Duration::from_secs(600);
/// Claims are made at the latest this long before their reservation's claim window closes: half of the window.
const BEFORE_LAPSE: u64 = 12 * 3_600;
/// A claim is good for this long after its reservation.
const WINDOW: u64 = 24 * 3_600;
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// Claim now; the sender, if there is one, hears when it was tried.
pub(super) type ClaimNow = Option<oneshot::Sender<()>>;

/// The task's state.
pub(super) struct Claimer {
    pub(super) vouchers: Arc<VoucherStore>,
    pub(super) contract: Centralizer,
    pub(super) wallet: Arc<Wallet>,
    pub(super) happened: mpsc::UnboundedSender<Happening>,
}

impl Claimer {
    /// Works until nobody can ask it any more.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<ClaimNow>) {
        let mut retry = FIRST_RETRY;
        let mut owed = false;
        loop {
            let wait = if owed { retry } else { LOOK };
            let done = match tokio::time::timeout(wait, asked.recv()).await {
                Ok(Some(done)) => done,
                Ok(None) => return,
                Err(_) if owed || self.something_lapses().await => None,
                Err(_) => continue,
            };
            match self.claim().await {
                Ok(()) => {
                    owed = false;
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    // The first failure waits for `FIRST_RETRY`, later ones twice as long each.
                    retry = if owed {
                        (retry * 2).min(LONGEST_RETRY)
                    } else {
                        FIRST_RETRY
                    };
                    owed = true;
                    self.tell(ProviderEvent::ClaimFailed {
                        reason: error.to_string(),
                        retry_in: retry.as_secs(),
                    });
                }
            }
            if let Some(done) = done {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    /// Claims everything that is due, in as many batches as it takes.
    async fn claim(&self) -> Result<(), ClaimError> {
        loop {
            let now = self.head().await?;
            let submitter = self.wallet.address();
            let policy = ClaimPolicy::default();
            let plan = claims::plan(&self.vouchers, &self.contract, submitter, now, policy).await?;
            if plan.claims.is_empty() {
                return Ok(());
            }
            let report =
                claims::submit(&self.vouchers, &self.contract, self.wallet.as_ref(), &plan).await?;
            for (channel, _) in &report.outcomes {
                let claimed = self.contract.claimed(*channel).await?;
                let _ = self.happened.send(Happening::Claimed(*channel, claimed));
            }
            if report.paid.0 == 0 {
                // Every row was skipped; what can still be claimed is found by the next look.
                return Ok(());
            }
            self.tell(ProviderEvent::Claimed {
                channels: report.outcomes.len(),
                amount: report.paid,
                fee: report.fee,
            });
        }
    }

    async fn something_lapses(&self) -> bool {
        let (Ok(now), Ok(unclaimed)) = (self.head().await, self.vouchers.unclaimed().await) else {
            return false;
        };
        unclaimed.iter().any(|channel| {
            channel.best_claim(now).is_some_and(|(reservation, _)| {
                reservation.message.valid_until.after(WINDOW).since(now) < BEFORE_LAPSE
            })
        })
    }

    async fn head(&self) -> Result<ipsx_metering::UnixSeconds, ClaimError> {
        let head = self.contract.chain().head().await;
        head.map(|head| head.timestamp)
            .map_err(|error| ipsx_settlement::ContractError::Chain(error).into())
    }

    fn tell(&self, event: ProviderEvent) {
        // Nobody listens when the provider is ending.
        let _ = self.happened.send(Happening::Tell(event));
    }
}
