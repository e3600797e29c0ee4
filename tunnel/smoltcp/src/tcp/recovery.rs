//! The sender's loss recovery. Not part of upstream: see `CHANGES.md`.
//!
//! A scoreboard of what the receiver holds (RFC 2018) tells what is lost (RFC 6675), every hole is repaired within one
//! round trip, as fast as data leaves the network (proportional rate reduction, RFC 6937). A probe finds losses at the
//! end of a burst without waiting for the retransmission timeout (RFC 8985, section 7). Receivers without SACK get
//! one repaired segment for each partial acknowledgement (NewReno, RFC 6582).

use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

/// Ranges that are remembered; further ones are taken for missing.
const MAX_RANGES: usize = 128;

/// Segments that must have arrived behind a hole before it counts as lost.
const DUP_THRESH: usize = 3;

/// What is added to two round trips before the end of a burst is probed.
const PROBE_MARGIN: Duration = Duration::from_millis(10);

/// The same for a lone segment, whose acknowledgement the receiver may delay.
const LONE_PROBE_MARGIN: Duration = Duration::from_millis(50);

/// Half-open ranges of sequence numbers, in order, that do not touch.
#[derive(Debug)]
struct Scoreboard {
    ranges: [(TcpSeqNumber, TcpSeqNumber); MAX_RANGES],
    len: usize,
}

impl Scoreboard {
    fn ranges(&self) -> &[(TcpSeqNumber, TcpSeqNumber)] {
        &self.ranges[..self.len]
    }

    fn bytes(&self) -> usize {
        self.ranges().iter().map(|&(from, to)| to - from).sum()
    }

    /// How many bytes between two points have arrived.
    fn bytes_within(&self, from: TcpSeqNumber, below: TcpSeqNumber) -> usize {
        let within = |&(left, right): &(TcpSeqNumber, TcpSeqNumber)| {
            let (left, right) = (left.max(from), right.min(below));
            if right > left { right - left } else { 0 }
        };
        self.ranges().iter().map(within).sum()
    }

    fn remove(&mut self, at: usize) {
        self.ranges.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }

    fn insert(&mut self, mut from: TcpSeqNumber, mut to: TcpSeqNumber) {
        let mut at = 0;
        while at < self.len {
            let (left, right) = self.ranges[at];
            if right < from {
                at += 1;
            } else if left > to {
                break;
            } else {
                (from, to) = (from.min(left), to.max(right));
                self.remove(at);
            }
        }
        if self.len < MAX_RANGES {
            self.ranges.copy_within(at..self.len, at + 1);
            self.ranges[at] = (from, to);
            self.len += 1;
        }
    }

    fn forget_below(&mut self, una: TcpSeqNumber) {
        while self.len > 0 && self.ranges[0].1 <= una {
            self.remove(0);
        }
        if self.len > 0 && self.ranges[0].0 < una {
            self.ranges[0].0 = una;
        }
    }

    /// Everything missing below this point is lost: enough has arrived behind it.
    fn lost_below(&self, una: TcpSeqNumber, mss: usize) -> TcpSeqNumber {
        let mut above = 0;
        for (count, &(from, to)) in self.ranges().iter().rev().enumerate() {
            above += to - from;
            if above > (DUP_THRESH - 1) * mss || count + 1 >= DUP_THRESH {
                return from;
            }
        }
        una
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Acknowledgements told of the loss.
    Fast,
    /// Nothing came for so long that all is taken for lost.
    Timeout,
}

#[derive(Debug)]
struct Episode {
    cause: Cause,
    /// Over when this is acknowledged: what had been sent when the loss was found.
    end: TcpSeqNumber,
    /// Missing data below this is lost, whatever the scoreboard says.
    lost_below: TcpSeqNumber,
    /// Holes below this have been repaired in this pass.
    next: TcpSeqNumber,
    /// What had been sent at the last repair: once data behind it arrives, a repair that has not was lost too.
    mark: TcpSeqNumber,
    /// The first repair goes out whatever the window says.
    first: bool,
    flight: usize,
    target: usize,
    delivered: usize,
    sent: usize,
    /// Bytes that may be sent until the next acknowledgement.
    quota: usize,
    /// What duplicate acknowledgements without SACK tell to have arrived.
    arrived: usize,
}

/// What the socket knows at an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    /// First byte not acknowledged before, and now.
    pub(super) before: TcpSeqNumber,
    pub(super) una: TcpSeqNumber,
    /// First byte never sent.
    pub(super) next: TcpSeqNumber,
    pub(super) mss: usize,
    pub(super) sack: bool,
    /// Duplicate acknowledgements in a row, this one included; 0 if it is none.
    pub(super) duplicates: u8,
}

#[derive(Debug)]
pub(super) struct Recovery {
    sacked: Scoreboard,
    episode: Option<Episode>,
    /// Timeouts in a row.
    timeouts: u8,
    probe_at: Option<Instant>,
    /// Behind the last byte of a probe that is not answered yet.
    probed: Option<TcpSeqNumber>,
    /// Missing data below this is lost, as the last acknowledgement showed.
    lost_below: TcpSeqNumber,
}

impl Recovery {
    pub(super) fn new() -> Self {
        Self {
            sacked: Scoreboard {
                ranges: [(TcpSeqNumber(0), TcpSeqNumber(0)); MAX_RANGES],
                len: 0,
            },
            episode: None,
            timeouts: 0,
            probe_at: None,
            probed: None,
            lost_below: TcpSeqNumber(0),
        }
    }

    /// Whether the window is that of fast recovery, and not the congestion controller's.
    pub(super) fn is_fast(&self) -> bool {
        matches!(&self.episode, Some(episode) if episode.cause == Cause::Fast)
    }

    /// Takes an acknowledgement. True if it tells of a loss that is new: call [`Recovery::start_fast`].
    pub(super) fn on_ack(&mut self, acked: Acked, blocks: &[Option<(u32, u32)>; 3]) -> bool {
        let Acked {
            before,
            una,
            next,
            mss,
            ..
        } = acked;
        let advanced = if una > before { una - before } else { 0 };
        let had = self.sacked.bytes();
        for &(from, to) in blocks.iter().flatten() {
            let (from, to) = (TcpSeqNumber(from as i32), TcpSeqNumber(to as i32));
            if from >= una && from < to && to <= next {
                self.sacked.insert(from, to);
            }
        }
        self.sacked.forget_below(una);
        let mut delivered = (advanced + self.sacked.bytes()).saturating_sub(had);
        if advanced > 0 {
            self.timeouts = 0;
            if let Some(end) = self.probed
                && una >= end
            {
                self.probed = None;
            }
        }
        if self
            .episode
            .as_ref()
            .is_some_and(|episode| una >= episode.end)
        {
            self.episode = None;
        }
        let lost_below = self.lost_edge(acked);
        self.lost_below = lost_below;
        let overtaken = |mark| self.sacked.bytes_within(mark, next) > (DUP_THRESH - 1) * mss;
        let lost_again = matches!(
            &self.episode,
            Some(episode) if una < episode.next && overtaken(episode.mark)
        );
        if lost_again {
            // More was sent after the last repair, and has arrived: what is still missing was lost again, and so the
            // path takes even less.
            let episode = self.episode.take();
            self.lost_below = episode.map_or(lost_below, |old| old.lost_below.max(lost_below));
            return true;
        }
        let Some(episode) = &mut self.episode else {
            let told = !acked.sack || self.sacked.len > 0;
            let duplicates = told && acked.duplicates >= DUP_THRESH as u8 && una < next;
            return lost_below > una || duplicates;
        };
        // What was sent since is for the next episode: it means less window still.
        episode.lost_below = episode.lost_below.max(lost_below.min(episode.end));
        if !acked.sack {
            // NewReno: each duplicate stands for a segment, each partial acknowledgement points at the next hole.
            if acked.duplicates > 0 {
                episode.arrived += mss;
                delivered += mss;
            } else if advanced > 0 {
                episode.arrived = (episode.arrived + mss).saturating_sub(advanced);
                episode.lost_below = episode.lost_below.max((una + mss).min(episode.end));
            }
        }
        episode.next = episode.next.max(una);
        episode.delivered += delivered;
        let pipe = self.pipe(una, next);
        if let Some(episode) = &mut self.episode {
            episode.reduce(pipe, delivered, mss);
        }
        false
    }

    /// Missing data below this is lost, as far as the scoreboard and an answered probe tell.
    fn lost_edge(&mut self, acked: Acked) -> TcpSeqNumber {
        let edge = self.sacked.lost_below(acked.una, acked.mss);
        match (self.probed, self.sacked.ranges().last()) {
            // The probe left long after everything below it, and arrived.
            (Some(end), Some(&(from, to))) if to >= end => {
                self.probed = None;
                edge.max(from)
            }
            _ => edge,
        }
    }

    /// Starts to repair what acknowledgements have shown to be lost; `target` is the window to come down to.
    pub(super) fn start_fast(&mut self, acked: Acked, target: usize) {
        let Acked { una, next, mss, .. } = acked;
        // Duplicates tell of the first hole, whatever little is behind it.
        let lost_below = self.lost_below.max(match self.sacked.ranges().first() {
            Some(&(from, _)) => from,
            None => (una + mss).min(next),
        });
        self.probe_at = None;
        self.probed = None;
        self.episode = Some(Episode {
            cause: Cause::Fast,
            end: next,
            lost_below,
            next: una,
            mark: next,
            first: true,
            flight: (next - una).max(1),
            target,
            delivered: mss,
            sent: 0,
            quota: 0,
            arrived: usize::from(acked.duplicates) * mss * usize::from(!acked.sack),
        });
        let pipe = self.pipe(una, next);
        if let Some(episode) = &mut self.episode {
            episode.reduce(pipe, mss, mss);
        }
    }

    /// Takes everything that is not known to have arrived for lost.
    pub(super) fn start_timeout(&mut self, una: TcpSeqNumber, next: TcpSeqNumber) {
        self.timeouts = self.timeouts.saturating_add(1);
        if self.timeouts > 1 {
            // The receiver may have thrown away what it once held (RFC 2018, section 8).
            self.sacked.len = 0;
        }
        self.probe_at = None;
        self.probed = None;
        self.episode = Some(Episode {
            cause: Cause::Timeout,
            end: next,
            lost_below: next,
            next: una,
            mark: next,
            first: true,
            flight: 0,
            target: 0,
            delivered: 0,
            sent: 0,
            quota: 0,
            arrived: 0,
        });
    }

    /// Bytes that are in the network, as far as one can know.
    pub(super) fn pipe(&self, una: TcpSeqNumber, next: TcpSeqNumber) -> usize {
        let outstanding = (next - una).saturating_sub(self.sacked.bytes());
        let Some(episode) = &self.episode else {
            return outstanding;
        };
        let (from, below) = (episode.next.max(una), episode.lost_below);
        let lost = if below > from {
            (below - from) - self.sacked.bytes_within(from, below)
        } else {
            0
        };
        outstanding.saturating_sub(lost + episode.arrived)
    }

    /// The next hole to repair: where it starts and ends.
    pub(super) fn hole(&self, una: TcpSeqNumber) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        let episode = self.episode.as_ref()?;
        self.hole_after(episode.next.max(una), episode.lost_below)
    }

    fn hole_after(
        &self,
        mut from: TcpSeqNumber,
        below: TcpSeqNumber,
    ) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        for &(left, right) in self.sacked.ranges() {
            if from < left {
                break;
            }
            from = from.max(right);
        }
        let mut end = below;
        if let Some(&(left, _)) = self.sacked.ranges().iter().find(|&&(left, _)| left > from) {
            end = end.min(left);
        }
        (from < end).then_some((from, end))
    }

    /// Bytes that may be sent now, under the controller's `window`.
    pub(super) fn allowance(&self, window: usize, una: TcpSeqNumber, next: TcpSeqNumber) -> usize {
        match &self.episode {
            Some(episode) if episode.cause == Cause::Fast => episode.quota,
            _ => window.saturating_sub(self.pipe(una, next)),
        }
    }

    /// Whether a repair may go out that the window forbids.
    pub(super) fn is_urgent(&self) -> bool {
        self.episode.as_ref().is_some_and(|episode| episode.first)
    }

    /// Notes that `from..to` was sent; `next` was the first byte never sent before.
    pub(super) fn on_send(&mut self, from: TcpSeqNumber, to: TcpSeqNumber, next: TcpSeqNumber) {
        let Some(episode) = &mut self.episode else {
            return;
        };
        episode.sent += to - from;
        episode.quota = episode.quota.saturating_sub(to - from);
        if from < next {
            episode.first = false;
            episode.next = episode.next.max(to);
            episode.mark = next.max(to);
        }
    }

    /// Sets the time of the next probe, if one makes sense for `flight` bytes under way.
    pub(super) fn arm_probe(
        &mut self,
        now: Instant,
        flight: usize,
        mss: usize,
        round_trip: Option<Duration>,
    ) {
        let margin = if flight > mss {
            PROBE_MARGIN
        } else {
            LONE_PROBE_MARGIN
        };
        let sensible = self.episode.is_none() && self.probed.is_none() && flight > 0;
        self.probe_at = round_trip
            .filter(|_| sensible)
            .map(|round_trip| now + round_trip + round_trip + margin);
    }

    pub(super) fn disarm_probe(&mut self) {
        self.probe_at = None;
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    /// Whether it is time to probe. True once; the probe ends at `next`.
    pub(super) fn take_probe(&mut self, now: Instant, next: TcpSeqNumber) -> bool {
        if self.probe_at.is_none_or(|at| now < at) {
            return false;
        }
        self.probe_at = None;
        self.probed = Some(next);
        true
    }
}

impl Episode {
    /// Proportional rate reduction with slow-start reduction bound.
    fn reduce(&mut self, pipe: usize, delivered: usize, mss: usize) {
        let quota = if pipe > self.target {
            let due =
                (self.delivered as u64 * self.target as u64).div_ceil(self.flight.max(1) as u64);
            (due as usize).saturating_sub(self.sent)
        } else {
            let bound = self.delivered.saturating_sub(self.sent).max(delivered) + mss;
            (self.target - pipe).min(bound)
        };
        self.quota = quota.next_multiple_of(mss.max(1));
    }
}

#[cfg(test)]
mod tests;
