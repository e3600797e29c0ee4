//! The provider's record of this lease's connections is looked at before it is signed for.

use std::time::{Duration, Instant};

use ipsx_market::payment::PayerMessage;
use ipsx_metering::{
    ConnectionFault, ConnectionPage, ConnectionsChecked, EndCause as MeterCause, OwnConnections,
    OwnReading, ProviderFault, Receipt, Signed, Transport,
};
use ipsx_tunnel_core::{FlowProtocol, OwnFlow, OwnTraffic};

use super::super::ending::EndReason;
use super::super::event::LeaseEvent;
use super::{Lease, Phase};

/// The record is asked for no more often than this.
const ASK_GAP: Duration = Duration::from_millis(200);
/// A tunnel that was silent longer than this shows nothing, for which nobody is to blame yet.
const ALIVE: Duration = Duration::from_secs(3);

impl Lease {
    /// What this side has sent and received since the last time, by flow. Call it before each message of the provider;
    /// not without a tunnel of its own.
    pub fn handle_traffic(&mut self, traffic: OwnTraffic) {
        if let Some(audit) = &mut self.audit {
            audit.handle_traffic(OwnReading {
                connections: traffic.flows.iter().map(own_connections).collect(),
                other_up: traffic.other_up,
                other_down: traffic.other_down,
                incomplete: traffic.incomplete,
            });
        }
    }

    /// What of the provider's connection record was checked before it was signed for; `None` without a tunnel of this
    /// side's own.
    pub fn connections(&self) -> Option<ConnectionsChecked> {
        self.audit.as_ref().map(|audit| audit.report())
    }

    /// The meter took a receipt.
    pub(super) fn audit_receipt(&mut self, receipt: &Signed<Receipt>, now: Instant) {
        if let Some(audit) = &mut self.audit {
            let found = audit.handle_receipt(receipt, now);
            self.follow_audit(found, now);
            self.ask_for_records(now);
        }
    }

    /// The provider shows records.
    pub(super) fn audit_page(&mut self, page: &ConnectionPage, now: Instant) {
        if let Some(audit) = &mut self.audit {
            let found = audit.handle_page(page);
            self.follow_audit(found, now);
        }
    }

    /// One more second has passed.
    pub(super) fn audit_second(&mut self, now: Instant) {
        let alive = now.saturating_duration_since(self.proven_at) < ALIVE;
        if let Some(audit) = &mut self.audit
            && alive
        {
            let found = audit.handle_second();
            self.follow_audit(found, now);
            self.ask_for_records(now);
        }
    }

    fn follow_audit(
        &mut self,
        found: Result<Option<Signed<Receipt>>, ConnectionFault>,
        now: Instant,
    ) {
        match found {
            Ok(Some(receipt)) => self.meter.handle_accepted(receipt, now),
            Ok(None) => {}
            Err(fault) => {
                self.refusing = true;
                self.events
                    .push_back(LeaseEvent::Disputed(fault.to_string()));
                let fault = ProviderFault::from(fault).into();
                let reason = EndReason::Misbehaved(Box::new(fault));
                self.end(reason, MeterCause::Disputed, now);
            }
        }
    }

    fn ask_for_records(&mut self, now: Instant) {
        let wanted = self.audit.as_ref().and_then(|audit| audit.wanted());
        let waited = self.asked_at.is_none_or(|at| now >= at + ASK_GAP);
        if let Some(number) = wanted
            && waited
            && !matches!(self.phase, Phase::Closed)
        {
            self.asked_at = Some(now);
            self.events
                .push_back(LeaseEvent::Send(PayerMessage::Connections(number)));
        }
    }
}

fn own_connections(flow: &OwnFlow) -> OwnConnections {
    OwnConnections {
        transport: match flow.protocol {
            FlowProtocol::Tcp => Transport::Tcp,
            FlowProtocol::Udp => Transport::Udp,
            FlowProtocol::Echo => Transport::Icmp,
        },
        destination: flow.destination,
        openings: flow.openings,
        answered: flow.answered,
        first_sent: flow.first_sent,
        last_sent: flow.last_sent,
        bytes_up: flow.bytes_up,
        bytes_down: flow.bytes_down,
        payload_down: flow.payload_down,
    }
}
