//! `ipsx probe`: leases addresses as a customer does, for the operator of a network, and tells its broker where they
//! leave from.

mod accounts;
mod look;

use std::sync::Arc;
use std::time::Duration;

use ipsx_market::proof::{ProbeOrder, ProbeOutcome};
use ipsx_settlement::Connector;
use serde_json::json;

use crate::broker::Admin;
use crate::cli::ProbeArgs;
use crate::config::{Settings, check_url};
use crate::connect::{self, ExitPage, interrupted};
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;
use accounts::Accounts;

/// Runs it until it is interrupted, or until no probe is due.
pub(crate) async fn run(
    args: ProbeArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let admin = Admin::new(&check_url("admin", &args.admin)?, Connector::default());
    let echoes = echoes(&args, settings)?;
    let download = args.download.as_deref().map(ExitPage::parse).transpose()?;
    let upload = args.upload.as_deref().map(ExitPage::parse).transpose()?;
    let main = connect::open(settings, output).await?;
    let prober = Prober {
        accounts: Accounts::open(settings, Arc::new(main))?,
        ways: look::Ways {
            binds: args.bind.clone(),
            echoes,
            download,
            upload,
        },
        args,
    };
    tokio::select! {
        done = prober.run(&admin, output) => done,
        () = interrupted() => Err(Failure::new(
            ExitCode::Interrupted,
            "interrupted; a lease that was under way is ended by the next start",
        )),
    }
}

/// The pages that probes may look at; a nonce is added to each.
fn echoes(args: &ProbeArgs, settings: &Settings) -> Result<Vec<String>, Failure> {
    let own = format!("{}/v1/echo", settings.broker);
    let named = if args.echo.is_empty() {
        std::slice::from_ref(&own)
    } else {
        &args.echo
    };
    for url in named {
        ExitPage::parse(url)?;
    }
    Ok(named.to_vec())
}

struct Prober {
    accounts: Accounts,
    ways: look::Ways,
    args: ProbeArgs,
}

impl Prober {
    async fn run(&self, admin: &Admin, output: &Output) -> Result<(), Failure> {
        let pause = Duration::from_secs(self.args.pause.into());
        loop {
            match admin.next_probe().await {
                Ok(Some(order)) => {
                    let outcome = self.probe(&order).await;
                    self.tell(admin, &order, &outcome, output).await;
                    if matches!(outcome, ProbeOutcome::Seen { .. }) {
                        continue;
                    }
                }
                Ok(None) if self.args.once => return Ok(()),
                Ok(None) => {}
                Err(error) if self.args.once => return Err(error.into()),
                Err(error) => output.note(error.to_string()),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One probe. Whatever fails is an outcome, too.
    async fn probe(&self, order: &ProbeOrder) -> ProbeOutcome {
        match look::probe(&self.accounts, order, &self.ways, self.args.budget).await {
            Ok(outcome) => outcome,
            // The provider's doing, as far as this side can tell.
            Err(failure) if failure.code == ExitCode::LeaseFailed => ProbeOutcome::Silent {
                reason: failure.message,
            },
            Err(failure) => ProbeOutcome::Missed {
                reason: failure.message,
            },
        }
    }

    async fn tell(
        &self,
        admin: &Admin,
        order: &ProbeOrder,
        outcome: &ProbeOutcome,
        output: &Output,
    ) {
        let said = match outcome {
            ProbeOutcome::Seen { echo, .. } => format!("seen at {}", echo.message.seen),
            ProbeOutcome::Silent { reason } => format!("silent: {reason}"),
            ProbeOutcome::Missed { reason } => format!("not leased: {reason}"),
        };
        match admin.probed(order.task, outcome).await {
            Ok(verdict) => {
                let standing = &verdict.standing;
                output.json(&json!({
                    "offer": order.offer,
                    "provider": order.provider,
                    "outcome": outcome,
                    "standing": standing,
                }));
                output.line(format!("{} {said}: {}", order.provider, in_words(standing)));
            }
            Err(error) => output.note(format!("{} {said}, but: {error}", order.provider)),
        }
    }
}

fn in_words(standing: &ipsx_market::proof::Standing) -> String {
    use ipsx_market::proof::Standing;
    match standing {
        Standing::Unproven => "not proven yet".into(),
        Standing::Proven { until } => format!("proven until {until}"),
        Standing::Failing { disagreed, agreed } => {
            format!("failing, by {disagreed} probes, and {agreed} since then that agreed")
        }
    }
}
