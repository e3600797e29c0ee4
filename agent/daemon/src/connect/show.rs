//! A lease as people watch it: a few lines at its ends, and one line a second in between.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use ipsx_agent_core::requester::{Blame, EndReason, Progress};
use ipsx_market::http::RequestView;
use ipsx_market::resting::RequestStatus;
use ipsx_metering::Amount;
use serde_json::json;

use super::Place;
use super::budget::ahead;
use super::explain::price;
use super::running::{Finished, News, Relayed};
use crate::amount;
use crate::cli::duration;
use crate::clock::unix_now;
use crate::exit_code::{ExitCode, Failure};
use crate::measure::bytes;
use crate::output::{Output, Style};
use crate::statement::Statement;
use crate::store::LeaseRecord;

/// Shows one lease.
pub struct Shown<'a> {
    output: &'a Output,
    /// Whether the last line is one that the next second replaces.
    live: AtomicBool,
}

impl<'a> Shown<'a> {
    /// Shows on `output`.
    pub fn new(output: &'a Output) -> Self {
        Self {
            output,
            live: AtomicBool::new(false),
        }
    }

    /// Where a request for so many leases stands that found too few offers at once.
    pub fn rests(&self, view: &RequestView, count: u8) {
        self.output.json(&json!({
            "event": "request",
            "request": view.request,
            "status": view.status,
            "reason": view.reason,
            "rest_until": view.rest_until,
        }));
        let (too_few, enough) = match count {
            1 => ("no offer fits yet", "an offer has come"),
            _ => ("too few offers fit yet", "enough offers have come"),
        };
        match view.status {
            RequestStatus::Resting => self.line(format!(
                "request   {}\nwaiting   {too_few}; Ctrl-C takes the request back",
                view.request
            )),
            RequestStatus::Matched => self.line(format!("matched   {enough}")),
            _ => self.line(format!("request   {}", view.status.as_str())),
        }
    }

    /// How long the request may rest on.
    pub fn waiting(&self, left: u64) {
        if self.output.is_live() {
            let left = duration::format(left);
            self.output.redraw(&format!("waiting   {left} left"));
            self.live.store(true, Ordering::Relaxed);
        }
    }

    /// What was agreed.
    pub fn agreed(&self, record: &LeaseRecord) {
        let deal = &record.deal;
        self.output.json(&json!({
            "event": "agreed",
            "deal_id": deal.id(),
            "provider": deal.provider,
            "exit_address": deal.exit_address,
            "country": record.placement.country,
            "asn": record.placement.asn,
            "prices": deal.prices,
            "budget": deal.budget,
            "seconds": deal.seconds,
            "starts_at": deal.starts_at,
            "ahead": ahead(deal),
        }));
        let country = record
            .placement
            .country
            .map_or_else(String::new, |country| format!(" in {country}"));
        self.output.line(format!("lease     {}", deal.id()));
        self.output
            .line(format!("address   {}{country}", deal.exit_address));
        self.output.line(format!("provider  {}", deal.provider));
        self.output
            .line(format!("price     {}", price(&deal.prices)));
        if deal.is_prepaid() {
            let wait = deal.starts_at.since(unix_now());
            self.output.line(format!(
                "starts    in {}; {} of it is paid now, and lost if you do not come",
                duration::format(wait),
                amount::tokens(ahead(deal)),
            ));
        }
        self.output.line(format!(
            "at most   {} in {}, {} of it paid ahead",
            amount::tokens(deal.budget),
            duration::format(u64::from(deal.seconds)),
            amount::tokens(ahead(deal)),
        ));
    }

    /// What leases cost together that are agreed at once.
    pub fn together(&self, records: &[LeaseRecord]) {
        let sum = |each: fn(&LeaseRecord) -> Amount| records.iter().map(each).sum::<Amount>();
        let (budget, ahead) = (sum(|r| r.deal.budget), sum(|r| ahead(&r.deal)));
        self.output.json(&json!({
            "event": "together",
            "leases": records.len(),
            "budget": budget,
            "ahead": ahead,
        }));
        self.output.line(format!(
            "together  at most {} for {} leases, {} of it paid ahead",
            amount::tokens(budget),
            records.len(),
            amount::tokens(ahead),
        ));
    }

    /// One of several is over before the others.
    pub fn lost(&self, address: IpAddr) {
        self.output
            .json(&json!({ "event": "lost", "exit_address": address }));
        self.line(format!("lost      {address}: the others go on"));
    }

    /// Another lease has taken over.
    pub fn rotated(&self, record: &LeaseRecord) {
        let address = record.deal.exit_address;
        self.output.json(&json!({
            "event": "rotated",
            "deal_id": record.deal.id(),
            "exit_address": address,
        }));
        self.line(format!("rotated   what begins now leaves from {address}"));
    }

    /// None could.
    pub fn kept(&self, failure: &Failure) {
        let reason = &failure.message;
        self.output
            .json(&json!({ "event": "not_rotated", "reason": reason }));
        self.line(format!("kept      the lease goes on: {reason}"));
    }

    /// Something that changes nothing.
    pub fn remark(&self, text: &str) {
        self.output.note(text);
    }

    /// The configuration for another client, if there is one: it is needed at once.
    pub fn file(&self, place: &Place) {
        if let Place::File(file) = place {
            self.output
                .json(&json!({ "event": "exported", "file": file }));
            self.line(format!(
                "wrote     {}; `wg-quick up` it now: time counts",
                file.display()
            ));
        }
    }

    /// The proxy, or the interface, once traffic passes.
    pub fn ready(&self, place: &Place) {
        match place {
            Place::Proxy { proxy, .. } => {
                let address = proxy.local_addr();
                self.output
                    .json(&json!({ "event": "proxy_ready", "address": address }));
                self.line(format!("proxy ready on {address} (SOCKS5 and HTTP)"));
            }
            #[cfg(target_os = "linux")]
            Place::Host(host) => {
                let name = host.tunnel().interface();
                self.output
                    .json(&json!({ "event": "interface_ready", "interface": name }));
                self.line(format!("this host's traffic goes through {name} now"));
            }
            Place::File(_) => {}
        }
    }

    /// What happens.
    pub fn news(&self, news: &News) {
        match news {
            News::Connected { round_trip } => {
                self.output.json(&json!({ "event": "connected", "round_trip_ms": round_trip.as_millis() as u64 }));
            }
            News::Relayed(way) => self.relayed(way),
            News::Serving => self.output.json(&json!({ "event": "serving" })),
            News::ExitProven(address) => {
                self.output
                    .json(&json!({ "event": "exit_proven", "address": address }));
                self.line(format!("the web sees {address}, as leased"));
            }
            News::Second(progress) => self.second(progress),
            News::Disputed(reason) => {
                self.output
                    .json(&json!({ "event": "disputed", "reason": reason }));
                self.line(self.output.paint(Style::Bad, format!("disputed: {reason}")));
            }
            News::Settled => {
                self.output.json(&json!({ "event": "settled" }));
                self.line("the two sides agree again");
            }
        }
    }

    fn relayed(&self, way: &Relayed) {
        let Relayed {
            exit_address,
            relay,
        } = way;
        self.output.json(&json!({
            "event": "relayed",
            "exit_address": exit_address,
            "relay": relay,
        }));
        self.line(match relay {
            Some(relay) => format!(
                "relayed   {exit_address} is reached by {relay}, the broker's relay: there is no way that needs none"
            ),
            None => format!("direct    {exit_address} is reached without a relay again"),
        });
    }

    fn second(&self, progress: &Progress) {
        let usage = &progress.usage;
        self.output.json(&json!({
            "event": "second",
            "seconds": progress.elapsed,
            "bytes_up": usage.bytes_up,
            "bytes_down": usage.bytes_down,
            "amount": progress.promised,
            "accepted": progress.accepted,
            "vouchers": progress.vouchers,
        }));
        let text = second_line(self.output, progress);
        if self.output.is_live() {
            self.output.redraw(&text);
            self.live.store(true, Ordering::Relaxed);
        } else {
            self.output.line(text);
        }
    }

    /// How it ended; an error unless it ended as agreed or wished.
    pub fn finished(&self, finished: &Finished) -> Result<(), Failure> {
        let (ending, record) = (&finished.ending, &finished.record);
        let statement = Statement::compute(record, None);
        self.output.json(&json!({
            "event": "ended",
            "deal_id": statement.deal_id,
            "cause": ending.report.cause,
            "reason": ending.reason.to_string(),
            "seconds": statement.seconds,
            "bytes_up": statement.bytes_up,
            "bytes_down": statement.bytes_down,
            "used": statement.used,
            "amount": statement.amount,
            "vouchers": statement.vouchers,
            "exit_seen": statement.exit_seen,
        }));
        self.line(format!("ended     {}", ending.reason));
        self.output.line(format!(
            "used      {}, {} up, {} down: {}",
            duration::format(statement.seconds),
            bytes(statement.bytes_up),
            bytes(statement.bytes_down),
            amount::tokens(statement.used),
        ));
        self.output.line(format!(
            "promised  {} in {} vouchers",
            amount::tokens(statement.amount),
            statement.vouchers,
        ));
        self.output
            .line(format!("          ipsx statement {}", record.deal.id()));
        judge(finished)
    }

    fn line(&self, text: impl AsRef<str>) {
        if self.live.swap(false, Ordering::Relaxed) {
            self.output.redraw_done();
        }
        self.output.line(text);
    }
}

/// One second of a lease in aligned columns.
pub fn second_line(output: &Output, progress: &Progress) -> String {
    let usage = &progress.usage;
    let state = if progress.accepted >= progress.promised {
        output.paint(
            Style::Good,
            format!("voucher {} accepted", progress.vouchers),
        )
    } else {
        output.paint(Style::Dim, format!("voucher {} sent", progress.vouchers))
    };
    format!(
        "{:>5} s   up {:>9}   down {:>9}   {:>22} {}   {state}",
        progress.elapsed,
        bytes(usage.bytes_up),
        bytes(usage.bytes_down),
        amount::fixed(progress.promised),
        amount::SYMBOL,
    )
}

/// The failure that an end amounts to, if it does.
pub(super) fn judge(finished: &Finished) -> Result<(), Failure> {
    let ending = &finished.ending;
    let paid = amount::tokens(ending.report.amount);
    match (ending.reason.blame(), &ending.reason) {
        (Blame::Nobody, _) => Ok(()),
        (Blame::Provider, reason) => Err(Failure::new(
            ExitCode::LeaseFailed,
            format!(
                "the lease ended early through its provider: {reason}; {paid} had been promised, try another offer"
            ),
        )),
        (Blame::Requester, EndReason::ExitUnknown) => Err(Failure::new(
            ExitCode::LeaseFailed,
            format!("{}; {paid} had been promised", EndReason::ExitUnknown),
        )),
        (Blame::Requester, reason) => Err(Failure::new(
            ExitCode::Balance,
            format!("the lease ended early: {reason}; check the deposit with `ipsx wallet show`"),
        )),
    }
}
