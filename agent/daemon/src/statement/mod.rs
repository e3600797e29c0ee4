//! `ipsx statement`: who paid whom in one lease or in a month, with everything that was signed, so that each amount can
//! be computed again by `ipsx verify` or by any other program.

mod account;
mod calendar;
mod collect;
mod connections;
mod csv;
mod document;
#[cfg(test)]
pub(crate) mod fixture;
mod page;
#[cfg(test)]
mod tests;

use crate::amount;
use crate::cli::{StatementArgs, duration};
use crate::config::Settings;
use crate::connect;
use crate::exit_code::{ExitCode, Failure};
use crate::measure::bytes;
use crate::output::Output;
use crate::store::{Store, write_private};

pub use account::{Check, Statement};
pub use calendar::Month;
pub(crate) use collect::Asked;
use collect::requester_record;
pub use document::{Account, Claim, Document, Entry, Evidence, OwnNotes, Side, Totals};

/// Runs it.
pub(crate) async fn run(
    args: StatementArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let asked = Asked::from_args(&args)?;
    let document = document(asked, args.provider, settings, output).await?;
    if let Some(file) = &args.html {
        write_private(file, page::render(&document).as_bytes())?;
        output.note(format!("written to {}", file.display()));
    }
    output.json(&document);
    match asked {
        _ if args.csv => output.line(csv::render(&document).trim_end()),
        Asked::Lease(lease) if !args.provider => {
            let record = requester_record(&Store::new(&settings.data), lease)?;
            let claimed = document.entries.first().and_then(Entry::claimed_on_chain);
            let statement = Statement::compute(&record, claimed);
            statement.show_text(output);
            return statement.verdict();
        }
        _ => show(&document, output),
    }
    Ok(())
}

/// Gathers it from the records in the data folder and from the chain, if the broker can be reached.
pub(crate) async fn document(
    asked: Asked,
    provider: bool,
    settings: &Settings,
    output: &Output,
) -> Result<Document, Failure> {
    let store = Store::new(&settings.data);
    match connect::open(settings, output).await {
        Ok(joined) if provider => collect::provided(&joined, settings, asked).await,
        Ok(joined) => collect::leased(&store, Some(&joined), asked).await,
        // What is known here may be needed against the broker.
        Err(failure) if failure.code == ExitCode::Unreachable && !provider => {
            output.note(format!("without what the chain paid: {failure}"));
            collect::leased(&store, None, asked).await
        }
        Err(failure) => Err(failure),
    }
}

/// One line for each lease, and the sums.
fn show(document: &Document, output: &Output) {
    let unknown = || "-".to_string();
    let money = |amount: Option<_>| amount.map_or_else(unknown, amount::format);
    let row = |name: String, when: String, account: &Account| {
        vec![
            name,
            when,
            duration::format(account.seconds),
            bytes(account.bytes_up.saturating_add(account.bytes_down)),
            amount::format(account.used),
            amount::format(account.promised),
            money(account.claimed),
            money(account.fee),
        ]
    };
    let mut rows: Vec<_> = document
        .entries
        .iter()
        .map(|entry| {
            let when = calendar::minute(entry.account.at);
            row(entry.account.deal_id.to_string(), when, &entry.account)
        })
        .collect();
    if rows.is_empty() {
        output.line("no leases in this time; `ipsx leases --all` lists them");
        return;
    }
    let totals = &document.totals;
    rows.push(vec![
        format!("{} leases", totals.leases),
        String::new(),
        duration::format(totals.seconds),
        bytes(totals.bytes_up.saturating_add(totals.bytes_down)),
        amount::format(totals.used),
        amount::format(totals.promised),
        money(totals.claimed),
        money(totals.fee),
    ]);
    let heading = [
        "lease",
        "when (UTC)",
        "time",
        "data",
        "used",
        "promised",
        "claimed",
        "fee",
    ];
    output.table(&heading, &rows, &[2, 3, 4, 5, 6, 7]);
}
