//! Shows a payer the connection record of its own lease, so that it can look at what it signs for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ipsx_metering::{B256, Connection, ConnectionPage};

/// Records that are kept for a payer that asks, and for one that has not asked yet.
const MOST: usize = 8_192;
const MOST_UNASKED: usize = 1_024;
/// Pages in a second: the tunnel carries 50 control datagrams, and payments come first.
const PAGES: usize = 20;

/// Records of one lease that are on disk, and the root of its tree with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedConnections {
    /// The root over all records so far.
    pub root: B256,
    /// What hides the leaves of this lease.
    pub log_key: B256,
    /// Number of the first of `records`.
    pub first: u64,
    /// The records since the last time.
    pub records: Vec<Connection>,
}

/// What one payer has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    log_key: B256,
    first: u64,
    records: VecDeque<Connection>,
    asked: bool,
    /// There was more than is kept: nothing can be shown any more.
    lost: bool,
    /// When the running second of pages began, and how many there were.
    shown: Option<(Instant, usize)>,
}

impl Unseen {
    pub(crate) fn add(&mut self, recorded: RecordedConnections) {
        self.log_key = recorded.log_key;
        self.records.extend(recorded.records);
        let most = if self.asked { MOST } else { MOST_UNASKED };
        if self.lost || self.records.len() > most {
            self.lost = true;
            self.records = VecDeque::new();
        }
    }

    /// The records from this number on, as many as may be sent now; the ones before it have arrived.
    pub(crate) fn pages(&mut self, from: u64, now: Instant) -> Vec<ConnectionPage> {
        self.asked = true;
        let seen = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if self.lost || from < self.first || seen > self.records.len() {
            return Vec::new();
        }
        self.records.drain(..seen);
        self.first = from;
        let running = self
            .shown
            .filter(|(since, _)| now < *since + Duration::from_secs(1));
        let (since, shown) = running.unwrap_or((now, 0));
        let pages: Vec<_> = (0..self.records.len())
            .step_by(ConnectionPage::MOST)
            .take(PAGES.saturating_sub(shown))
            .map(|start| {
                let records = self.records.range(start..);
                ConnectionPage::new(self.log_key, from + start as u64, records)
            })
            .collect();
        self.shown = Some((since, shown + pages.len()));
        pages
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use ipsx_metering::{DealId, Transport, UnixSeconds};

    const DEAL: DealId = DealId(B256::repeat_byte(3));

    fn record(number: u64) -> Connection {
        Connection {
            deal_id: DEAL,
            transport: Transport::Tcp,
            source_port: 40_000,
            destination: ([192, 0, 2, 1], 443).into(),
            opened_at: UnixSeconds(number),
            end: None,
        }
    }

    fn add(unseen: &mut Unseen, numbers: std::ops::Range<u64>) {
        unseen.add(RecordedConnections {
            root: B256::ZERO,
            log_key: B256::repeat_byte(7),
            first: numbers.start,
            records: numbers.map(record).collect(),
        });
    }

    /// The numbers of the records of all pages.
    fn numbers(pages: &[ConnectionPage]) -> Vec<u64> {
        let records = pages.iter().flat_map(|page| {
            let read = page.read(DEAL).unwrap_or_default();
            assert_eq!(Some(page.first), read.first().map(|r| r.opened_at.0));
            read
        });
        records.map(|record| record.opened_at.0).collect()
    }

    #[test]
    fn what_has_not_arrived_is_shown_again_and_no_more_than_the_tunnel_carries() {
        let (mut unseen, now) = (Unseen::default(), Instant::now());
        add(&mut unseen, 0..30);
        assert_eq!(numbers(&unseen.pages(0, now)), (0..30).collect::<Vec<_>>());
        assert_eq!(
            numbers(&unseen.pages(20, now)),
            (20..30).collect::<Vec<_>>()
        );
        // What has arrived is not kept; what never was cannot be shown.
        assert!(unseen.pages(19, now).is_empty() && unseen.pages(31, now).is_empty());
        add(&mut unseen, 30..1_000);
        let later = now + Duration::from_secs(1);
        assert_eq!(numbers(&unseen.pages(30, later)).len(), 400);
        assert!(unseen.pages(430, later).is_empty(), "20 pages a second");
        let later = later + Duration::from_secs(1);
        assert_eq!(numbers(&unseen.pages(430, later)).len(), 400);
    }

    #[test]
    fn a_payer_that_does_not_look_costs_little() {
        let (mut unseen, now) = (Unseen::default(), Instant::now());
        add(&mut unseen, 0..1_025);
        assert!(unseen.records.is_empty() && unseen.pages(0, now).is_empty());
        let mut looking = Unseen::default();
        assert!(looking.pages(0, now).is_empty());
        add(&mut looking, 0..8_192);
        assert_eq!(looking.pages(0, now).len(), PAGES);
        add(&mut looking, 8_192..8_193);
        assert!(looking.records.is_empty());
    }
}
