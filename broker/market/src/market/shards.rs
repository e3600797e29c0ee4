//! Shards that come to this broker and go: the rest of the market goes on meanwhile.

use std::collections::BTreeSet;

use ipsx_metering::{DealId, UnixSeconds};

use super::{Asker, Live, Market, Ticket};
use crate::book::HoldId;
use crate::fleet::ShardId;
use crate::record::DealRecord;

impl Market {
    /// Goes on where the records left it, with every agent away since `now`. Records that are closed, or here already,
    /// are skipped.
    pub fn adopt(&mut self, records: Vec<DealRecord>, now: UnixSeconds) {
        let open = records.into_iter().filter(|r| r.closed_at.is_none());
        for record in open {
            if self.deals.contains_key(&record.deal_id) {
                continue;
            }
            let hold = HoldId(self.next_number());
            self.book.restore(hold, &record.offer, &record.filter);
            self.insert(Live {
                record,
                hold,
                away_since: Some(now),
                deadline: None,
            });
        }
    }

    /// Forgets shards that are other brokers' now: their offers, their deals as they stand, and the requests that wait for
    /// one of their providers, whose tickets are returned.
    pub fn forget(&mut self, gone: &BTreeSet<ShardId>) -> Vec<Ticket> {
        let deals: Vec<DealId> = self
            .deals()
            .filter(|record| gone.contains(&ShardId::of(record)))
            .map(|record| record.deal_id)
            .collect();
        for id in deals {
            self.close(id);
        }
        let is_gone = |country, provider| gone.contains(&ShardId::new(country, provider));
        let asked = self.pending.iter();
        let asked = asked.filter(|(_, p)| is_gone(p.listing.placement.country, p.provider));
        let asked: Vec<_> = asked.map(|(number, _)| number).collect();
        let mut tickets = Vec::new();
        for number in asked {
            if let Some(pending) = self.pending.remove(number) {
                self.book.release(pending.hold);
                match pending.asker {
                    Asker::Ticket(ticket) => tickets.push(ticket),
                    Asker::Resting(number) => {
                        self.resting.rest_on(number, pending.tried);
                        self.resting.wake_one(number);
                    }
                }
            }
        }
        self.book.withdraw_in(is_gone);
        tickets
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
