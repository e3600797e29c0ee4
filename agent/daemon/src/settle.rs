//! `ipsx settle`: claims what requesters have signed for, with the fee and the gas shown first.

use std::io::{BufRead, IsTerminal};

use ipsx_metering::Amount;
use ipsx_settlement::claims::{self, ClaimError, ClaimPlan, ClaimPolicy, ClaimReport};
use ipsx_settlement::{RowOutcome, Signer};
use serde_json::json;

use crate::amount;
use crate::broker::Broker;
use crate::cli::SettleArgs;
use crate::config::Settings;
use crate::earnings::{self, store_failure};
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, chain_failure, contract_failure};
use crate::output::{Output, Style};
use crate::wallet;

/// Runs it.
pub(crate) async fn run(
    args: SettleArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let wallet = wallet::open(settings).await?;
    let network = Network::join(settings, &Broker::new(&settings.broker)).await?;
    let Some(store) = earnings::vouchers(settings, &network).await? else {
        return nothing(
            output,
            "no provider has run here: there is nothing to claim",
        );
    };
    let now = network
        .contract
        .chain()
        .head()
        .await
        .map_err(chain_failure)?
        .timestamp;
    let plan = claims::plan(
        &store,
        &network.contract,
        wallet.address(),
        now,
        ClaimPolicy::default(),
    );
    let plan = plan.await.map_err(claim_failure)?;
    preview(&plan, output);
    if args.dry_run {
        output.json(&preview_json(&plan));
        return Ok(());
    }
    if plan.claims.is_empty() {
        return nothing(output, "nothing to claim");
    }
    if !args.yes && !confirmed(output)? {
        return nothing(output, "nothing was submitted");
    }
    let report = claims::submit(&store, &network.contract, wallet.as_ref(), &plan)
        .await
        .map_err(claim_failure)?;
    store.close().await;
    show(&report, output);
    Ok(())
}

/// A claim's error with its exit code.
pub(crate) fn claim_failure(error: ClaimError) -> Failure {
    match error {
        ClaimError::Store(error) => store_failure(error),
        ClaimError::Contract(error) => contract_failure(error),
    }
}

fn nothing(output: &Output, why: &str) -> Result<(), Failure> {
    output.json(&json!({ "paid": Amount::ZERO, "fee": Amount::ZERO, "rows": [] }));
    output.line(why);
    Ok(())
}

/// What a dry run says to programs: amounts in the token's smallest unit, gas in wei.
fn preview_json(plan: &ClaimPlan) -> serde_json::Value {
    let rows = plan.claims.iter().map(|claim| {
        json!({
            "channel": claim.row.channel.id(),
            "payer": claim.row.channel.payer,
            "amount": claim.amount,
            "fee": claim.fee,
            "valid_until": claim.row.reservation.message.valid_until,
        })
    });
    let left = plan.left.iter().map(|(channel, amount, why)| {
        json!({ "channel": channel, "amount": amount, "reason": why.to_string() })
    });
    json!({
        "amount": plan.amount,
        "fee": plan.fee,
        "gas": plan.gas,
        "gas_cost": plan.gas_cost.to_string(),
        "rows": rows.collect::<Vec<_>>(),
        "left": left.collect::<Vec<_>>(),
    })
}

fn preview(plan: &ClaimPlan, output: &Output) {
    let rows: Vec<Vec<String>> = plan
        .claims
        .iter()
        .map(|claim| {
            vec![
                claim.row.channel.payer.to_string(),
                amount::format(claim.amount),
                amount::format(claim.fee),
                amount::format(claim.amount.saturating_sub(claim.fee)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output.table(&["payer", "claim", "fee", "to you"], &rows, &[1, 2, 3]);
        output.line(format!(
            "in all {}, of which {} fee; gas {} for at most {} wei",
            amount::tokens(plan.amount),
            amount::tokens(plan.fee),
            plan.gas,
            plan.gas_cost
        ));
    }
    for (channel, left, why) in &plan.left {
        output.line(format!(
            "left: {} of channel {channel}: {why}",
            amount::tokens(*left)
        ));
    }
}

fn confirmed(output: &Output) -> Result<bool, Failure> {
    if output.is_json() || !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            ExitCode::Usage,
            "submitting spends gas: say so with --yes",
        ));
    }
    output.line("Submit? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::internal(format!("the answer cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn show(report: &ClaimReport, output: &Output) {
    let rows: Vec<_> = report
        .outcomes
        .iter()
        .map(|(channel, outcome)| match outcome {
            RowOutcome::Settled {
                paid, fee, unpaid, ..
            } => {
                json!({ "channel": channel, "paid": paid, "fee": fee, "unpaid": unpaid })
            }
            RowOutcome::Skipped(reason) => {
                json!({ "channel": channel, "skipped": reason.to_string() })
            }
        })
        .collect();
    let transaction = report
        .settlement
        .as_ref()
        .map(|settlement| settlement.receipt.transaction_hash);
    output.json(&json!({ "paid": report.paid, "fee": report.fee, "transaction": transaction, "rows": rows }));
    for (channel, outcome) in &report.outcomes {
        let text = match outcome {
            RowOutcome::Settled { paid, unpaid, .. } if *unpaid == Amount::ZERO => {
                output.paint(Style::Good, format!("paid {}", amount::tokens(*paid)))
            }
            RowOutcome::Settled { paid, unpaid, .. } => output.paint(
                Style::Bad,
                format!(
                    "paid {}; the deposit did not cover {}",
                    amount::tokens(*paid),
                    amount::tokens(*unpaid)
                ),
            ),
            RowOutcome::Skipped(reason) => output.paint(Style::Bad, format!("skipped: {reason}")),
        };
        output.line(format!("channel {channel}: {text}"));
    }
    output.line(format!(
        "claimed {}, {} of it fee",
        amount::tokens(report.paid),
        amount::tokens(report.fee)
    ));
}
