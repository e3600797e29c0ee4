//! Claims vouchers on the chain, in a task of its own: a slow chain must not slow service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::provider::ProviderEvent;
use ipsx_metering::{
    Address, Backing, CLAIM_WINDOW, ClaimCause, ClaimRules, Claimable, NetworkId, UnixSeconds,
};
use ipsx_settlement::claims::{self, ClaimError, ClaimPolicy};
use ipsx_settlement::{Centralizer, ContractError, Patience, Signer, VoucherStore, Wallet};
use tokio::sync::{mpsc, oneshot};

use super::io::Happening;
use crate::metrics::Metrics;

/// Whether something is to be claimed is looked up this often.
const LOOK: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// Claim now; the sender, if there is one, hears when it was tried.
pub(super) type ClaimNow = Option<oneshot::Sender<()>>;

/// When to claim and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimSettings {
    /// When.
    pub rules: ClaimRules,
    /// Wei for a unit of gas above which claims wait, unless a deadline presses; `None` for any price.
    pub most_per_gas: Option<u128>,
}

/// The task's state.
pub(super) struct Claimer {
    pub(super) vouchers: Arc<VoucherStore>,
    pub(super) contract: Centralizer,
    pub(super) wallet: Arc<Wallet>,
    pub(super) settings: ClaimSettings,
    pub(super) happened: mpsc::UnboundedSender<Happening>,
    pub(super) metrics: Arc<Metrics>,
}

impl Claimer {
    /// Works until nobody can ask it any more.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<ClaimNow>) {
        let mut retry = FIRST_RETRY;
        let mut owed = None;
        loop {
            let wait = if owed.is_some() { retry } else { LOOK };
            let (done, cause) = match tokio::time::timeout(wait, asked.recv()).await {
                Ok(Some(done)) => (done, ClaimCause::Value),
                Ok(None) => return,
                // While it waits, the deadline may have come near.
                Err(_) => match self.cause().await.or(owed) {
                    Some(cause) => (None, cause),
                    None => continue,
                },
            };
            match self.claim(cause).await {
                Ok(()) => {
                    owed = None;
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    // The first failure waits for `FIRST_RETRY`, later ones twice as long each.
                    retry = if owed.is_some() {
                        (retry * 2).min(LONGEST_RETRY)
                    } else {
                        FIRST_RETRY
                    };
                    owed = Some(cause);
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

    /// Claims everything that is worth it, in as many batches as it takes.
    async fn claim(&self, cause: ClaimCause) -> Result<(), ClaimError> {
        let contract = self.sending(cause);
        // What was sent before a crash may be all there is to do.
        contract.resume(self.wallet.as_ref()).await?;
        loop {
            let now = self.head().await?;
            let submitter = self.wallet.address();
            let policy = ClaimPolicy {
                at_least: self.settings.rules.at_least,
                ..ClaimPolicy::default()
            };
            let plan = claims::plan(&self.vouchers, &contract, submitter, now, policy).await?;
            if plan.claims.is_empty() {
                return Ok(());
            }
            self.metrics.claim_sent();
            let report =
                claims::submit(&self.vouchers, &contract, self.wallet.as_ref(), &plan).await?;
            self.metrics.claim_confirmed(&report);
            for (channel, _) in &report.outcomes {
                let claimed = contract.claimed(*channel).await?;
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

    /// The contract, sending at a price that the cause is worth.
    fn sending(&self, cause: ClaimCause) -> Centralizer {
        let most_per_gas = match cause {
            ClaimCause::Deadline => None,
            ClaimCause::Value | ClaimCause::Share => self.settings.most_per_gas,
        };
        let outbox = self.contract.outbox().clone().with_patience(Patience {
            most_per_gas,
            ..self.contract.outbox().patience()
        });
        self.contract.clone().with_outbox(outbox)
    }

    /// Why to claim now, if there is a reason; `None` too when the chain can't be asked.
    async fn cause(&self) -> Option<ClaimCause> {
        match self.pressing().await {
            Ok(cause) => cause,
            Err(error) => {
                tracing::debug!(%error, "whether to claim is not known");
                None
            }
        }
    }

    /// The most pressing cause of any payer.
    async fn pressing(&self) -> Result<Option<ClaimCause>, ClaimError> {
        let now = self.head().await?;
        let mut payers: HashMap<(NetworkId, Address), Vec<Claimable>> = HashMap::new();
        for stored in self.vouchers.unclaimed().await? {
            let Some((reservation, amount)) = stored.best_claim(now) else {
                continue;
            };
            let payer = (stored.channel.network, stored.channel.payer);
            payers.entry(payer).or_default().push(Claimable {
                amount,
                lapses_at: reservation.message.valid_until.after(CLAIM_WINDOW),
            });
        }
        let mut found = None;
        for ((network, payer), channels) in payers {
            let account = self.contract.account(network, payer).await?;
            let bond = self.contract.network(network).await?.bond;
            let backing = Backing {
                balance: account.balance.saturating_sub(account.pending),
                bond,
            };
            match self.settings.rules.cause(&channels, backing, now) {
                Some(ClaimCause::Deadline) => return Ok(Some(ClaimCause::Deadline)),
                cause => found = found.or(cause),
            }
        }
        Ok(found)
    }

    async fn head(&self) -> Result<UnixSeconds, ClaimError> {
        let head = self.contract.chain().head().await;
        head.map(|head| head.timestamp)
            .map_err(|error| ContractError::Chain(error).into())
    }

    fn tell(&self, event: ProviderEvent) {
        // Nobody listens when the provider is ending.
        let _ = self.happened.send(Happening::Tell(event));
    }
}
