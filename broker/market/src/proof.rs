//! Whether an address is what it is sold as: what probes saw of it, what that makes of it, and when it is looked at next.
//!
//! A provider's address is *unproven* until a probe's lease left from it. It is *proven* then for a limited time, within
//! which it is probed again at a time that nobody can foresee. A probe that sees something else makes it *failing* at
//! once, and from there it comes back only by several probes in a row. What leases of customers report is a reason to
//! look, never a judgement: a report costs little and can't be checked.

mod appeal;
mod probe;
mod schedule;
mod sighting;

use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::{Address, Signed, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::offer::Offer;
use crate::place::{Measured, Placement};
use crate::sold::sold_at;

pub use appeal::{Appeal, LONGEST_TEXT, Ruling};
pub use probe::{PROBE_HEADER, ProbeOrder, ProbeOutcome, Timed, Verdict};
pub(crate) use schedule::{Offered, PATIENCE};
pub use schedule::{Proofs, Task};
pub use sighting::{Disagreement, Report, Sighting, Withheld};

/// Seconds after which an address is forgotten of which nothing more was found out.
pub const REMEMBERED: u64 = 30 * 86_400;
/// Sightings that are kept.
const KEPT: usize = 8;
/// Reports that are kept; more say nothing new.
const MOST_REPORTS: usize = 16;
/// Payers whose reports take an address off the market until it was probed.
const REPORTS_THAT_DOUBT: usize = 3;
/// Probes in a row that must agree before a failing address is proven again.
const AMENDS: u32 = 2;
/// Addresses of a range that must be seen at most before the first is sold.
const MOST_SAMPLES: usize = 8;
/// Leases in a row that nothing came through before a proof no longer counts.
const SILENT: u32 = 3;
/// Seconds until a probe is repeated that saw nothing, or something else; doubled each time, up to the longest.
const RETRY: u64 = 30;
const LONGEST_RETRY: u64 = 86_400;
/// The longest for those that had no lease, which may not be the provider's doing.
const LONGEST_MISSED: u64 = 3_600;
/// A report leads to a probe within so many seconds, unless one was there as long before.
const HEED: u64 = 60;
/// Seconds between two appeals.
const BETWEEN_APPEALS: u64 = 3_600;
/// One lease in so many is followed by a probe.
const LEASES_PER_PROBE: u64 = 16;

/// What is proved: that a provider's leases leave from what it sells where its agent is seen. Others may be seen at the
/// same address, behind one NAT, and prove it for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// The provider.
    pub provider: Address,
    /// Where its agent is seen.
    pub address: IpAddr,
    /// What is sold there: this address alone, or a range that holds it.
    pub prefix: IpNet,
}

impl Subject {
    /// What is proved of an offer whose agent is seen at this address.
    pub fn of(offer: &Offer, address: IpAddr) -> Self {
        Self {
            provider: offer.provider,
            address,
            prefix: sold_at(&offer.prefixes, address),
        }
    }

    /// How many of its addresses must be seen before the first is sold: one for each time that the range doubles, so that
    /// who holds half of it fails the more surely the larger it is.
    fn samples(&self) -> usize {
        let doublings = self.prefix.max_prefix_len() - self.prefix.prefix_len();
        let samples = usize::from(doublings).clamp(2, MOST_SAMPLES);
        self.prefix.hosts().take(samples).count()
    }
}

/// What is asked of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofRules {
    /// Whether only proven addresses are sold; else all are but those of which a probe saw something else.
    pub required: bool,
    /// Seconds that a proof counts.
    pub validity: u64,
}

impl Default for ProofRules {
    fn default() -> Self {
        Self {
            required: false,
            validity: 86_400,
        }
    }
}

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No probe has seen enough of it yet, or not for too long.
    Unproven,
    /// It is what it is sold as.
    Proven {
        /// As long as that counts.
        until: UnixSeconds,
    },
    /// Something else was seen.
    Failing {
        /// By so many probes.
        disagreed: u32,
        /// And since then by so many probes not.
        agreed: u32,
    },
}

/// Leases in a row that nothing came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// When the first of them was found so.
    pub since: UnixSeconds,
    /// How many.
    pub probes: u32,
}

/// All that is known of one address of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Where it stands.
    pub standing: Standing,
    /// When it is probed next.
    pub next: UnixSeconds,
    /// When something was found out last.
    pub at: UnixSeconds,
    /// Probes in a row that had no lease.
    #[serde(default)]
    pub missed: u32,
    /// Probes in a row that had one, and saw nothing through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// The latest sightings, oldest first.
    pub sightings: Vec<Sighting>,
    /// Addresses of the range that were seen as sold since it was last unproven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampled: Vec<IpAddr>,
    /// Reports since the last probe that agreed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<Report>,
    /// What was measured, over time.
    #[serde(default)]
    pub measured: Measured,
    /// What its provider says of it, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appeal: Option<Box<Signed<Appeal>>>,
    /// What the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruling: Option<Ruling>,
}

impl Proof {
    /// Of an address of which nothing is known; a probe is due.
    pub fn new(now: UnixSeconds) -> Self {
        Self {
            standing: Standing::Unproven,
            next: now,
            at: now,
            missed: 0,
            silence: None,
            sightings: Vec::new(),
            sampled: Vec::new(),
            reports: Vec::new(),
            measured: Measured::default(),
            appeal: None,
            ruling: None,
        }
    }

    /// Whether nothing was found out yet.
    pub fn is_blank(&self) -> bool {
        let probed = self.missed > 0 || self.silence.is_some() || !self.sightings.is_empty();
        let said = self.appeal.is_some() || self.ruling.is_some() || !self.reports.is_empty();
        !probed && !said
    }

    /// Whether it may be sold now.
    pub fn is_proven(&self, now: UnixSeconds) -> bool {
        matches!(self.standing, Standing::Proven { until } if now <= until)
    }

    /// Why it is not sold now; `None` when it is.
    pub fn withheld(&self, rules: &ProofRules, now: UnixSeconds) -> Option<Withheld> {
        let failing = matches!(self.standing, Standing::Failing { .. });
        let wrong = |s: &Sighting| {
            let (what, seen) = (s.disagreement?, s.seen.address);
            Some(Withheld::Disagrees { what, seen })
        };
        if failing && let Some(wrong) = self.sightings.iter().rev().find_map(wrong) {
            return Some(wrong);
        }
        if !failing && (!rules.required || self.is_proven(now)) {
            return None;
        }
        let unanswered = self.silence.map_or(0, |silence| silence.probes);
        Some(match self.reports.len() < REPORTS_THAT_DOUBT {
            true => Withheld::Unproven { unanswered },
            false => Withheld::Doubted,
        })
    }

    /// Adds to a placement what is known besides.
    pub fn complete(&self, placement: &mut Placement) {
        placement.measured = self.measured;
        if let Some(ruling) = &self.ruling {
            ruling.apply(placement);
        }
    }

    /// Keeps what its provider says of it. False when it said something a moment ago.
    pub fn appealed(&mut self, appeal: Signed<Appeal>) -> bool {
        let last = self.appeal.as_ref().map(|before| before.message.at);
        if last.is_some_and(|last| appeal.message.at < last.after(BETWEEN_APPEALS)) {
            return false;
        }
        self.appeal = Some(Box::new(appeal));
        true
    }

    /// Takes what a probe saw of a subject. `draw` is random.
    pub fn seen(
        &mut self,
        sighting: Sighting,
        subject: &Subject,
        rules: &ProofRules,
        now: UnixSeconds,
        draw: u64,
    ) {
        self.at = now;
        self.missed = 0;
        self.silence = None;
        if sighting.disagreement.is_none() {
            self.agreed(sighting.sold, subject.samples(), rules, now, draw);
        } else {
            self.disagreed(now, draw);
        }
        if self.sightings.len() >= KEPT {
            self.sightings.remove(0);
        }
        self.sightings.push(sighting);
    }

    fn agreed(
        &mut self,
        sold: IpAddr,
        samples: usize,
        rules: &ProofRules,
        now: UnixSeconds,
        draw: u64,
    ) {
        self.reports.clear();
        if !self.sampled.contains(&sold) {
            self.sampled.push(sold);
        }
        let enough = match self.standing {
            Standing::Proven { .. } => true,
            Standing::Unproven => self.sampled.len() >= samples,
            Standing::Failing { disagreed, agreed } => {
                let agreed = agreed + 1;
                self.standing = Standing::Failing { disagreed, agreed };
                agreed >= AMENDS && self.sampled.len() >= samples
            }
        };
        if enough {
            self.sampled.clear();
            let until = now.after(rules.validity);
            self.standing = Standing::Proven { until };
            // Between a quarter and three quarters of its time: early enough to be tried again.
            let quarter = rules.validity / 4;
            self.next = now.after(quarter + within(draw, rules.validity / 2));
        } else {
            self.next = now.after(within(draw, RETRY));
        }
    }

    fn disagreed(&mut self, now: UnixSeconds, draw: u64) {
        let before = match self.standing {
            Standing::Failing { disagreed, .. } => disagreed,
            _ => 0,
        };
        self.sampled.clear();
        self.standing = Standing::Failing {
            disagreed: before + 1,
            agreed: 0,
        };
        self.next = now.after(retry(before, LONGEST_RETRY, draw));
    }

    /// A probe had no lease. That says nothing, so a proof counts until its time is over.
    pub fn missed(&mut self, now: UnixSeconds, draw: u64) {
        self.at = now;
        self.next = now.after(retry(self.missed, LONGEST_MISSED, draw));
        self.missed = self.missed.saturating_add(1);
    }

    /// A probe had a lease, and nothing came through it. The prober's own network may have failed, so a proof ends only
    /// after several in a row, and if `others_answer` says that probes of other providers saw something since the first.
    pub fn silent(
        &mut self,
        others_answer: impl Fn(UnixSeconds) -> bool,
        now: UnixSeconds,
        draw: u64,
    ) {
        self.at = now;
        self.missed = 0;
        let since = self.silence.map_or(now, |silence| silence.since);
        let before = self.silence.map_or(0, |silence| silence.probes);
        let probes = before.saturating_add(1);
        self.silence = Some(Silence { since, probes });
        let proven = matches!(self.standing, Standing::Proven { .. });
        if proven && probes >= SILENT && others_answer(since) {
            self.standing = Standing::Unproven;
        }
        self.next = now.after(retry(before, LONGEST_RETRY, draw));
    }

    /// A customer's lease ended because its own check saw another address. Counted once for each payer since the last
    /// probe that agreed. Returns whether anything changed.
    pub fn reported(&mut self, report: Report, draw: u64) -> bool {
        let known = self.reports.iter().any(|other| other.payer == report.payer);
        if known || self.reports.len() >= MOST_REPORTS {
            return false;
        }
        let now = report.at;
        self.reports.push(report);
        if self.reports.len() >= REPORTS_THAT_DOUBT
            && matches!(self.standing, Standing::Proven { .. })
        {
            self.standing = Standing::Unproven;
        }
        // So that many reports do not make many probes.
        let rested = self.at.after(HEED).max(now);
        self.next = self.next.min(rested.after(within(draw, HEED)));
        true
    }

    /// A lease began that a probe follows: soon, when a provider that was honest to be let in would no longer be. Returns
    /// whether anything changed.
    pub fn probe_soon(&mut self, now: UnixSeconds, draw: u64) -> bool {
        let next = now.after(within(draw / LEASES_PER_PROBE, HEED));
        let sooner = next < self.next;
        if sooner {
            self.next = next;
        }
        sooner
    }

    /// Its time is over. Returns whether anything changed.
    pub fn lapse(&mut self, now: UnixSeconds) -> bool {
        let over = matches!(self.standing, Standing::Proven { until } if now > until);
        if over {
            self.standing = Standing::Unproven;
            self.next = self.next.min(now);
        }
        over
    }

    /// Brings times that a clock made which was ahead, or rules that were others, within what the rules say now.
    fn bring_within(&mut self, rules: &ProofRules, now: UnixSeconds) {
        if let Standing::Proven { until } = &mut self.standing {
            *until = (*until).min(now.after(rules.validity));
        }
        self.next = self.next.min(now.after(LONGEST_RETRY.max(rules.validity)));
        self.at = self.at.min(now);
    }

    /// Takes what was measured on the way: one value may be an accident, so each counts for a quarter.
    pub fn measure(&mut self, timed: &Timed) {
        let measured = &mut self.measured;
        let latency = measured.latency_ms.map(u32::from);
        let latency = blend(latency, timed.latency_ms.map(u32::from));
        measured.latency_ms = latency.and_then(|ms| u16::try_from(ms).ok());
        measured.mbit_up = blend(measured.mbit_up, timed.mbit_up);
        measured.mbit_down = blend(measured.mbit_down, timed.mbit_down);
    }
}

/// A quarter of the way from an old value to a new one.
fn blend(old: Option<u32>, new: Option<u32>) -> Option<u32> {
    let (Some(old), Some(new)) = (old, new) else {
        return new.or(old);
    };
    let blended = (u64::from(old) * 3 + u64::from(new)).div_ceil(4);
    u32::try_from(blended).ok()
}

/// Whether a probe follows a lease.
pub(crate) fn is_followed(draw: u64) -> bool {
    draw.is_multiple_of(LEASES_PER_PROBE)
}

/// Seconds until something is tried again that failed so often before.
fn retry(before: u32, longest: u64, draw: u64) -> u64 {
    let wait = RETRY.saturating_mul(1 << before.min(20)).min(longest);
    wait / 2 + within(draw, wait)
}

/// A number below `bound` by a random one.
fn within(draw: u64, bound: u64) -> u64 {
    draw % bound.max(1)
}

#[cfg(test)]
mod tests;
