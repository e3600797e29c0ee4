//! What happens when nobody says anything.

use ipsx_metering::{DealId, UnixSeconds};

use super::{Command, Market};
use crate::messages::BrokerMessage;
use crate::record::Cause;
use crate::status::{ProviderStatus, RequesterStatus, Side};

/// Deals that run out at once: what comes of them is written together, and others wait for it.
const AT_ONCE: usize = 32;

impl Market {
    /// The first second at which [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<UnixSeconds> {
        // Every limit is the last second that still counts.
        let after = |last: UnixSeconds| last.after(1);
        let deal = self.deadlines.first().map(|(at, _)| after(*at));
        let proposal = self.proposal_deadlines().map(|(at, _)| after(at)).min();
        let offer = self.book.next_expiry().map(after);
        let proof = self.proofs.next_end().map(after);
        let times = [
            deal,
            proposal,
            offer,
            proof,
            self.resting_timeout(),
            self.reach.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// Lets what has run out by `now` run out. Of many deals it is a part; [`Self::poll_timeout`] says that there are more.
    pub fn handle_timeout(&mut self, now: UnixSeconds) -> Vec<Command> {
        self.book.expire(now);
        let mut commands = self.lapse_proofs(now);
        let late: Vec<_> = self
            .proposal_deadlines()
            .filter(|(at, _)| *at < now)
            .collect();
        for (_, number) in late {
            commands.extend(self.try_next(number, "it did not answer", now));
        }
        for _ in 0..AT_ONCE {
            let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at < now) else {
                break;
            };
            commands.extend(self.time_is_up(id, at, now));
        }
        commands.extend(self.rest_is_over(now));
        commands.extend(self.try_endpoints(now));
        commands
    }

    fn proposal_deadlines(&self) -> impl Iterator<Item = (UnixSeconds, u64)> {
        let limit = self.config.timers.propose;
        let asked = self.pending.iter().filter(|(_, p)| p.signed.is_none());
        asked.map(move |(number, p)| (p.asked_at.after(limit), number))
    }

    /// A side of this deal has said nothing for its limit.
    fn time_is_up(&mut self, id: DealId, at: UnixSeconds, now: UnixSeconds) -> Vec<Command> {
        let timers = self.config.timers;
        let id = self.first_to_blame(id, now);
        let Some(live) = self.deals.get_mut(&id) else {
            self.deadlines.remove(&(at, id));
            return Vec::new();
        };
        let (deadline, away) = (live.silence(&timers), live.away_since);
        let record = &mut live.record;
        let was_over = record.status().is_over();
        let gone = away.is_some_and(|since| since.after(timers.grace) < now);
        let moved = match deadline {
            Some((_, Side::Provider)) => {
                let cause = if gone {
                    Cause::Disconnected
                } else {
                    Cause::Deadline
                };
                record.provider_becomes(ProviderStatus::Silent, cause, now)
            }
            Some((_, Side::Requester)) => {
                record.requester_becomes(RequesterStatus::Silent, Cause::Deadline, now)
            }
            None => None,
        };
        if moved.is_none() {
            // The table keeps how the deal came out; it is only no longer waited for.
            record.closed_at = Some(now);
        }
        let provider = record.deal.provider;
        let end = (!was_over && record.is_bound() && record.status().is_over())
            .then_some(record.cause)
            .flatten();
        let mut commands = self.store(id, moved, now);
        if let Some(cause) = end {
            let message = BrokerMessage::EndLease { deal_id: id, cause };
            commands.push(Command::Send {
                provider,
                message: Box::new(message),
            });
        }
        commands
    }

    /// Sets a deal's timer to what its state asks for.
    pub(super) fn reschedule(&mut self, id: DealId) {
        let timers = self.config.timers;
        let Some(live) = self.deals.get_mut(&id) else {
            return;
        };
        if let Some(old) = live.deadline.take() {
            self.deadlines.remove(&(old, id));
        }
        live.deadline = live.silence(&timers).map(|(at, _)| at);
        if let Some(at) = live.deadline {
            self.deadlines.insert((at, id));
        }
    }
}
