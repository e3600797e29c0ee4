//! Who paid whom in one lease, recomputed from the signed records and the chain. Nothing is taken from anybody's word:
//! each signature and each sum is checked again.

use std::net::IpAddr;

use ipsx_market::deal::Binding;
use ipsx_market::messages::EndCause;
use ipsx_market::offer::Country;
use ipsx_market::request::CounterSource;
use ipsx_metering::{
    Address, Amount, ChannelId, ConnectionsChecked, DealId, Prices, TypedData, Usage, verify,
};
use serde::Serialize;

use super::connections;
use crate::amount;
use crate::cli::duration;
use crate::exit_code::{ExitCode, Failure};
use crate::measure::bytes;
use crate::output::{Output, Style};
use crate::store::LeaseRecord;

/// Seconds by which the two sides' clocks may differ: one is the meter's tolerance, one the last echo's age.
const SECONDS_TOLERANCE: u64 = 2;

/// A lease's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// The deal.
    pub deal_id: DealId,
    /// The channel that paid.
    pub channel: ChannelId,
    /// Who leased.
    pub requester: Address,
    /// Whose deposit paid.
    pub payer: Address,
    /// Who lent.
    pub provider: Address,
    /// Where the payments went.
    pub payout: Address,
    /// The address sold.
    pub exit_address: IpAddr,
    /// The address that the web saw; `None` when it was not checked.
    pub exit_seen: Option<IpAddr>,
    /// Where the broker placed it.
    pub country: Option<Country>,
    /// What was charged.
    pub prices: Prices,
    /// The most that it could cost.
    pub budget: Amount,
    /// Why it ended.
    pub cause: Option<EndCause>,
    /// Seconds of service.
    pub seconds: u64,
    /// Inner IP bytes to the provider.
    pub bytes_up: u64,
    /// Inner IP bytes from the provider.
    pub bytes_down: u64,
    /// What was checked of the provider's connection record before it was signed for.
    pub connections: Option<ConnectionsChecked>,
    /// Vouchers that were signed.
    pub vouchers: u64,
    /// What the provider's last receipt asks.
    pub used: Amount,
    /// What the vouchers promise.
    pub amount: Amount,
    /// Promised and not used: the last slice, paid in advance.
    pub prepaid: Amount,
    /// What of it was claimed on the chain; `None` when the chain was not asked.
    pub claimed: Option<Amount>,
    /// The network's part of the claim.
    pub fee: Option<Amount>,
    /// The provider's part of the claim.
    pub earned: Option<Amount>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// Whether all of it holds.
    pub adds_up: bool,
}

/// One thing that was recomputed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub what: &'static str,
    /// Whether it does.
    pub holds: bool,
}

impl Statement {
    /// The account of `record`. `claimed` is what the chain has paid on its channel in all.
    pub fn compute(record: &LeaseRecord, claimed: Option<Amount>) -> Self {
        let deal = &record.deal;
        let amount = record.paid();
        let receipt = record.receipt.as_ref().map(|receipt| &receipt.message);
        let usage = usage(record);
        let used = receipt.map_or(Amount::ZERO, |receipt| receipt.deal_amount);
        // The channel is older than the lease: its first claims paid for earlier ones.
        let claimed = claimed.map(|claimed| claimed.saturating_sub(record.paid_before).min(amount));
        let fee = claimed.map(|claimed| fee(record, claimed));
        let earned = claimed
            .zip(fee)
            .map(|(claimed, fee)| claimed.saturating_sub(fee));
        let checks = checks(record, amount);
        Self {
            deal_id: deal.id(),
            channel: deal.channel().id(),
            requester: deal.requester,
            payer: deal.payer,
            provider: deal.provider,
            payout: deal.payout,
            exit_address: deal.exit_address,
            exit_seen: record.exit_seen,
            country: record.placement.country,
            prices: deal.prices,
            budget: deal.budget,
            cause: record.ended.map(|ended| ended.cause),
            seconds: usage.secs,
            bytes_up: usage.bytes_up,
            bytes_down: usage.bytes_down,
            connections: record.connections,
            vouchers: record.vouchers,
            used,
            amount,
            prepaid: amount.saturating_sub(used),
            claimed,
            fee,
            earned,
            adds_up: checks.iter().all(|check| check.holds),
            checks,
        }
    }

    /// Prints it, for people or programs.
    pub fn show(&self, output: &Output) {
        output.json(self);
        self.show_text(output);
    }

    /// Prints it for people; nothing for programs.
    pub fn show_text(&self, output: &Output) {
        let line = |name: &str, text: String| output.line(format!("{name:<10}{text}"));
        line("lease", self.deal_id.to_string());
        let country = self
            .country
            .map_or_else(String::new, |country| format!(" in {country}"));
        let seen = match self.exit_seen {
            Some(seen) => format!("seen as {seen}"),
            None => "not checked from outside".into(),
        };
        line("address", format!("{}{country}, {seen}", self.exit_address));
        let (up, down) = (bytes(self.bytes_up), bytes(self.bytes_down));
        line(
            "used",
            format!("{}, {up} up, {down} down", duration::format(self.seconds)),
        );
        line("record", connections::in_words(self.connections.as_ref()));
        if let Some(cause) = self.cause {
            line("ended", ipsx_agent_core::requester::in_words(cause).into());
        }
        output.line("");
        self.show_money(output);
        output.line("");
        for check in &self.checks {
            let (style, word) = if check.holds {
                (Style::Good, "ok")
            } else {
                (Style::Bad, "WRONG")
            };
            output.line(format!(
                "{}  {}",
                output.paint(style, format!("{word:<5}")),
                check.what
            ));
        }
    }

    fn show_money(&self, output: &Output) {
        let mut rows = vec![
            (
                "used",
                self.used,
                "by the provider's last receipt".to_string(),
            ),
            (
                "prepaid",
                self.prepaid,
                "the last slice, paid in advance and not used".into(),
            ),
            (
                "promised",
                self.amount,
                format!("in {} vouchers by payer {}", self.vouchers, self.payer),
            ),
        ];
        if let (Some(claimed), Some(fee), Some(earned)) = (self.claimed, self.fee, self.earned) {
            rows.push(("claimed", claimed, "on the chain".into()));
            rows.push((
                "  to provider",
                earned,
                format!("credited to {}", self.payout),
            ));
            rows.push(("  to treasury", fee, "the network's fee".into()));
            rows.push((
                "unclaimed",
                self.amount.saturating_sub(claimed),
                "the provider may still claim".into(),
            ));
        }
        let amounts: Vec<Amount> = rows.iter().map(|(_, amount, _)| *amount).collect();
        let cells = rows.into_iter().zip(amount::column(&amounts));
        let rows: Vec<Vec<String>> = cells
            .map(|((what, _, who), text)| vec![what.into(), text, who])
            .collect();
        output.table(&["who paid whom", amount::SYMBOL, ""], &rows, &[1]);
    }

    /// The failure of a statement that does not add up.
    pub fn verdict(&self) -> Result<(), Failure> {
        match self.checks.iter().find(|check| !check.holds) {
            None => Ok(()),
            Some(check) => Err(Failure::new(
                ExitCode::Statement,
                format!(
                    "the records of lease {} do not add up: {}; keep them as evidence",
                    self.deal_id, check.what
                ),
            )),
        }
    }
}

/// Seconds as they were charged; bytes by the payer's own count where it ran the tunnel, else by the provider's.
fn usage(record: &LeaseRecord) -> Usage {
    let own = record.ended.map(|ended| ended.usage).unwrap_or_default();
    let Some(receipt) = &record.receipt else {
        return own;
    };
    let charged = receipt.message.usage;
    match record.deal.counter_source {
        CounterSource::Provider => charged,
        CounterSource::Both => Usage {
            secs: charged.secs,
            ..own
        },
    }
}

/// The network's part of this lease's claim, as the contract rounds it: by cumulative amounts.
fn fee(record: &LeaseRecord, claimed: Amount) -> Amount {
    let after = record
        .paid_before
        .saturating_add(claimed)
        .basis_points(record.fee_bps);
    after.saturating_sub(record.paid_before.basis_points(record.fee_bps))
}

fn checks(record: &LeaseRecord, amount: Amount) -> Vec<Check> {
    let mut checks = check_deal(record);
    checks.extend(check_money(record, amount));
    if let Some(seen) = record.exit_seen {
        checks.push(Check {
            what: "the web saw the address that was leased",
            holds: seen == record.deal.exit_address,
        });
    }
    checks
}

/// That there was a deal.
fn check_deal(record: &LeaseRecord) -> Vec<Check> {
    let (deal, domain) = (&record.deal, &record.domain);
    let hash = deal.signing_hash(domain);
    let signed = |signature, by| verify(hash, signature, by).is_ok();
    let mut checks = vec![
        Check {
            what: "the provider signed the deal",
            holds: signed(&record.provider_signature, deal.provider),
        },
        Check {
            what: "the requester signed the deal",
            holds: signed(&record.requester_signature, deal.requester),
        },
    ];
    if let Some(outcome) = &record.outcome {
        let bound =
            outcome.message.deal_id == deal.id() && outcome.message.outcome == Binding::Bound;
        checks.push(Check {
            what: "the network bound the deal",
            holds: bound && outcome.verify(domain, record.operator).is_ok(),
        });
    }
    if let Some(reservation) = &record.reservation {
        let ours = reservation.message.channel_id == deal.channel().id();
        checks.push(Check {
            what: "the network reserved the deposit",
            holds: ours && reservation.verify(domain, record.operator).is_ok(),
        });
    }
    checks
}

/// That what was promised is what was asked for, and what was asked for is what was used.
fn check_money(record: &LeaseRecord, amount: Amount) -> Vec<Check> {
    let (deal, domain) = (&record.deal, &record.domain);
    let channel = deal.channel().id();
    let mut checks = Vec::new();
    let mut check = |what, holds| checks.push(Check { what, holds });
    if let Some(voucher) = &record.voucher {
        let ours = voucher.message.channel_id == channel;
        let signed = voucher.verify(domain, deal.payer_signer).is_ok();
        check("the payer signed the last voucher", ours && signed);
        check("the vouchers stay within the budget", amount <= deal.budget);
    }
    if let Some(receipt) = &record.receipt {
        let message = &receipt.message;
        let ours = message.channel_id == channel && message.deal_id == deal.id();
        let signed = receipt.verify(domain, deal.agent_key).is_ok();
        check("the provider signed the last receipt", ours && signed);
        let due = deal.prices.due(&message.usage);
        check(
            "the receipt's totals cost what it asks",
            due == Ok(message.deal_amount),
        );
        let total = record.paid_before.saturating_add(message.deal_amount);
        check(
            "the receipt asks for no earlier lease again",
            message.cumulative <= total,
        );
        let own = record.ended.map_or(0, |ended| ended.usage.secs);
        let agreed =
            record.ended.is_none() || message.usage.secs <= own.saturating_add(SECONDS_TOLERANCE);
        check("no more seconds were charged than this side saw", agreed);
    }
    checks
}
