//! What ends a lease besides the meter, and what a side's word for its end is worth.

use std::time::{Duration, Instant};

use ipsx_market::messages::EndCause;
use ipsx_metering::EndCause as MeterCause;

use super::super::ending::{EndReason, from_meter};
use super::super::event::{LeaseEvent, PaymentPath};
use super::super::exit_check::Verdict;
use super::{Lease, Phase};

/// A tunnel that was silent this long when the broker says that the lease is over, is over.
const SILENCE: Duration = Duration::from_secs(3);
/// A lease of any length survives this much silence, and a longer one a twentieth of itself, up to the second value.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

impl Lease {
    /// Looks for reasons to end that the meter does not know.
    pub(super) fn watch(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.proven_at);
        let over = self.broker_says_over && (self.path == PaymentPath::Broker || silent >= SILENCE);
        if over || silent >= self.patience() {
            self.end(
                EndReason::Cause(EndCause::NoService),
                MeterCause::NoService,
                now,
            );
            return;
        }
        let verdict = self.exit.expire(now);
        self.follow(verdict, now);
        if matches!(self.phase, Phase::Paying) && self.exit.take_due(now) {
            self.events.push_back(LeaseEvent::CheckExit);
        }
    }

    pub(super) fn follow(&mut self, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Unchanged => {}
            Verdict::Proven => {
                self.events
                    .push_back(LeaseEvent::ExitProven(self.deal.exit_address));
                if let Some(order) = self.held.take() {
                    self.sign(&order, now);
                }
            }
            Verdict::Wrong(seen) => {
                self.refusing = true;
                let sold = self.deal.exit_address;
                self.end(
                    EndReason::WrongExit { sold, seen },
                    MeterCause::PayerEnded,
                    now,
                );
            }
            Verdict::Unknown => {
                self.refusing = true;
                self.end(EndReason::ExitUnknown, MeterCause::PayerEnded, now);
            }
        }
    }

    /// What a provider may give as its reason: time and money that this side can count are counted.
    pub(super) fn judge_end(&self, said: EndCause) -> (EndCause, MeterCause) {
        let served = self.meter.usage().secs;
        match said {
            EndCause::Completed if served + 2 >= u64::from(self.deal.seconds) => {
                (said, MeterCause::TimeUp)
            }
            EndCause::BudgetSpent if self.meter.paid() >= self.deal.budget => {
                (said, MeterCause::BudgetSpent)
            }
            EndCause::Unpaid
            | EndCause::CapacityLapsed
            | EndCause::NotStarted
            | EndCause::Restarted => (said, MeterCause::ProviderEnded),
            _ => (EndCause::ProviderEnded, MeterCause::ProviderEnded),
        }
    }

    /// A provider whose count runs on while its tunnel is dead is in dispute; what matters to people is the tunnel.
    pub(super) fn blame_silence(&self, cause: MeterCause, now: Instant) -> EndCause {
        let silent = now.saturating_duration_since(self.proven_at) >= SILENCE;
        if silent && cause == MeterCause::Disputed {
            EndCause::NoService
        } else {
            from_meter(cause)
        }
    }

    pub(super) fn patience(&self) -> Duration {
        let (shortest, longest) = PATIENCE;
        Duration::from_secs(u64::from(self.deal.seconds) / 20).clamp(shortest, longest)
    }
}
