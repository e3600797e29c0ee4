//! A provider that keeps a connection record, honestly or not, and a requester that looks at it before it signs.

use std::time::Instant;

use ipsx_market::messages::EndCause;
use ipsx_metering::{
    CheckResult, Connection, ConnectionEnd, ConnectionTree, DealId, Misbehaved, ProviderFault,
    Transport, blinding, connection_leaf,
};
use ipsx_tunnel_core::{FlowProtocol, OwnFlow, OwnTraffic};

use super::simulation::Simulation;
use super::*;
use crate::provider::{RecordedConnections, Unseen};

const KEY: B256 = B256::repeat_byte(9);
/// From this second on the provider lies.
const LATER: u64 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// A connection that nobody made.
    Adds,
    /// Where one connection went.
    ChangesDestination,
    /// One connection is not there.
    Drops,
    /// The root in the receipts stays what it was.
    StaleRoot,
    /// What was recorded is not shown.
    ShowsNothing,
}

/// Both ends of the record: what the requester did, and what the provider says of it.
pub(super) struct Record {
    deal: DealId,
    lie: Option<Lie>,
    told: bool,
    tree: ConnectionTree,
    root: B256,
    pub(super) unseen: Unseen,
    second: u64,
    pub(super) records: u64,
}

impl Record {
    pub(super) fn new(deal: DealId, lie: Option<Lie>) -> Self {
        Self {
            deal,
            lie,
            told: false,
            tree: ConnectionTree::default(),
            root: B256::ZERO,
            unseen: Unseen::default(),
            second: 0,
            records: 0,
        }
    }

    /// What the requester asks for is not answered.
    pub(super) fn is_hidden(&self) -> bool {
        self.lie == Some(Lie::ShowsNothing) && self.second >= LATER
    }

    /// Another second: one connection is made, used and ended. Returns what the requester knows of it, and the root that
    /// the provider signs from now on.
    pub(super) fn second(
        &mut self,
        second: u64,
        clock: UnixSeconds,
        now: Instant,
    ) -> Option<(OwnTraffic, B256)> {
        if second <= self.second {
            return None;
        }
        self.second = second;
        let host = u8::try_from(second % 250).unwrap();
        let own = OwnFlow {
            protocol: FlowProtocol::Tcp,
            destination: ([192, 0, (second / 250) as u8, host], 443).into(),
            openings: 1,
            answered: 1,
            first_sent: now,
            last_sent: now,
            bytes_up: 500,
            bytes_down: 9_000,
            payload_down: 8_000,
        };
        let mut opened = Connection {
            deal_id: self.deal,
            transport: Transport::Tcp,
            source_port: 40_000 + u16::from(host),
            destination: own.destination,
            opened_at: clock,
            end: None,
        };
        let lies = !self.told && second >= LATER;
        let mut records = Vec::new();
        match self.lie.filter(|_| lies) {
            Some(Lie::Adds) => records.push(Connection {
                destination: ([203, 0, 113, 1], 80).into(),
                ..opened
            }),
            Some(Lie::ChangesDestination) => opened.destination.set_port(80),
            _ => {}
        }
        if !(lies && self.lie == Some(Lie::Drops)) {
            let end = ConnectionEnd {
                at: clock,
                bytes_up: 400,
                bytes_down: 8_000,
            };
            records.push(opened);
            records.push(Connection {
                end: Some(end),
                ..opened
            });
        }
        self.told |= lies;
        self.write(records);
        if !(self.told && self.lie == Some(Lie::StaleRoot)) {
            self.root = self.tree.root();
        }
        let traffic = OwnTraffic {
            flows: vec![own],
            ..OwnTraffic::default()
        };
        Some((traffic, self.root))
    }

    fn write(&mut self, records: Vec<Connection>) {
        let first = self.tree.len();
        for record in &records {
            let leaf = connection_leaf(blinding(&KEY.0, self.tree.len()), record);
            self.tree.push(leaf).unwrap();
        }
        self.records += records.len() as u64;
        self.unseen.add(RecordedConnections {
            root: self.tree.root(),
            log_key: KEY,
            first,
            records,
        });
    }
}

fn recorded(seconds: u32, lie: Option<Lie>) -> Simulation {
    let mut simulation = Simulation::recorded(seconds, lie);
    simulation.traffic = 100_000;
    simulation
}

/// One message in five may be lost: each voucher answers a receipt that was looked at.
#[test]
fn an_honest_record_is_looked_at_and_paid() {
    for loss in [0, 9, 5] {
        let mut simulation = recorded(120, None);
        simulation.loss = loss;
        simulation.run(200);
        let ending = simulation.ended();
        assert_eq!(
            ending.reason.cause(),
            EndCause::Completed,
            "{}",
            ending.reason
        );
        let checked = simulation.lease.connections().unwrap();
        assert_eq!(checked.result, CheckResult::Checked);
        let made = simulation.record.as_ref().unwrap().records;
        let all = made - 12..=made;
        assert!(all.contains(&checked.records), "{checked:?} of {made}");
        let answered = simulation.lease.answered().unwrap().message;
        assert!(answered.connections_root != B256::ZERO);
        if loss == 0 {
            assert_eq!(simulation.held, 0, "no voucher was late");
            assert!(ending.report.usage.secs >= 119);
        }
    }
}

/// Each lie ends the lease, with the numbers, and no more is paid than until it was found.
#[test]
fn a_lying_record_is_not_signed_for() {
    for lie in [
        Lie::Adds,
        Lie::ChangesDestination,
        Lie::Drops,
        Lie::StaleRoot,
        Lie::ShowsNothing,
    ] {
        let mut simulation = recorded(600, Some(lie));
        simulation.run(700);
        let ending = simulation.ended();
        let EndReason::Misbehaved(fault) = &ending.reason else {
            panic!("{lie:?}: {}", ending.reason);
        };
        let Misbehaved::Provider(ProviderFault::Connections(fault)) = fault.as_ref() else {
            panic!("{lie:?}: {fault}");
        };
        assert!(
            fault.to_string().chars().any(|c| c.is_ascii_digit()),
            "{fault}"
        );
        assert_eq!(ending.reason.blame(), Blame::Provider);
        let found = simulation.seconds.last().unwrap().elapsed;
        let shown = matches!(lie, Lie::Adds | Lie::ChangesDestination);
        let most = if shown { LATER + 2 } else { LATER + 23 };
        assert!(
            (LATER - 1..=most).contains(&found),
            "{lie:?}: found after {found} s"
        );
        assert_eq!(
            simulation.lease.connections().unwrap().result,
            CheckResult::Wrong
        );
        // What it signed last is from before the lie was shown.
        let answered = simulation.lease.answered().unwrap().message;
        if shown {
            assert!(answered.usage.secs <= LATER, "{lie:?}: {answered:?}");
        }
        let paid = ending.report.amount.0;
        let most = ending.report.usage.secs + 32;
        let full = simulation.deal.terms().full_price_per_second();
        assert!(paid <= u128::from(most) * full.0, "{lie:?}: {paid}");
    }
}

/// A requester whose tunnel is another program's has nothing to compare with.
#[test]
fn without_own_flows_nothing_is_said_to_be_checked() {
    let mut simulation = Simulation::new(20);
    simulation.run(40);
    assert_eq!(simulation.lease.connections(), None);
    assert_eq!(simulation.ended().reason.cause(), EndCause::Completed);
}
