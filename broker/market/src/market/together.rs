//! Leases of one request that are good for anything only together: they are signed at once, and when one is over before
//! all have begun, those that have not begun are over as well.

use ipsx_metering::{Address, DealId, RequestId, Signature, UnixSeconds};

use super::{Command, DealRefusal, Market};
use crate::messages::{BrokerMessage, EndCause};
use crate::record::{Cause, DealRecord};
use crate::status::{DealStatus, RequesterStatus, Side};

/// One of several that is over, and whose others may not have begun.
pub(super) struct Over {
    payer: Address,
    request: RequestId,
    status: DealStatus,
    /// Whether what was prepaid is its provider's.
    lost: bool,
}

impl Over {
    pub(super) fn of(record: &DealRecord) -> Option<Self> {
        let status = record.status();
        (record.together > 0 && status.is_over()).then_some(Self {
            payer: record.deal.payer,
            request: record.deal.request,
            status,
            lost: record.is_lost(),
        })
    }
}

impl Market {
    /// The requester signs several leases of a request at once: all that are good for anything only together.
    pub fn sign_bundle(
        &mut self,
        request: RequestId,
        requester: Address,
        signatures: &[(DealId, Signature)],
        now: UnixSeconds,
    ) -> Result<(), DealRefusal> {
        for (at, (id, signature)) in signatures.iter().enumerate() {
            let record = self.check_signature(*id, requester, *signature, now)?;
            let twice = signatures[..at].iter().any(|(other, _)| other == id);
            if record.deal.request != request || twice {
                return Err(DealRefusal::OtherRequest(*id, request));
            }
            if signatures.len() < usize::from(record.together) {
                return Err(DealRefusal::Together(*id, record.together));
            }
        }
        for (id, signature) in signatures {
            self.signed(*id, *signature, now);
        }
        Ok(())
    }

    /// Of deals of a bundle whose time is up in the same second, the one that is over first: the requester of a lease that
    /// is ready may have waited for a provider of another one that is not.
    pub(super) fn first_to_blame(&self, id: DealId, now: UnixSeconds) -> DealId {
        let Some(record) = self.deal(id).filter(|record| record.together > 0) else {
            return id;
        };
        let legs = self.legs((record.deal.payer, record.deal.request));
        let late = |leg: &DealId| self.late(*leg, now) == Some(Side::Provider);
        legs.into_iter().find(late).unwrap_or(id)
    }

    /// One of several is over: those that have not begun are as well. Nobody is to blame for that, but whose own time is
    /// up, too; each of those is for the clock.
    pub(super) fn part_ways(&mut self, over: Over, now: UnixSeconds) -> Vec<Command> {
        let requesters_fault = matches!(over.status, DealStatus::NoShow | DealStatus::Expired);
        let mut commands = Vec::new();
        for id in self.legs((over.payer, over.request)) {
            let to_blame = match self.late(id, now) {
                Some(Side::Provider) => true,
                Some(Side::Requester) => requesters_fault,
                None => false,
            };
            if !to_blame {
                commands.extend(self.release_leg(id, !over.lost, now));
            }
        }
        commands
    }

    /// The deals of these have come to several brokers: those that have not begun are over, by nobody's fault. None of the
    /// brokers could see to it any more that all of them begin or none does, nor who is to blame if they don't.
    pub(super) fn tear(
        &mut self,
        bundles: impl IntoIterator<Item = (Address, RequestId)>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        for bundle in bundles {
            for id in self.legs(bundle) {
                commands.extend(self.release_leg(id, true, now));
            }
        }
        commands
    }

    /// The deals of a request that are going on.
    pub(super) fn legs(&self, (payer, request): (Address, RequestId)) -> Vec<DealId> {
        let legs = self.deals_by(payer);
        let legs = legs.filter(|record| record.deal.request == request);
        legs.map(|record| record.deal_id).collect()
    }

    /// Which side has said nothing for its limit, in a deal that has not begun.
    fn late(&self, id: DealId, now: UnixSeconds) -> Option<Side> {
        let live = self.deals.get(&id)?;
        let (at, side) = live.silence(&self.config.timers)?;
        (live.record.is_unstarted() && at < now).then_some(side)
    }

    /// Ends a deal that has not begun, by nobody's fault; what was prepaid is spared, unless the requester loses that of the
    /// one that was over first.
    fn release_leg(&mut self, id: DealId, spared: bool, now: UnixSeconds) -> Vec<Command> {
        let Some(live) = self.deals.get_mut(&id) else {
            return Vec::new();
        };
        let record = &mut live.record;
        if !record.is_unstarted() {
            return Vec::new();
        }
        let next = match record.is_bound() {
            true => RequesterStatus::Ended,
            false => RequesterStatus::Failed,
        };
        let end = record.is_bound().then(|| Command::Send {
            provider: record.deal.provider,
            message: Box::new(BrokerMessage::EndLease {
                deal_id: id,
                cause: EndCause::NotStarted,
            }),
        });
        record.spared = spared;
        let moved = record.requester_becomes(next, Cause::Incomplete, now);
        let mut commands = self.write_down(id, moved, now);
        commands.extend(end);
        commands
    }
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
