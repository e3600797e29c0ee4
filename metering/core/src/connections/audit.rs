//! The payer's look at the connection record before it signs: each leaf is made again from the record that is shown for it,
//! and each record is compared with what this side itself has sent and received.

mod counterpart;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{
    Connection, ConnectionFault, ConnectionPage, ConnectionTree, Transport, blinding,
    connection_leaf,
};
use crate::{B256, DealId, Receipt, Signed, UnixSeconds};

use counterpart::{Counterpart, provider_time};
pub use counterpart::{OwnConnections, OwnReading};

/// Seconds that a provider has to put a connection under the root in its receipts, and to show what leads to a root.
const GRACE: u64 = 20;
/// Records that a provider can show in a second, in the least; more is its own doing.
const PACE: u64 = 50;
/// However much there is to show, no root waits longer than this, in seconds: a voucher must answer a receipt that the
/// provider still knows.
const LONGEST_WAIT: u64 = 60;
/// This side's connections after which showing them in time is more than a provider can do.
const TOO_MANY: u64 = 2_000;
/// Destinations that are remembered, receipts that wait, and connections that are waited for, at most.
const MOST: usize = 1 << 16;
/// Receipts that wait for their root to be shown, at most.
const MOST_RECEIPTS: usize = 1_024;

/// What was checked of a lease's connection record before its vouchers were signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsChecked {
    /// How far it came.
    pub result: CheckResult,
    /// Records under the last root that was signed for: each leads to that root, and each is of this side's own.
    pub records: u64,
    /// Connections that this side had an answer on.
    pub own: u64,
    /// When the receipt with that root was made.
    pub until: Option<UnixSeconds>,
}

/// How far the check of a connection record came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// No receipt with an unchecked root was signed for.
    Checked,
    /// No receipt named a root: the provider keeps no record.
    NoRecord,
    /// As `checked` at first; then there were more connections than could be shown in time.
    TooMany,
    /// The record was wrong, and nothing was signed for it.
    Wrong,
}

/// Checks the connection record of one lease.
///
/// Give it this side's traffic before what the provider says; it then says which receipt may be answered.
#[derive(Debug)]
pub struct ConnectionAudit {
    deal_id: DealId,
    tree: ConnectionTree,
    counterparts: HashMap<(Transport, SocketAddr), Counterpart>,
    /// Connections that the record has opened and not ended.
    open: HashMap<Connection, u32>,
    /// Connections that were shown, but are under no root that was accepted, with the time of each.
    unsigned: Vec<((Transport, SocketAddr), UnixSeconds)>,
    /// Connections that must come under a root, oldest first.
    expected: VecDeque<Expected>,
    /// Receipts whose root was not shown yet, oldest first.
    waiting: VecDeque<Waiting>,
    /// Seconds in which the tunnel worked.
    seconds: u64,
    /// The provider's time at an instant of ours.
    clock: Option<(UnixSeconds, Instant)>,
    accepted_root: B256,
    report: ConnectionsChecked,
    /// How many connections this side may have opened.
    opened: u64,
    recorded: u64,
    /// Bytes that may belong to any connection.
    other: (u64, u64),
}

#[derive(Debug)]
struct Expected {
    of: (Transport, SocketAddr),
    /// How many there must be that were opened by then.
    count: u64,
    by: Instant,
    since: u64,
}

#[derive(Debug)]
struct Waiting {
    receipt: Signed<Receipt>,
    since: u64,
    until: u64,
    /// What this side had opened then, and how much of it was not recorded.
    opened: u64,
    behind: u64,
}

/// What may be answered now: the newest receipt whose root is accepted, if there is a new one.
type Answerable = Option<Signed<Receipt>>;

impl ConnectionAudit {
    /// Of a lease that begins.
    pub fn new(deal_id: DealId) -> Self {
        Self {
            deal_id,
            tree: ConnectionTree::default(),
            counterparts: HashMap::new(),
            open: HashMap::new(),
            unsigned: Vec::new(),
            expected: VecDeque::new(),
            waiting: VecDeque::new(),
            seconds: 0,
            clock: None,
            accepted_root: B256::ZERO,
            report: ConnectionsChecked {
                result: CheckResult::NoRecord,
                records: 0,
                own: 0,
                until: None,
            },
            opened: 0,
            recorded: 0,
            other: (0, 0),
        }
    }

    /// What this side has sent and received since the last time.
    pub fn handle_traffic(&mut self, traffic: OwnReading) {
        if self.is_over() {
            return;
        }
        self.other.0 += traffic.other_up;
        self.other.1 += traffic.other_down;
        for own in traffic.connections {
            self.opened += u64::from(own.openings);
            self.report.own += u64::from(own.answered);
            let of = (own.transport, own.destination);
            let counterpart = self
                .counterparts
                .entry(of)
                .or_insert_with(|| Counterpart::new(&own));
            if let Some(count) = counterpart.take(&own) {
                self.expected.push_back(Expected {
                    of,
                    count,
                    by: own.last_sent,
                    since: self.seconds,
                });
            }
        }
        if traffic.incomplete || self.counterparts.len() > MOST || self.expected.len() > MOST {
            self.give_up();
        }
    }

    /// A receipt that the meter took.
    pub fn handle_receipt(
        &mut self,
        receipt: &Signed<Receipt>,
        now: Instant,
    ) -> Result<Answerable, ConnectionFault> {
        self.clock = Some((receipt.message.observed_at, now));
        if self.is_over() {
            return Ok(self.unchecked(receipt));
        }
        let root = receipt.message.connections_root;
        if root != B256::ZERO && self.report.result == CheckResult::NoRecord {
            self.report.result = CheckResult::Checked;
        }
        let shown = self.tree.len() > self.report.records && self.tree.root() == root;
        if root == self.accepted_root || shown {
            return self.accept(receipt.clone(), self.seconds).map(Some);
        }
        let behind = self.opened.saturating_sub(self.recorded);
        let patience = (GRACE + behind / PACE).min(LONGEST_WAIT);
        if self.waiting.len() < MOST_RECEIPTS {
            self.waiting.push_back(Waiting {
                receipt: receipt.clone(),
                since: self.seconds,
                until: self.seconds + patience,
                opened: self.opened,
                behind,
            });
        }
        Ok(None)
    }

    /// Records that the provider shows.
    pub fn handle_page(&mut self, page: &ConnectionPage) -> Result<Answerable, ConnectionFault> {
        let known = self.tree.len();
        // Without a receipt there is no root to be shown, and no clock to compare with.
        if self.is_over() || self.clock.is_none() || page.first > known {
            return Ok(None);
        }
        let unreadable = ConnectionFault::Unreadable { first: page.first };
        let Some(records) = page.read(self.deal_id) else {
            return Err(self.wrong(unreadable));
        };
        let new = usize::try_from(known - page.first).unwrap_or(usize::MAX);
        let mut reached = None;
        for record in records.iter().skip(new) {
            let index = self.tree.len();
            self.take(index, record)
                .map_err(|fault| self.wrong(fault))?;
            let leaf = connection_leaf(blinding(&page.log_key.0, index), record);
            if self.tree.push(leaf).is_none() {
                return Err(self.wrong(unreadable));
            }
            reached = self.reach()?.or(reached);
        }
        Ok(reached)
    }

    /// One more second in which the tunnel worked. Returns a receipt if none has to be checked any more.
    pub fn handle_second(&mut self) -> Result<Answerable, ConnectionFault> {
        self.seconds += 1;
        let Some(oldest) = self.waiting.front().filter(|_| !self.is_over()) else {
            return Ok(None);
        };
        if self.seconds < oldest.until {
            return Ok(None);
        }
        if oldest.behind > TOO_MANY || self.opened - oldest.opened > TOO_MANY {
            let newest = self.waiting.back().map(|waiting| waiting.receipt.clone());
            self.give_up();
            return Ok(newest);
        }
        let message = &oldest.receipt.message;
        let fault = ConnectionFault::Unproven {
            seq: message.seq,
            root: message.connections_root,
            shown: self.tree.len(),
            waited: self.seconds - oldest.since,
        };
        Err(self.wrong(fault))
    }

    /// The number of the record that should be shown next, while a receipt waits for one.
    pub fn wanted(&self) -> Option<u64> {
        let waits = !self.waiting.is_empty() && !self.is_over();
        waits.then_some(self.tree.len())
    }

    /// What was checked.
    pub fn report(&self) -> ConnectionsChecked {
        self.report
    }

    /// Whether nothing is checked any more.
    fn is_over(&self) -> bool {
        matches!(
            self.report.result,
            CheckResult::TooMany | CheckResult::Wrong
        )
    }

    fn unchecked(&self, receipt: &Signed<Receipt>) -> Answerable {
        (self.report.result == CheckResult::TooMany).then(|| receipt.clone())
    }

    fn wrong(&mut self, fault: ConnectionFault) -> ConnectionFault {
        self.report.result = CheckResult::Wrong;
        fault
    }

    /// Checks nothing any more, and remembers nothing.
    fn give_up(&mut self) {
        self.report.result = CheckResult::TooMany;
        self.counterparts = HashMap::new();
        self.open = HashMap::new();
        self.unsigned = Vec::new();
        self.expected = VecDeque::new();
        self.waiting = VecDeque::new();
    }

    /// Whether the records so far lead to the root of a receipt that waits: the newest such one.
    fn reach(&mut self) -> Result<Answerable, ConnectionFault> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let root = self.tree.root();
        let place = self
            .waiting
            .iter()
            .rposition(|waiting| waiting.receipt.message.connections_root == root);
        let Some(place) = place else {
            return Ok(None);
        };
        // The ones before it were overtaken on the way.
        let Some(waiting) = self.waiting.drain(..=place).next_back() else {
            return Ok(None);
        };
        self.accept(waiting.receipt, waiting.since).map(Some)
    }

    /// Everything that was shown is under this receipt's root, which came at this second.
    fn accept(
        &mut self,
        receipt: Signed<Receipt>,
        at: u64,
    ) -> Result<Signed<Receipt>, ConnectionFault> {
        let root = receipt.message.connections_root;
        if root != self.accepted_root {
            self.accepted_root = root;
            self.report.records = self.tree.len();
            for (of, at) in self.unsigned.drain(..) {
                if let Some(counterpart) = self.counterparts.get_mut(&of) {
                    counterpart.sign(at);
                }
            }
        }
        let seq = receipt.message.seq;
        self.waiting
            .retain(|waiting| waiting.receipt.message.seq > seq);
        // A provider that keeps no record at all leaves nothing out of it.
        if self.report.result == CheckResult::Checked {
            self.check_expected(at)?;
            self.report.until = Some(receipt.message.observed_at);
        } else {
            self.expected.clear();
        }
        Ok(receipt)
    }

    /// Whether everything is there that this side has used since long before `at`.
    fn check_expected(&mut self, at: u64) -> Result<(), ConnectionFault> {
        while let Some(expected) = self.expected.front()
            && expected.since + GRACE <= at
        {
            let (transport, destination) = expected.of;
            let (Some(counterpart), Some(clock)) =
                (self.counterparts.get_mut(&expected.of), self.clock)
            else {
                return Ok(());
            };
            let recorded = counterpart.signed_by(provider_time(clock, expected.by));
            if recorded < expected.count {
                let fault = ConnectionFault::Missing {
                    transport,
                    destination,
                    recorded,
                    own: expected.count,
                    grace: GRACE,
                };
                return Err(self.wrong(fault));
            }
            self.expected.pop_front();
        }
        Ok(())
    }

    /// Compares a record with what this side knows.
    fn take(&mut self, index: u64, record: &Connection) -> Result<(), ConnectionFault> {
        let of = (record.transport, record.destination);
        let unknown = ConnectionFault::Unknown {
            index,
            transport: record.transport,
            destination: record.destination,
            recorded: 1,
            own: 0,
        };
        let counterpart = self.counterparts.get_mut(&of).ok_or(unknown)?;
        let clock = self
            .clock
            .ok_or(ConnectionFault::Unreadable { first: index })?;
        let Some(end) = record.end else {
            counterpart.open(index, record, clock)?;
            self.recorded += 1;
            *self.open.entry(*record).or_default() += 1;
            self.unsigned.push((of, record.opened_at));
            return Ok(());
        };
        let opening = Connection {
            end: None,
            ..*record
        };
        let open = self.open.get_mut(&opening).filter(|count| **count > 0);
        let Some(count) = open.filter(|_| end.at >= record.opened_at) else {
            return Err(ConnectionFault::NotOpen {
                index,
                transport: record.transport,
                destination: record.destination,
            });
        };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&opening);
        }
        counterpart.close(index, record, &end, self.other)
    }
}

#[cfg(test)]
mod tests;
