//! A payer's check against a provider that keeps its record honestly over a bad way, or lies in it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Amount, ChannelId, ConnectionEnd, Signature, Usage};

const DEAL: DealId = DealId(B256::repeat_byte(1));
const KEY: B256 = B256::repeat_byte(2);
const NOON: u64 = 1_795_176_000;
/// The provider's clock is an hour off.
const OFF: u64 = 3_600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// A connection to somewhere that nobody went.
    AddsElsewhere,
    /// One connection more to where the payer did go.
    AddsAgain,
    /// A connection under another destination.
    ChangesDestination,
    /// A connection as another protocol.
    ChangesTransport,
    /// A connection is left out.
    Drops,
    /// Made long before.
    ChangesTime,
    /// Gigabytes that were never sent.
    ChangesBytes,
    /// The end of a connection that there is not.
    EndsAnother,
    /// The root stays what it was.
    StaleRoot,
    /// The root is of other leaves than those shown.
    OtherRoot,
    /// Nothing is shown.
    ShowsNothing,
}

const LIES: [Lie; 11] = [
    Lie::AddsElsewhere,
    Lie::AddsAgain,
    Lie::ChangesDestination,
    Lie::ChangesTransport,
    Lie::Drops,
    Lie::ChangesTime,
    Lie::ChangesBytes,
    Lie::EndsAnother,
    Lie::StaleRoot,
    Lie::OtherRoot,
    Lie::ShowsNothing,
];

struct Open {
    record: Connection,
    up: u64,
    down: u64,
}

struct World {
    audit: ConnectionAudit,
    random: u64,
    /// One page in this many is lost; 0 loses none.
    loss: u64,
    start: Instant,
    second: u64,
    seq: u64,
    /// What the provider has recorded, and the tree of it.
    records: Vec<Connection>,
    tree: ConnectionTree,
    root: B256,
    open: Vec<Open>,
    lie: Lie,
    /// When it was told.
    lied: Option<u64>,
    reading: OwnReading,
    /// Roots that no lie is under.
    honest: Vec<B256>,
    accepted: Vec<B256>,
}

impl World {
    fn new(random: u64, loss: u64, lie: Lie) -> Self {
        Self {
            audit: ConnectionAudit::new(DEAL),
            random,
            loss,
            start: Instant::now(),
            second: 0,
            seq: 0,
            records: Vec::new(),
            tree: ConnectionTree::default(),
            root: B256::ZERO,
            open: Vec::new(),
            lie,
            lied: None,
            reading: OwnReading::default(),
            honest: vec![B256::ZERO],
            accepted: Vec::new(),
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second)
    }

    fn clock(&self) -> UnixSeconds {
        UnixSeconds(NOON + OFF + self.second)
    }

    /// This side sends something there, and is answered.
    fn send(
        &mut self,
        transport: Transport,
        destination: SocketAddr,
        openings: u32,
        bytes: [u64; 2],
    ) {
        self.reading.connections.push(OwnConnections {
            transport,
            destination,
            openings,
            answered: openings,
            first_sent: self.now(),
            last_sent: self.now(),
            bytes_up: bytes[0] + 40,
            bytes_down: bytes[1] + 40,
            payload_down: bytes[1],
        });
    }

    fn record(&mut self, record: Connection) {
        let index = self.tree.len();
        let leaf = connection_leaf(blinding(&KEY.0, index), &record);
        self.tree.push(leaf).unwrap();
        self.records.push(record);
    }

    /// A second of a lease: connections open, carry something and end; then comes a receipt, and what is asked for.
    fn step(&mut self) -> Result<(), ConnectionFault> {
        self.second += 1;
        // Pauses, too: in a row of connections to one destination nobody can tell which one is missing.
        if self.second % 120 < 60 {
            for _ in 0..self.random(3) {
                self.open_one();
            }
        }
        for place in 0..self.open.len() {
            let bytes = [self.random(2_000), self.random(200_000)];
            let record = self.open[place].record;
            self.open[place].up += bytes[0];
            self.open[place].down += bytes[1];
            self.send(record.transport, record.destination, 0, bytes);
        }
        if !self.open.is_empty() && self.random(3) == 0 {
            let place = usize::try_from(self.random(self.open.len() as u64)).unwrap();
            let ended = self.open.swap_remove(place);
            self.end_one(&ended);
        }
        self.tell_once();
        if self.lie != Lie::StaleRoot || self.lied.is_none() {
            self.root = if self.records.is_empty() {
                B256::ZERO
            } else {
                self.tree.root()
            };
        }
        if self.lied.is_none() {
            self.honest.push(self.root);
        }
        let shown = match (self.lie, self.lied) {
            (Lie::OtherRoot, Some(_)) => {
                B256::repeat_byte(u8::try_from(self.second % 250).unwrap() + 1)
            }
            _ => self.root,
        };
        let reading = std::mem::take(&mut self.reading);
        self.audit.handle_traffic(reading);
        self.receive(shown)?;
        self.show()?;
        let found = self.audit.handle_second()?;
        assert!(found.is_none(), "so few are not too many");
        self.show()
    }

    fn open_one(&mut self) {
        let transport = [Transport::Tcp, Transport::Udp, Transport::Icmp]
            [usize::try_from(self.random(3)).unwrap()];
        let port = if transport == Transport::Icmp { 0 } else { 443 };
        let host = u8::try_from(self.random(5)).unwrap();
        let destination = SocketAddr::from(([192, 0, 2, host], port));
        // Some are refused: the exit has no record of them.
        if self.random(8) == 0 {
            self.send(transport, destination, 1, [0, 0]);
            self.reading.connections.last_mut().unwrap().answered = 0;
            return;
        }
        self.send(transport, destination, 1, [0, 0]);
        let record = Connection {
            deal_id: DEAL,
            transport,
            source_port: u16::try_from(40_000 + self.records.len() % 20_000).unwrap(),
            destination,
            opened_at: UnixSeconds(self.clock().0 + self.random(2)),
            end: None,
        };
        let mut told = record;
        let mut lies = true;
        match self.lie {
            Lie::ChangesDestination => told.destination = ([198, 51, 100, 1], 443).into(),
            Lie::ChangesTransport => {
                told.transport = Transport::Tcp;
                told.destination.set_port(1);
            }
            Lie::ChangesTime => told.opened_at.0 -= OFF / 2,
            // Of datagrams to one destination, one may stand for all.
            Lie::Drops => lies = transport == Transport::Tcp,
            _ => lies = false,
        }
        let lies = lies && self.lied.is_none() && self.second > 20;
        if lies {
            self.lied = Some(self.second);
        }
        if lies && self.lie == Lie::Drops {
            return;
        }
        let record = if lies { told } else { record };
        self.record(record);
        self.open.push(Open {
            record,
            up: 0,
            down: 0,
        });
    }

    fn end_one(&mut self, ended: &Open) {
        let mut end = ConnectionEnd {
            at: UnixSeconds(self.clock().0 + 1),
            bytes_up: ended.up,
            bytes_down: ended.down,
        };
        if self.lie == Lie::ChangesBytes && self.lied.is_none() && self.second > 20 {
            self.lied = Some(self.second);
            end.bytes_up += 1 << 40;
        }
        self.record(Connection {
            end: Some(end),
            ..ended.record
        });
    }

    /// The lies that add something, or leave it at what was said before.
    fn tell_once(&mut self) {
        if self.lied.is_some() || self.second <= 20 || self.records.is_empty() {
            return;
        }
        let known = self
            .records
            .iter()
            .rev()
            .find(|record| record.end.is_none() && record.transport == Transport::Tcp);
        let Some(mut record) = known.copied() else {
            return;
        };
        record.opened_at = self.clock();
        match self.lie {
            Lie::AddsElsewhere => record.destination = ([203, 0, 113, 9], 80).into(),
            Lie::EndsAnother => {
                record.source_port = 1;
                record.end = Some(ConnectionEnd {
                    at: self.clock(),
                    bytes_up: 0,
                    bytes_down: 0,
                });
            }
            // More often than this side could have gone there, refused ones included.
            Lie::AddsAgain => (0..400).for_each(|_| self.record(record)),
            Lie::StaleRoot | Lie::OtherRoot | Lie::ShowsNothing => {
                self.lied = Some(self.second);
                return;
            }
            _ => return,
        }
        self.lied = Some(self.second);
        self.record(record);
    }

    fn receive(&mut self, root: B256) -> Result<(), ConnectionFault> {
        self.seq += 1;
        let message = Receipt {
            channel_id: ChannelId::default(),
            deal_id: DEAL,
            seq: self.seq,
            usage: Usage::default(),
            deal_amount: Amount::ZERO,
            cumulative: Amount::ZERO,
            observed_at: self.clock(),
            connections_root: root,
        };
        let receipt = Signed {
            message,
            signature: Signature([0; 65]),
        };
        let found = self.audit.handle_receipt(&receipt, self.now())?;
        self.note(found);
        Ok(())
    }

    /// Shows what is asked for, unless it is lost.
    fn show(&mut self) -> Result<(), ConnectionFault> {
        let Some(from) = self.audit.wanted() else {
            return Ok(());
        };
        if self.lie == Lie::ShowsNothing && self.lied.is_some() {
            return Ok(());
        }
        let mut pages: Vec<_> = (usize::try_from(from).unwrap()..self.records.len())
            .step_by(ConnectionPage::MOST)
            .map(|first| ConnectionPage::new(KEY, first as u64, &self.records[first..]))
            .collect();
        if self.loss != 0 && self.random(4) == 0 {
            pages.reverse();
        }
        for page in pages {
            if self.loss == 0 || self.random(self.loss) != 0 {
                let found = self.audit.handle_page(&page)?;
                self.note(found);
            }
        }
        Ok(())
    }

    fn note(&mut self, found: Answerable) {
        self.accepted
            .extend(found.map(|receipt| receipt.message.connections_root));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Over a way that loses half of what is shown, and shows it in any order, an honest record is accepted, all of it.
    #[test]
    fn an_honest_record_is_never_refused(random: u64, loss in prop_oneof![Just(0), 2_u64..20]) {
        let mut world = World::new(random, loss, Lie::None);
        for _ in 0..200 {
            world.step().unwrap();
        }
        // A quiet end, so that nothing is under way.
        world.loss = 0;
        world.show().unwrap();
        let report = world.audit.report();
        prop_assert_eq!(report.result, CheckResult::Checked);
        prop_assert_eq!(report.records, world.records.len() as u64);
        prop_assert!(world.accepted.iter().all(|root| world.honest.contains(root)));
        prop_assert_eq!(world.accepted.last(), Some(&world.root));
    }

    /// Each lie is found within the grace, and no root with one that was shown is ever accepted.
    #[test]
    fn a_lying_record_is_refused(random: u64, loss in prop_oneof![Just(0), 3_u64..20], lie in 0..LIES.len()) {
        let lie = LIES[lie];
        let mut world = World::new(random, loss, lie);
        let mut fault = None;
        while fault.is_none() && world.second < 400 {
            fault = world.step().err();
        }
        let lied = world.lied.unwrap();
        let fault = fault.unwrap();
        let found = world.second - lied;
        // A stale root is found by the next connection that is not under it, one that is left out after a pause.
        let most = match lie {
            Lie::Drops | Lie::StaleRoot | Lie::OtherRoot | Lie::ShowsNothing => 140,
            _ => GRACE,
        };
        prop_assert!(found <= most, "{lie:?} was found after {found} s: {fault}");
        let expected = match lie {
            Lie::None => unreachable!("no lie"),
            Lie::AddsElsewhere | Lie::AddsAgain | Lie::ChangesDestination | Lie::ChangesTransport => {
                matches!(fault, ConnectionFault::Unknown { .. })
            }
            Lie::Drops | Lie::StaleRoot => matches!(fault, ConnectionFault::Missing { .. }),
            Lie::ChangesTime => matches!(fault, ConnectionFault::Time { .. }),
            Lie::ChangesBytes => matches!(fault, ConnectionFault::Bytes { .. }),
            Lie::EndsAnother => matches!(fault, ConnectionFault::NotOpen { .. }),
            Lie::OtherRoot | Lie::ShowsNothing => matches!(fault, ConnectionFault::Unproven { .. }),
        };
        prop_assert!(expected, "{lie:?}: {fault}");
        prop_assert_eq!(world.audit.report().result, CheckResult::Wrong);
        if lie != Lie::Drops {
            prop_assert!(world.accepted.iter().all(|root| world.honest.contains(root)));
        }
        // Nothing is accepted any more.
        let before = world.accepted.len();
        for _ in 0..30 {
            world.step().unwrap();
        }
        prop_assert_eq!(world.accepted.len(), before);
    }
}

/// A provider that keeps no record names no root: there is nothing to sign for, and nothing is missing.
#[test]
fn no_record_is_no_lie() {
    let mut world = World::new(1, 0, Lie::None);
    let destination = ([192, 0, 2, 1], 443).into();
    for _ in 0..100 {
        world.second += 1;
        world.send(Transport::Tcp, destination, 1, [10, 10]);
        let reading = std::mem::take(&mut world.reading);
        world.audit.handle_traffic(reading);
        world.receive(B256::ZERO).unwrap();
        world.audit.handle_second().unwrap();
    }
    assert_eq!(world.audit.report().result, CheckResult::NoRecord);
    assert_eq!(world.audit.report().own, 100);
    assert_eq!(world.accepted.len(), 100);
}

/// More connections than can be shown in time: what was checked stays, and vouchers do not stall.
#[test]
fn too_many_connections_end_the_check_and_not_the_lease() {
    let mut world = World::new(1, 0, Lie::None);
    for _ in 0..30 {
        world.step().unwrap();
    }
    let checked = world.audit.report();
    assert!(checked.records > 10 && checked.result == CheckResult::Checked);
    let destination = ([192, 0, 2, 1], 443).into();
    let mut newest = None;
    for second in 0..LONGEST_WAIT + 2 {
        world.second += 1;
        world.send(Transport::Tcp, destination, 1_000, [10, 10]);
        let reading = std::mem::take(&mut world.reading);
        world.audit.handle_traffic(reading);
        world
            .receive(B256::repeat_byte(u8::try_from(second).unwrap() + 1))
            .unwrap();
        newest = world.audit.handle_second().unwrap().or(newest);
    }
    assert!(
        newest.is_some(),
        "the newest receipt may be answered without a look"
    );
    let report = world.audit.report();
    assert_eq!(report.result, CheckResult::TooMany);
    assert_eq!(report.records, checked.records);
    assert_eq!(report.until, checked.until);
    let before = world.accepted.len();
    world.receive(B256::repeat_byte(9)).unwrap();
    assert_eq!(world.accepted.len(), before + 1);
    assert_eq!(world.audit.wanted(), None);
}

#[test]
fn a_page_is_read_as_it_was_written_and_nothing_else_is() {
    let mut world = World::new(5, 0, Lie::None);
    for _ in 0..60 {
        world.step().unwrap();
    }
    let page = ConnectionPage::new(KEY, 0, &world.records);
    assert_eq!(
        page.read(DEAL).unwrap(),
        world.records[..ConnectionPage::MOST]
    );
    for (change, records) in [
        ("cut", page.records[1..].to_vec()),
        ("too long", page.records.repeat(2)),
        ("another protocol", [&[99], &page.records[1..]].concat()),
    ] {
        let other = ConnectionPage {
            records,
            ..page.clone()
        };
        assert_eq!(other.read(DEAL), None, "{change}");
    }
}
