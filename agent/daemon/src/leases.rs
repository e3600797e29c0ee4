//! `ipsx leases`: what this wallet has leased.

use std::collections::HashMap;

use ipsx_market::status::DealStatus;
use ipsx_metering::DealId;
use serde_json::json;

use crate::amount;
use crate::cli::{LeasesArgs, duration};
use crate::clock::unix_now;
use crate::config::Settings;
use crate::connect::{self, Requester, is_over};
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;
use crate::statement::Statement;
use crate::store::{LeaseRecord, Stage, Store};

/// Without --all, leases that ended longer ago than this many seconds are left out.
const RECENT_SECS: u64 = 24 * 3_600;

/// Runs it. Without the broker, what is known here is shown all the same: it may be needed against it.
pub(crate) async fn run(
    args: LeasesArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let requester = match connect::open(settings, output).await {
        Ok(requester) => Some(requester),
        Err(failure) if failure.code == ExitCode::Unreachable => {
            output.note(format!("only what is known here: {failure}"));
            None
        }
        Err(failure) => return Err(failure),
    };
    let store = Store::new(&settings.data);
    list(&store, requester.as_ref(), args.all, output).await
}

async fn list(
    store: &Store,
    requester: Option<&Requester>,
    all: bool,
    output: &Output,
) -> Result<(), Failure> {
    let mut statuses = HashMap::new();
    if let Some(requester) = requester {
        let deals = requester.session.deals().await?;
        statuses.extend(deals.into_iter().map(|view| (view.deal_id, view.status)));
    }
    let now = unix_now();
    let mut records = store.leases()?;
    records.retain(|record| {
        all || record
            .ended
            .is_none_or(|ended| now.since(ended.at) < RECENT_SECS)
    });
    for record in records
        .iter_mut()
        .filter(|record| record.stage == Stage::Paying)
    {
        let state = store.channel(record.deal.channel().id())?;
        record.catch_up(&state);
    }
    let rows: Vec<_> = records
        .iter()
        .map(|record| (record, status(record, &statuses)))
        .collect();
    let objects: Vec<_> = rows
        .iter()
        .map(|(record, status)| as_json(record, status))
        .collect();
    output.json(&json!({ "leases": objects }));
    if rows.is_empty() {
        output.line("no leases; `ipsx connect` makes one");
        return Ok(());
    }
    let heading = ["lease", "address", "cc", "status", "used", "promised"];
    let rows: Vec<_> = rows
        .iter()
        .map(|(record, status)| as_row(record, status))
        .collect();
    output.table(&heading, &rows, &[4, 5]);
    Ok(())
}

fn as_row(record: &LeaseRecord, status: &str) -> Vec<String> {
    let statement = Statement::compute(record, None);
    let country = record.placement.country.map(|country| country.to_string());
    vec![
        record.deal.id().to_string(),
        record.deal.exit_address.to_string(),
        country.unwrap_or_else(|| "-".into()),
        match record.relay {
            Some(_) => format!("{status}, relayed"),
            None => status.to_string(),
        },
        duration::format(statement.seconds),
        amount::format(statement.amount),
    ]
}

/// The broker's word while it may still change, else what is known here.
fn status(record: &LeaseRecord, statuses: &HashMap<DealId, DealStatus>) -> String {
    let known = statuses.get(&record.deal.id()).copied();
    let over_here = matches!(record.stage, Stage::Ended | Stage::Closed);
    match known {
        Some(status) if is_over(status) || !over_here => serde_json::to_value(status)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default(),
        _ if over_here => "ended".into(),
        _ => "unknown".into(),
    }
}

fn as_json(record: &LeaseRecord, status: &str) -> serde_json::Value {
    let statement = Statement::compute(record, None);
    json!({
        "deal_id": statement.deal_id,
        "status": status,
        "cause": statement.cause,
        "provider": statement.provider,
        "exit_address": statement.exit_address,
        "country": statement.country,
        "relay": record.relay,
        "signed_at": record.signed_at,
        "seconds": statement.seconds,
        "bytes_up": statement.bytes_up,
        "bytes_down": statement.bytes_down,
        "amount": statement.amount,
    })
}
