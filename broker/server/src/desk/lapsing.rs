//! Claims for providers that are away: what they were promised is submitted before it lapses.

use ipsx_metering::{Amount, CLAIM_LEAD};
use ipsx_settlement::Signer;
use ipsx_settlement::claims::{self, ClaimError, ClaimPolicy};

use super::Desk;

impl Desk {
    /// Submits the latest voucher of each channel whose reservation can be claimed on for less than half of its window
    /// more, if it is worth the gas. Anyone may submit; the money goes to the provider.
    pub(crate) async fn claim_lapsing(&self) -> Result<(), ClaimError> {
        let (contract, wallet) = (self.operator.centralizer(), self.operator.wallet());
        // Several brokers send from one account.
        let Ok(_turn) = self.turn(wallet.address()).await else {
            return Ok(());
        };
        loop {
            let now = self.operator.block_time().await?;
            let policy = ClaimPolicy {
                at_least: self.claim_at_least,
                lapsing_within: Some(CLAIM_LEAD),
                ..ClaimPolicy::default()
            };
            let submitter = wallet.address();
            let plan = claims::plan(&self.vouchers, contract, submitter, now, policy).await?;
            if plan.claims.is_empty() {
                return Ok(());
            }
            let report = claims::submit(&self.vouchers, contract, wallet.as_ref(), &plan).await?;
            self.metrics
                .claimed_for_providers
                .inc_by(report.outcomes.len() as u64);
            tracing::info!(channels = report.outcomes.len(), paid = %report.paid, "claimed what was about to lapse");
            if report.paid == Amount::ZERO {
                // Every row was skipped; the same ones would be again.
                return Ok(());
            }
        }
    }
}
