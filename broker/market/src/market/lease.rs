//! From a bound deal to its end.

use std::collections::{BTreeSet, HashMap};

use ipsx_metering::{Address, Amount, DealId, Reservation, Signed, UnixSeconds};

use super::together::Over;
use super::{Command, DealRefusal, Market};
use crate::messages::{BrokerMessage, EndCause, EndReport, Ready};
use crate::proof::Report;
use crate::record::{Cause, DealRecord, Transition};
use crate::status::{ProviderStatus, RequesterStatus};

impl Market {
    /// The provider's peer is open.
    pub fn ready(
        &mut self,
        provider: Address,
        id: DealId,
        ready: Ready,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.of_provider(provider, id)?;
        if record.is_bound() && record.provider == ProviderStatus::Ready {
            // Said again after a reconnection, perhaps with another endpoint.
            record.ready = Some(ready);
            return Ok(self.store(id, None, now));
        }
        let bound = record.is_bound() && !record.status().is_over();
        let moved = bound
            .then(|| record.provider_becomes(ProviderStatus::Ready, Cause::PeerOpen, now))
            .flatten();
        if moved.is_none() {
            return Err(state(record, "ready"));
        }
        record.ready = Some(ready);
        record.ready_at = Some(now);
        Ok(self.store(id, moved, now))
    }

    /// The first voucher is stored: the requester's tunnel is up, whether it said so or not.
    pub fn serving(
        &mut self,
        provider: Address,
        id: DealId,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.of_provider(provider, id)?;
        if record.provider == ProviderStatus::Serving && !record.status().is_over() {
            return Ok(Vec::new());
        }
        if record.status().is_over() {
            return Err(state(record, "serving"));
        }
        let moved = record.provider_becomes(ProviderStatus::Serving, Cause::FirstVoucher, now);
        if moved.is_none() {
            return Err(state(record, "serving"));
        }
        let connected =
            record.requester_becomes(RequesterStatus::Connected, Cause::FirstVoucher, now);
        let (sold, salt) = (record.deal.exit_address, record.deal.salt);
        self.lease_began(provider, sold, &salt, now);
        Ok(self.store(id, moved.into_iter().chain(connected), now))
    }

    /// The requester's tunnel is up.
    pub fn connected(
        &mut self,
        requester: Address,
        id: DealId,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.of_requester(requester, id)?;
        let open = matches!(
            record.provider,
            ProviderStatus::Ready | ProviderStatus::Serving
        );
        if record.requester == RequesterStatus::Connected && !record.status().is_over() {
            return Ok(Vec::new());
        }
        let moved = (open && !record.status().is_over())
            .then(|| record.requester_becomes(RequesterStatus::Connected, Cause::TunnelUp, now))
            .flatten();
        match moved {
            None => Err(state(record, "connected")),
            moved => Ok(self.store(id, moved, now)),
        }
    }

    /// Whether a deal may get a higher or longer reservation.
    pub fn may_renew(&self, provider: Address, id: DealId) -> Result<&DealRecord, DealRefusal> {
        let record = self.deal(id).ok_or(DealRefusal::Unknown(id))?;
        if record.deal.provider != provider {
            return Err(DealRefusal::NotYours(id));
        }
        if !record.is_bound() || record.status().is_over() {
            return Err(state(record, "renewed"));
        }
        Ok(record)
    }

    /// The deal's channel has paid `cumulative`: before the first voucher of this deal, all of it was for others.
    pub fn learn_paid_before(&mut self, id: DealId, cumulative: Amount) {
        if let Some(live) = self.deals.get_mut(&id) {
            live.record.learn_paid_before(cumulative);
        }
    }

    /// A higher or longer reservation, written down by the caller already, is released.
    pub fn renewed(
        &mut self,
        id: DealId,
        reservation: Signed<Reservation>,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let live = self.deals.get_mut(&id).ok_or(DealRefusal::Unknown(id))?;
        let record = &mut live.record;
        if !record.is_bound() || record.status().is_over() {
            return Err(state(record, "renewed"));
        }
        record.reservation = Some(reservation.clone());
        let provider = record.deal.provider;
        let message = BrokerMessage::ReservationRenewed {
            deal_id: id,
            reservation,
        };
        let mut commands = self.store(id, None, now);
        commands.push(Command::Send {
            provider,
            message: Box::new(message),
        });
        Ok(commands)
    }

    /// The provider ended the lease, or gives its last word on one that is over.
    ///
    /// Ending early, losing its state, or never having been ready is its failure; anything else is an end.
    pub fn provider_ended(
        &mut self,
        provider: Address,
        id: DealId,
        report: EndReport,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.of_provider(provider, id)?;
        let cause = Cause::Reported(report.cause);
        let broke = matches!(report.cause, EndCause::ProviderEnded | EndCause::Restarted)
            || record.provider == ProviderStatus::Accepted;
        let wish = if broke {
            ProviderStatus::Failed
        } else {
            ProviderStatus::Ended
        };
        let other = if broke {
            ProviderStatus::Ended
        } else {
            ProviderStatus::Failed
        };
        let was_over = record.status().is_over();
        let moved = record.provider_becomes(wish, cause, now).or_else(|| {
            // How it came out is settled: the report is the last word, under the name that keeps it so.
            was_over
                .then(|| record.provider_becomes(other, cause, now))
                .flatten()
        });
        if record.provider_report.is_none() && record.is_bound() {
            record.provider_report = Some(report);
        }
        Ok(self.store(id, moved, now))
    }

    /// The requester ended the lease, refuses to sign, or gives its last word on one that is over.
    pub fn requester_ended(
        &mut self,
        requester: Address,
        id: DealId,
        report: EndReport,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, DealRefusal> {
        let record = self.of_requester(requester, id)?;
        let cause = if record.is_bound() {
            Cause::Reported(report.cause)
        } else {
            Cause::Withdrew
        };
        let broke = report.cause == EndCause::Restarted;
        let next = match record.requester {
            RequesterStatus::Requested | RequesterStatus::Accepted => RequesterStatus::Failed,
            RequesterStatus::Connected if broke => RequesterStatus::Failed,
            _ => RequesterStatus::Ended,
        };
        let was_over = record.status().is_over();
        let end_cause = report.cause;
        let moved = record.requester_becomes(next, cause, now);
        // Whoever has not paid has not looked either.
        let looked = record.provider == ProviderStatus::Serving || was_over;
        let wrong_exit = end_cause == EndCause::WrongExit && record.is_bound() && looked;
        let told_first = record.requester_report.is_none();
        if told_first && record.is_bound() {
            record.requester_report = Some(report);
        }
        let (sold, payer) = (record.deal.exit_address, record.deal.payer);
        let provider = record.deal.provider;
        let tell = (!was_over && record.is_bound() && record.status().is_over())
            .then_some(record.deal.provider);
        let mut commands = self.store(id, moved, now);
        if wrong_exit && told_first {
            let report = Report {
                deal: id,
                payer,
                at: now,
            };
            commands.extend(self.exit_reported(provider, sold, report));
        }
        if let Some(provider) = tell {
            let message = BrokerMessage::EndLease {
                deal_id: id,
                cause: end_cause,
            };
            commands.push(Command::Send {
                provider,
                message: Box::new(message),
            });
        }
        Ok(commands)
    }

    /// Writes a deal down, with what moved it, and what follows from it for others of its bundle.
    pub(super) fn store(
        &mut self,
        id: DealId,
        moved: impl IntoIterator<Item = Transition>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let over = self.deal(id).and_then(Over::of);
        let mut commands = self.write_down(id, moved, now);
        if let Some(over) = over {
            commands.extend(self.part_ways(over, now));
        }
        commands
    }

    /// Writes a deal down; gives its capacity back when nothing more is awaited.
    pub(super) fn write_down(
        &mut self,
        id: DealId,
        moved: impl IntoIterator<Item = Transition>,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let Some(live) = self.deals.get_mut(&id) else {
            return Vec::new();
        };
        let mut transitions = std::mem::take(&mut live.unwritten);
        transitions.extend(moved);
        let record = &mut live.record;
        let over = record.status().is_over();
        let aborts = over && !record.is_bound();
        if over && (aborts || record.provider.is_final()) {
            record.closed_at = Some(now);
        }
        let (deal_id, provider) = (record.deal_id, record.deal.provider);
        let channel = record.deal.channel();
        let forfeited = record.forfeit().cloned();
        let mut commands = Vec::new();
        if let Some(voucher) = forfeited {
            commands.push(Command::Forfeit {
                channel: Box::new(channel),
                voucher: Box::new(voucher.clone()),
            });
            let message = BrokerMessage::Forfeited { deal_id, voucher };
            commands.push(Command::Send {
                provider,
                message: Box::new(message),
            });
        }
        let stored = record.clone();
        if !stored.is_unstarted() {
            // One unstarted deal less: this payer's resting requests may ask again.
            self.resting.wake(stored.deal.payer);
        }
        if stored.closed_at.is_some() {
            self.close(id);
        } else {
            self.reschedule(id);
        }
        commands.push(Command::Store {
            record: Box::new(stored),
            transitions,
        });
        if aborts {
            commands.push(Command::Abort {
                provider,
                deal_id: id,
            });
        }
        commands
    }

    /// Forgets a deal and frees what it held.
    pub(super) fn close(&mut self, id: DealId) {
        let Some(live) = self.deals.remove(&id) else {
            return;
        };
        self.book.release(live.hold);
        if let Some(deadline) = live.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        let deal = &live.record.deal;
        forget(&mut self.by_provider, deal.provider, id);
        forget(&mut self.by_payer, deal.payer, id);
    }

    fn of_provider(
        &mut self,
        provider: Address,
        id: DealId,
    ) -> Result<&mut DealRecord, DealRefusal> {
        let live = self.deals.get_mut(&id).ok_or(DealRefusal::Unknown(id))?;
        if live.record.deal.provider == provider {
            Ok(&mut live.record)
        } else {
            Err(DealRefusal::NotYours(id))
        }
    }

    fn of_requester(
        &mut self,
        requester: Address,
        id: DealId,
    ) -> Result<&mut DealRecord, DealRefusal> {
        let live = self.deals.get_mut(&id).ok_or(DealRefusal::Unknown(id))?;
        if live.record.deal.requester == requester {
            Ok(&mut live.record)
        } else {
            Err(DealRefusal::NotYours(id))
        }
    }
}

fn forget(index: &mut HashMap<Address, BTreeSet<DealId>>, of: Address, id: DealId) {
    if let Some(own) = index.get_mut(&of) {
        own.remove(&id);
        if own.is_empty() {
            index.remove(&of);
        }
    }
}

/// What an agent must know of a deal and may have missed: that it is bound, or that it is over.
pub(super) fn remind(record: &DealRecord) -> Vec<Command> {
    let provider = record.deal.provider;
    let messages = if record.status().is_over() {
        last_words(record)
    } else {
        bound(record).into_iter().collect()
    };
    let send = |message| Command::Send {
        provider,
        message: Box::new(message),
    };
    messages.into_iter().map(send).collect()
}

fn bound(record: &DealRecord) -> Option<BrokerMessage> {
    if record.provider != ProviderStatus::Accepted {
        return None;
    }
    Some(BrokerMessage::DealBound {
        deal: Box::new(record.deal.clone()),
        requester_signature: record.requester_signature?,
        outcome: record.outcome.clone()?,
        reservation: record.reservation.clone()?,
    })
}

fn last_words(record: &DealRecord) -> Vec<BrokerMessage> {
    let deal_id = record.deal_id;
    let waits = record.is_bound() && !record.provider.is_final();
    let Some(cause) = record.cause.filter(|_| waits) else {
        return Vec::new();
    };
    let forfeited = record.prepaid.clone().filter(|_| record.forfeited);
    let forfeited = forfeited.map(|voucher| BrokerMessage::Forfeited { deal_id, voucher });
    let end = BrokerMessage::EndLease { deal_id, cause };
    forfeited.into_iter().chain([end]).collect()
}

fn state(record: &DealRecord, wanted: &'static str) -> DealRefusal {
    DealRefusal::State {
        deal_id: record.deal_id,
        status: record.status(),
        wanted,
    }
}
