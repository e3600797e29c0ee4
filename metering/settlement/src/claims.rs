//! Turns vouchers into credits: which claims are worth making, what they cost, and what became of them.
//!
//! Everything is read from the chain again before a claim is planned, so that a crash between a claim and its note in
//! the store costs nothing: the next plan sees what was paid.

use alloy_primitives::{Address, U256};
use ipsx_metering::{Amount, CLAIM_WINDOW, ChannelId, NetworkId, UnixSeconds};
use std::collections::HashMap;

use crate::contract::{
    Centralizer, ClaimRow, ContractError, NetworkState, RowOutcome, Settlement, SkipReason,
};
use crate::voucher_store::{StoreError, StoredChannel, VoucherStore};

/// Rows of one batch at most: about 4,000,000 gas.
pub const MAX_ROWS: usize = 100;

/// Claims could not be planned or submitted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The contract failed.
    #[error(transparent)]
    Contract(#[from] ContractError),
}

/// Which claims to make.
#[derive(Clone, Copy, Debug)]
pub struct ClaimPolicy {
    /// Claims worth less are left for later.
    pub at_least: Amount,
    /// Rows of the batch, at most [`MAX_ROWS`].
    pub max_rows: usize,
    /// Only claims that could be made for less than these seconds more; `None` for all.
    pub lapsing_within: Option<u64>,
}

impl Default for ClaimPolicy {
    fn default() -> Self {
        Self {
            at_least: Amount(1),
            max_rows: MAX_ROWS,
            lapsing_within: None,
        }
    }
}

/// One claim of a plan.
#[derive(Clone, Debug)]
pub struct PlannedClaim {
    /// What is submitted.
    pub row: ClaimRow,
    /// What it should move, fee included.
    pub amount: Amount,
    /// The network's part of it.
    pub fee: Amount,
}

/// Why a channel with unclaimed vouchers is not in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// No reservation that has not lapsed covers it.
    #[error("no reservation covers it any more")]
    Uncovered,
    /// It can still be made later than the policy asks for.
    #[error("it can wait")]
    NotYet,
    /// It is worth less than the policy asks for.
    #[error("it is worth less than asked for")]
    TooSmall,
    /// The batch is full; plan again after this one.
    #[error("the batch is full")]
    NextBatch,
}

/// What would be claimed now.
#[derive(Clone, Debug)]
pub struct ClaimPlan {
    /// The rows, the most valuable first.
    pub claims: Vec<PlannedClaim>,
    /// The channels left out, with what their vouchers are worth beyond what was paid.
    pub left: Vec<(ChannelId, Amount, Left)>,
    /// What the rows should move in all, fee included.
    pub amount: Amount,
    /// The networks' part of it.
    pub fee: Amount,
    /// Gas of the batch; 0 for an empty one.
    pub gas: u64,
    /// Wei that the gas costs at most.
    pub gas_cost: U256,
}

/// What became of a submitted plan.
#[derive(Clone, Debug)]
pub struct ClaimReport {
    /// Each channel with its outcome, in the plan's order.
    pub outcomes: Vec<(ChannelId, RowOutcome)>,
    /// What was moved in all, fee included.
    pub paid: Amount,
    /// The networks' part of it.
    pub fee: Amount,
    /// The transaction; `None` for an empty plan.
    pub settlement: Option<Settlement>,
}

/// Plans a batch for what the store holds, as `submitter` would send it at `now` (the chain's time).
pub async fn plan(
    store: &VoucherStore,
    centralizer: &Centralizer,
    submitter: Address,
    now: UnixSeconds,
    policy: ClaimPolicy,
) -> Result<ClaimPlan, ClaimError> {
    let mut networks = HashMap::new();
    let mut claims = Vec::new();
    let mut left = Vec::new();
    for mut stored in store.unclaimed().await? {
        let id = stored.channel.id();
        // Before the chain is asked: most channels can wait.
        if let Some((amount, reason)) = waits(&stored, now, policy.lapsing_within) {
            left.push((id, amount, reason));
            continue;
        }
        stored.claimed = note_claimed(store, centralizer, id).await?;
        let network = cached(&mut networks, centralizer, stored.channel.network).await?;
        match planned(&stored, now, policy.at_least, network) {
            Ok(Some(claim)) => claims.push(claim),
            Ok(None) => {}
            Err((amount, reason)) => left.push((id, amount, reason)),
        }
    }
    claims.sort_by_key(|claim| std::cmp::Reverse(claim.amount));
    let fits = policy.max_rows.min(MAX_ROWS).min(claims.len());
    for claim in claims.split_off(fits) {
        left.push((claim.row.channel.id(), claim.amount, Left::NextBatch));
    }
    let rows: Vec<_> = claims.iter().map(|claim| claim.row.clone()).collect();
    let (gas, gas_cost) = cost(centralizer, submitter, &rows).await?;
    Ok(ClaimPlan {
        amount: claims.iter().map(|claim| claim.amount).sum(),
        fee: claims.iter().map(|claim| claim.fee).sum(),
        claims,
        left,
        gas,
        gas_cost,
    })
}

/// Submits a plan and notes in the store what was paid. An empty plan costs nothing.
pub async fn submit(
    store: &VoucherStore,
    centralizer: &Centralizer,
    submitter: &dyn crate::Signer,
    plan: &ClaimPlan,
) -> Result<ClaimReport, ClaimError> {
    let mut report = ClaimReport {
        outcomes: Vec::with_capacity(plan.claims.len()),
        paid: Amount::ZERO,
        fee: Amount::ZERO,
        settlement: None,
    };
    if plan.claims.is_empty() {
        return Ok(report);
    }
    let rows: Vec<_> = plan.claims.iter().map(|claim| claim.row.clone()).collect();
    let settlement = centralizer.settle(submitter, &rows).await?;
    for (row, outcome) in rows.iter().zip(&settlement.outcomes) {
        let id = row.channel.id();
        match *outcome {
            RowOutcome::Settled { paid, fee, .. } => {
                report.paid = report.paid.saturating_add(paid);
                report.fee = report.fee.saturating_add(fee);
                note_claimed(store, centralizer, id).await?;
            }
            // Somebody else submitted it first.
            RowOutcome::Skipped(SkipReason::NothingDue) => {
                note_claimed(store, centralizer, id).await?;
            }
            RowOutcome::Skipped(reason) => {
                tracing::warn!(channel = %id, %reason, "a claim was skipped");
            }
        }
        report.outcomes.push((id, *outcome));
    }
    report.settlement = Some(settlement);
    Ok(report)
}

/// What a channel was paid, as the newest block has it. The store is told only what no reorganisation takes back: it
/// would leave out a channel for good whose claim was undone.
async fn note_claimed(
    store: &VoucherStore,
    centralizer: &Centralizer,
    id: ChannelId,
) -> Result<Amount, ClaimError> {
    let latest = centralizer.claimed(id).await?;
    let certain = centralizer.channel_final(id).await?.claimed;
    // In case the reads were of two sides of a reorganisation.
    store.set_claimed(id, certain.min(latest)).await?;
    Ok(latest)
}

/// Why a channel is left for later, if only those about to lapse are asked for.
fn waits(
    stored: &StoredChannel,
    now: UnixSeconds,
    lapsing_within: Option<u64>,
) -> Option<(Amount, Left)> {
    let lead = lapsing_within?;
    let (reservation, amount) = stored.best_claim(now)?;
    let lapses_at = reservation.message.valid_until.after(CLAIM_WINDOW);
    (lapses_at.since(now) >= lead).then_some((amount, Left::NotYet))
}

/// The claim that a channel is good for, `None` if all of it was paid, or why it is left.
fn planned(
    stored: &StoredChannel,
    now: UnixSeconds,
    at_least: Amount,
    network: &NetworkState,
) -> Result<Option<PlannedClaim>, (Amount, Left)> {
    let Some(voucher) = &stored.voucher else {
        return Ok(None);
    };
    let unpaid = voucher.message.cumulative.saturating_sub(stored.claimed);
    if unpaid == Amount::ZERO {
        return Ok(None);
    }
    let Some((reservation, amount)) = stored.best_claim(now) else {
        return Err((unpaid, Left::Uncovered));
    };
    if amount < at_least {
        return Err((amount, Left::TooSmall));
    }
    let after = stored.claimed.saturating_add(amount);
    let fee = after
        .basis_points(network.fee_bps)
        .saturating_sub(stored.claimed.basis_points(network.fee_bps));
    Ok(Some(PlannedClaim {
        row: ClaimRow {
            channel: stored.channel.clone(),
            reservation: reservation.clone(),
            voucher: voucher.clone(),
        },
        amount,
        fee,
    }))
}

async fn cached<'a>(
    networks: &'a mut HashMap<NetworkId, NetworkState>,
    centralizer: &Centralizer,
    id: NetworkId,
) -> Result<&'a NetworkState, ContractError> {
    use std::collections::hash_map::Entry;
    Ok(match networks.entry(id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(centralizer.network(id).await?),
    })
}

async fn cost(
    centralizer: &Centralizer,
    submitter: Address,
    rows: &[ClaimRow],
) -> Result<(u64, U256), ContractError> {
    if rows.is_empty() {
        return Ok((0, U256::ZERO));
    }
    let gas = centralizer.settle_gas(submitter, rows).await?;
    let fees = centralizer
        .chain()
        .fees()
        .await
        .map_err(ContractError::Chain)?;
    Ok((gas, U256::from(gas) * U256::from(fees.max_fee_per_gas)))
}
