//! Everything that one lease has to do with one destination, by this side's count and by the record's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::{Connection, ConnectionEnd, ConnectionFault, Transport, UnixSeconds};

/// A record may be this much earlier than the packet that made it: clocks are read in whole seconds.
const EARLY: u64 = 10;
/// And this much later: a recorder that waits for its disk takes the time when it goes on.
const LATE: u64 = 20;
/// Times that are remembered for connections that may never be asked for.
const MOST: usize = 1 << 12;
/// Tolerance on bytes: one part in this, for headers that are counted by one side only, and for what is sent twice.
const TOLERANCE: u64 = 8;
/// Bytes that may always differ.
const SLACK: u64 = 64 * 1024;
/// Bytes that an exit may have taken in on a connection whose user left.
const TAKEN_IN: u64 = 16 << 20;

/// What this side has sent and received since the last reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnReading {
    /// By connection.
    pub connections: Vec<OwnConnections>,
    /// Bytes sent that may belong to any connection, such as fragments.
    pub other_up: u64,
    /// Bytes received of this kind.
    pub other_down: u64,
    /// There is more than could be followed.
    pub incomplete: bool,
}

/// What happened between this side and one destination since the last reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnConnections {
    /// What the connections are made of.
    pub transport: Transport,
    /// Where they go; echoes to port 0.
    pub destination: SocketAddr,
    /// Packets that may have opened a connection at the exit.
    pub openings: u32,
    /// Connections that were agreed to (TCP), or had their first answer.
    pub answered: u32,
    /// When the first packet was sent.
    pub first_sent: Instant,
    /// When the last one was.
    pub last_sent: Instant,
    /// Inner IP bytes sent.
    pub bytes_up: u64,
    /// Inner IP bytes received.
    pub bytes_down: u64,
    /// What of these was payload.
    pub payload_down: u64,
}

#[derive(Debug)]
pub(super) struct Counterpart {
    own: OwnTotals,
    first_sent: Instant,
    last_sent: Instant,
    /// Connections that the record has, and those of them that are over.
    recorded: u64,
    ended: u64,
    up: u64,
    down: u64,
    /// When those of them were opened that are under a root that was accepted, and how many earlier ones there are.
    signed: VecDeque<UnixSeconds>,
    signed_before: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct OwnTotals {
    openings: u64,
    answered: u64,
    up: u64,
    down: u64,
    payload_down: u64,
}

impl Counterpart {
    pub(super) fn new(own: &OwnConnections) -> Self {
        Self {
            own: OwnTotals::default(),
            first_sent: own.first_sent,
            last_sent: own.last_sent,
            recorded: 0,
            ended: 0,
            up: 0,
            down: 0,
            signed: VecDeque::new(),
            signed_before: 0,
        }
    }

    /// Adds what happened. Returns how many connections the record must have, if that has become more.
    ///
    /// Each TCP connection that the other side has agreed to was opened by the exit. Other flows have no beginning that
    /// both sides see, so of those to one destination there must be one.
    pub(super) fn take(&mut self, own: &OwnConnections) -> Option<u64> {
        self.first_sent = self.first_sent.min(own.first_sent);
        self.last_sent = self.last_sent.max(own.last_sent);
        let totals = &mut self.own;
        totals.openings += u64::from(own.openings);
        totals.answered += u64::from(own.answered);
        totals.up += own.bytes_up;
        totals.down += own.bytes_down;
        totals.payload_down += own.payload_down;
        let more = match own.transport {
            Transport::Tcp => own.answered > 0,
            Transport::Udp | Transport::Icmp => {
                own.answered > 0 && totals.answered == u64::from(own.answered)
            }
        };
        more.then_some(match own.transport {
            Transport::Tcp => totals.answered,
            Transport::Udp | Transport::Icmp => 1,
        })
    }

    /// One of the recorded connections, opened then, is under a root that was accepted.
    pub(super) fn sign(&mut self, opened_at: UnixSeconds) {
        self.signed.push_back(opened_at);
        if self.signed.len() > MOST {
            self.signed.pop_front();
            self.signed_before += 1;
        }
    }

    /// How many are under such a root of those that were opened by then. Later ones don't stand for earlier ones, as far
    /// as clocks can tell; what is asked for must never go back.
    pub(super) fn signed_by(&mut self, time: UnixSeconds) -> u64 {
        while self
            .signed
            .pop_front_if(|opened_at| *opened_at <= time.after(LATE))
            .is_some()
        {
            self.signed_before += 1;
        }
        self.signed_before
    }

    /// The record has one more connection.
    pub(super) fn open(
        &mut self,
        index: u64,
        record: &Connection,
        clock: (UnixSeconds, Instant),
    ) -> Result<(), ConnectionFault> {
        let (transport, destination, at) = (record.transport, record.destination, record.opened_at);
        self.recorded += 1;
        if self.recorded > self.own.openings {
            return Err(ConnectionFault::Unknown {
                index,
                transport,
                destination,
                recorded: self.recorded,
                own: self.own.openings,
            });
        }
        let (first, last) = (
            provider_time(clock, self.first_sent),
            provider_time(clock, self.last_sent),
        );
        if at.0 + EARLY < first.0 || at > last.after(LATE) {
            return Err(ConnectionFault::Time {
                index,
                transport,
                destination,
                at,
                first,
                last,
            });
        }
        Ok(())
    }

    /// One of them is over. Bytes are compared for all together, because the record names them by a port outside, which
    /// this side does not know.
    pub(super) fn close(
        &mut self,
        index: u64,
        record: &Connection,
        end: &ConnectionEnd,
        (other_up, other_down): (u64, u64),
    ) -> Result<(), ConnectionFault> {
        self.ended += 1;
        self.up = self.up.saturating_add(end.bytes_up);
        self.down = self.down.saturating_add(end.bytes_down);
        let own = &self.own;
        let most = |bytes: u64| bytes + bytes / TOLERANCE + SLACK;
        let too_much_up = self.up > most(own.up + other_up);
        // Datagrams that the exit counts may be lost on their way to this side; what a connection carries is not.
        let is_tcp = record.transport == Transport::Tcp;
        let taken_in = TAKEN_IN.saturating_mul(self.ended);
        let too_much_down =
            is_tcp && self.down > most(own.down + other_down).saturating_add(taken_in);
        let all_over = self.ended == self.recorded && self.recorded == own.openings;
        let too_little_down = is_tcp && all_over && own.payload_down > most(self.down);
        if too_much_up || too_much_down || too_little_down {
            return Err(ConnectionFault::Bytes {
                index,
                transport: record.transport,
                destination: record.destination,
                up: self.up,
                down: self.down,
                own_up: own.up,
                own_down: own.down,
                payload_down: own.payload_down,
            });
        }
        Ok(())
    }
}

/// The provider's clock at an instant of ours.
pub(super) fn provider_time((time, at): (UnixSeconds, Instant), instant: Instant) -> UnixSeconds {
    let after = instant.saturating_duration_since(at).as_secs();
    let before = at.saturating_duration_since(instant).as_secs();
    UnixSeconds((time.0 + after).saturating_sub(before))
}
