//! What the demo proves: where the traffic left, what it cost, and that every unit is accounted for.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipsx_market::offer::Country;
use ipsx_metering::{Address, Amount};
use serde::Serialize;

use super::Leased;
use super::books::Books;
use super::world::World;
use crate::amount;
use crate::exit_code::{ExitCode, Failure};
use crate::network::contract_failure;
use crate::output::{Output, Style};
use crate::statement::Statement;

/// The demo's result, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    exit_ip_seen: Option<IpAddr>,
    exit_ip_leased: IpAddr,
    country: Option<Country>,
    seconds: u64,
    bytes_up: u64,
    bytes_down: u64,
    bytes_fetched: u64,
    vouchers: u64,
    amount: Amount,
    fee: Amount,
    balances_before: Books,
    balances_after: Books,
    conserved: bool,
    provider: Address,
    deal_id: String,
    ended: &'static str,
    #[serde(skip)]
    statement: Statement,
    #[serde(skip)]
    every_page_saw_it: bool,
    #[serde(skip)]
    ended_as_agreed: bool,
    #[serde(skip)]
    provider_name: String,
}

impl Report {
    /// Reads what is left to read from the chain and adds up.
    pub(super) async fn new(
        world: &World,
        lease: &Leased,
        before: &Books,
        after: &Books,
        asked_seconds: u32,
    ) -> Result<Self, Failure> {
        let record = &lease.finished.record;
        let claimed = world
            .network
            .contract
            .claimed(record.deal.channel().id())
            .await
            .map_err(contract_failure)?;
        let statement = Statement::compute(record, Some(claimed));
        let sold = record.deal.exit_address;
        let usage = lease.finished.ending.report.usage;
        let cause = lease.finished.ending.report.cause;
        let country = record.placement.country;
        let name = country
            .map(|country| country.to_string().to_lowercase())
            .unwrap_or_default();
        let provider_name = format!("provider_{name}");
        let conserved = before.conserved(after) && moved(&statement, &provider_name, before, after);
        Ok(Self {
            exit_ip_seen: lease.seen.last().copied(),
            exit_ip_leased: sold,
            country,
            seconds: statement.seconds,
            bytes_up: usage.bytes_up,
            bytes_down: usage.bytes_down,
            bytes_fetched: lease.fetched,
            vouchers: record.vouchers,
            amount: statement.amount,
            fee: statement.fee.unwrap_or(Amount::ZERO),
            balances_before: before.clone(),
            balances_after: after.clone(),
            conserved,
            provider: record.deal.provider,
            deal_id: record.deal.id().to_string(),
            ended: ipsx_agent_core::requester::in_words(cause),
            every_page_saw_it: lease.seen.iter().all(|seen| *seen == sold),
            ended_as_agreed: statement.seconds + 1 >= u64::from(asked_seconds),
            statement,
            provider_name,
        })
    }

    /// Prints it.
    pub(super) fn show(&self, output: &Output) {
        output.json(self);
        output.line("");
        output.line(output.paint(Style::Bold, "Statement"));
        self.statement.show_text(output);
        output.line("");
        output.line(output.paint(Style::Bold, "Every token, before and after"));
        self.show_books(output);
        let totals = &self.balances_after.totals;
        output.line("");
        output.line(format!(
            "the contract holds {} = deposits {} + held {} + credits {} + bonds {}",
            amount::format(totals.tokens),
            amount::format(totals.balances),
            amount::format(totals.held),
            amount::format(totals.credits),
            amount::format(totals.bonds),
        ));
        let (style, verdict) = match self.verdict() {
            Ok(()) => (
                Style::Good,
                format!(
                    "the web saw {}, as leased, and every unit is accounted for",
                    self.exit_ip_leased
                ),
            ),
            Err(failure) => (Style::Bad, failure.message),
        };
        output.line(output.paint(style, verdict));
    }

    fn show_books(&self, output: &Output) {
        let (before, after) = (&self.balances_before, &self.balances_after);
        let mut names: Vec<String> = before
            .holders
            .iter()
            .map(|(name, _)| name.replace('_', " "))
            .collect();
        names.push("all".into());
        let column = |books: &Books| {
            let mut amounts: Vec<Amount> =
                books.holders.iter().map(|(_, amount)| *amount).collect();
            amounts.push(books.sum());
            amounts
        };
        let (before, after) = (column(before), column(after));
        let differences: Vec<Amount> = before
            .iter()
            .zip(&after)
            .map(|(b, a)| Amount(a.0.abs_diff(b.0)))
            .collect();
        let texts = amount::column(&before)
            .into_iter()
            .zip(amount::column(&after))
            .zip(amount::column(&differences));
        let rows: Vec<Vec<String>> = names
            .into_iter()
            .zip(before.iter().zip(&after))
            .zip(texts)
            .map(|((name, (before, after)), ((was, is), difference))| {
                let sign = match after.cmp(before) {
                    Ordering::Less => "-",
                    Ordering::Equal => "",
                    Ordering::Greater => "+",
                };
                vec![name, was, is, format!("{sign}{difference}")]
            })
            .collect();
        output.table(&["holder", "before", "after", "change"], &rows, &[1, 2, 3]);
    }

    /// Fails unless the web saw the leased address and the sums agree.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if !self.every_page_saw_it || self.exit_ip_seen != Some(self.exit_ip_leased) {
            return Err(Failure::new(
                ExitCode::LeaseFailed,
                format!(
                    "the web saw {:?}, but {} was leased",
                    self.exit_ip_seen, self.exit_ip_leased
                ),
            ));
        }
        self.statement.verdict()?;
        if !self.conserved {
            return Err(Failure::new(
                ExitCode::Statement,
                format!(
                    "the balances before and after do not agree with the lease of {}",
                    self.provider_name
                ),
            ));
        }
        if !self.ended_as_agreed {
            return Err(Failure::new(
                ExitCode::LeaseFailed,
                format!("the lease ended after {} s: {}", self.seconds, self.ended),
            ));
        }
        Ok(())
    }
}

/// Whether exactly what the statement says was claimed went from the deposit to provider and treasury, and nothing else.
fn moved(statement: &Statement, provider: &str, before: &Books, after: &Books) -> bool {
    let (Some(claimed), Some(fee), Some(earned)) =
        (statement.claimed, statement.fee, statement.earned)
    else {
        return false;
    };
    let grew = |name: &str, by: Amount| after.of(name) == before.of(name).saturating_add(by);
    let others = before
        .holders
        .iter()
        .filter(|(name, _)| name != provider && name != "treasury" && name != "requester_deposit");
    claimed == statement.amount
        && grew(provider, earned)
        && grew("treasury", fee)
        && before.of("requester_deposit") == after.of("requester_deposit").saturating_add(claimed)
        && others
            .into_iter()
            .all(|(name, amount)| after.of(name) == *amount)
}
