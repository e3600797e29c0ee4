//! Whether an address is what it is sold as: what probes saw of it, what that makes of it, and when it is looked at next.
//!
//! A provider's address is *unproven* until a probe's lease left from it. It is *proven* then for a limited time, within
//! which it is probed again at a time that nobody can foresee. A probe that sees something else makes it *failing* at
//! once, and from there it comes back only by several probes in a row. What leases of customers report is a reason to
//! look, never a judgement: a report costs little and can't be checked.

mod appeal;
mod schedule;

use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::{Address, B256, DealId, OfferId, Prices, Signed, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::echo::Echo;
use crate::offer::Offer;
use crate::place::{Country, Measured, Placement, Reachability};

pub use appeal::{Appeal, LONGEST_TEXT, Ruling};
pub(crate) use schedule::PATIENCE;
pub use schedule::{Proofs, Task};

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
/// Addresses of a range that must be seen before the first is sold.
const SAMPLES: usize = 3;
/// Seconds until a probe is repeated that saw nothing, or something else; doubled each time, up to the longest.
const RETRY: u64 = 30;
const LONGEST_RETRY: u64 = 86_400;
/// A report leads to a probe within so many seconds, unless one was there as long before.
const HEED: u64 = 60;
/// Seconds between two appeals.
const BETWEEN_APPEALS: u64 = 3_600;
/// One lease in so many is followed by a probe.
const LEASES_PER_PROBE: u64 = 16;

/// The shortest prefixes that are sold as a whole: the smallest that the internet routes, so that what was found out
/// about the place of one address mostly holds for all.
const WIDEST_V4: u8 = 24;
const WIDEST_V6: u8 = 48;

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
        let widest = if address.is_ipv4() {
            WIDEST_V4
        } else {
            WIDEST_V6
        };
        let narrow = |prefix: &&IpNet| prefix.contains(&address) && prefix.prefix_len() >= widest;
        let prefix = offer.prefixes.iter().find(narrow);
        Self {
            provider: offer.provider,
            address,
            prefix: prefix.map_or(IpNet::from(address), IpNet::trunc),
        }
    }

    /// How many addresses are sold, as far as it makes a difference.
    fn range(&self) -> usize {
        self.prefix.hosts().take(SAMPLES).count()
    }
}

/// What is asked of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofRules {
    /// Whether only proven addresses are sold; else proofs are only written down.
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

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The network's echo was fetched through the tunnel.
    Seen {
        /// What it answered.
        echo: Box<Signed<Echo>>,
        /// Round trip to the exit and back, in milliseconds.
        latency_ms: Option<u16>,
        /// Mbit/s that a download reached.
        mbit_down: Option<u32>,
    },
    /// There was no lease, or nothing came through it.
    Missed {
        /// Why, in words.
        reason: String,
    },
}

/// What a probe saw that is not what is sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disagreement {
    /// It left from another address.
    Address,
    /// The database has another country for it.
    Country,
    /// Another autonomous system.
    Asn,
    /// Another type.
    AddressType,
}

/// Something that was seen of an address, with what it was judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// When.
    pub at: UnixSeconds,
    /// The address that the probe's lease was sold.
    pub sold: IpAddr,
    /// Where its traffic came from, and what the databases say of that.
    pub seen: Placement,
    /// What of it is wrong; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<Disagreement>,
}

impl Sighting {
    /// What was seen, compared with what is offered.
    pub fn new(at: UnixSeconds, sold: IpAddr, seen: Placement, offered: &Placement) -> Self {
        let checks = [
            (Disagreement::Address, seen.address == sold),
            (Disagreement::Country, seen.country == offered.country),
            (Disagreement::Asn, seen.asn == offered.asn),
            (
                Disagreement::AddressType,
                seen.address_type == offered.address_type,
            ),
        ];
        let wrong = checks.into_iter().find(|(_, agrees)| !agrees);
        Self {
            at,
            sold,
            seen,
            disagreement: wrong.map(|(what, _)| what),
        }
    }
}

/// A customer's word that a lease left from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The lease.
    pub deal: DealId,
    /// Who paid for it.
    pub payer: Address,
    /// When it was said.
    pub at: UnixSeconds,
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
    /// Probes in a row that saw nothing.
    pub missed: u32,
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
        let unseen = self.sightings.is_empty() && self.missed == 0;
        unseen && self.reports.is_empty() && self.appeal.is_none() && self.ruling.is_none()
    }

    /// Whether it may be sold now.
    pub fn is_proven(&self, now: UnixSeconds) -> bool {
        matches!(self.standing, Standing::Proven { until } if now <= until)
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
        if sighting.disagreement.is_none() {
            self.agreed(sighting.sold, subject.range(), rules, now, draw);
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
        range: usize,
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
            Standing::Unproven => self.sampled.len() >= range,
            Standing::Failing { disagreed, agreed } => {
                let agreed = agreed + 1;
                self.standing = Standing::Failing { disagreed, agreed };
                agreed >= AMENDS && self.sampled.len() >= range
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
        self.next = now.after(retry(before, draw));
    }

    /// A probe saw nothing. That proves nothing, so a proof counts until its time is over.
    pub fn missed(&mut self, now: UnixSeconds, draw: u64) {
        self.at = now;
        self.next = now.after(retry(self.missed, draw));
        self.missed += 1;
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

    /// A lease began: now and then the probe comes soon after, when a provider that was honest to be let in would no
    /// longer be. Returns whether anything changed.
    pub fn leased(&mut self, now: UnixSeconds, draw: u64) -> bool {
        let (chosen, rest) = (
            draw.is_multiple_of(LEASES_PER_PROBE),
            draw / LEASES_PER_PROBE,
        );
        let next = now.after(within(rest, HEED));
        let sooner = chosen && next < self.next;
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

    /// Takes what was measured on the way: one value may be an accident, so each counts for a quarter.
    pub fn measure(&mut self, latency_ms: Option<u16>, mbit_down: Option<u32>) {
        let measured = &mut self.measured;
        // Whoever opened the tunnel sent to it first.
        measured.reachability = Some(Reachability::Direct);
        let blend = |old: u32, new: u32| (u64::from(old) * 3 + u64::from(new)).div_ceil(4) as u32;
        if let Some(new) = latency_ms {
            let old = measured.latency_ms.unwrap_or(new);
            measured.latency_ms = Some(blend(old.into(), new.into()) as u16);
        }
        if let Some(new) = mbit_down {
            let old = measured.mbit_down.unwrap_or(new);
            measured.mbit_down = Some(blend(old, new));
        }
    }
}

/// Seconds until something is tried again that failed so often before.
fn retry(before: u32, draw: u64) -> u64 {
    let wait = RETRY.saturating_mul(1 << before.min(20)).min(LONGEST_RETRY);
    wait / 2 + within(draw, wait)
}

/// A number below `bound` by a random one.
fn within(draw: u64, bound: u64) -> u64 {
    draw % bound.max(1)
}

/// The header that tells the broker which probe a request is for.
pub const PROBE_HEADER: &str = "ipsx-probe";

/// What a prober is told: an offer to lease from as a customer would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOrder {
    /// Goes with the request, to the broker alone, and with the outcome.
    pub task: B256,
    /// To ask the echo with.
    pub nonce: B256,
    /// The offer.
    pub offer: OfferId,
    /// Who offers it: a prober comes to each with an account that it does not know.
    pub provider: Address,
    /// Country to ask for, as a customer might.
    pub country: Option<Country>,
    /// What it costs.
    pub prices: Prices,
    /// Shortest lease in seconds.
    pub min_seconds: u32,
    /// Longest lease in seconds.
    pub max_seconds: u32,
    /// The outcome is expected by then.
    pub until: UnixSeconds,
}

#[cfg(test)]
mod tests;
