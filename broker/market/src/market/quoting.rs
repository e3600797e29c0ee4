//! What this broker's part of the market has for a request, to be compared with what other brokers have.

use ipsx_metering::{B256, UnixSeconds};

use super::{Market, RequestFailure};
use crate::book::HoldId;
use crate::fleet::Quote;
use crate::matching::Wanted;
use crate::request::Request;
use crate::start::StartWindow;

impl Market {
    /// The best offer for a request, or the best for each of its leases, as far as there are any. Nobody is asked, and
    /// nothing is held.
    pub fn quote(&mut self, request: &Request, now: UnixSeconds) -> Result<Quote, RequestFailure> {
        let count = request.count();
        if count == 1 {
            let wanted = Wanted::from(request);
            let best = self.book.best(&wanted, now, &[])?;
            return Ok(Quote::new(&best, &wanted));
        }
        let (mut most, mut reason) = (Vec::new(), String::new());
        for start in request.start.together(now) {
            let (quotes, why) = self.quote_legs(request, start, now);
            if quotes.len() > most.len() || reason.is_empty() {
                (most, reason) = (quotes, why);
            }
            if most.len() == count {
                break;
            }
        }
        let none = RequestFailure::Incomplete {
            found: 0,
            wanted: count,
            reason,
        };
        Quote::of_several(&most, count).ok_or(none)
    }

    /// The same at one time, lease by lease, and why there are no more.
    fn quote_legs(
        &mut self,
        request: &Request,
        start: StartWindow,
        now: UnixSeconds,
    ) -> (Vec<Quote>, String) {
        let (distinct, mut filter) = (request.bundle.distinct, request.filter.clone());
        distinct.prepare(&mut filter.avoid);
        let (mut quotes, mut holds, mut why) = (Vec::new(), Vec::new(), String::new());
        for _ in 0..request.count() {
            let hold = HoldId(self.next_number());
            let wanted = Wanted {
                filter: &filter,
                start,
                ..Wanted::from(request)
            };
            let mut listing = match self.book.take(hold, &wanted, now, &[]) {
                Ok(listing) => listing,
                Err(none) => {
                    why = none.to_string();
                    break;
                }
            };
            holds.push(hold);
            quotes.push(Quote::new(&listing, &wanted));
            listing.placement.address = self.exit_address(&listing, &filter, B256::ZERO);
            let provider = listing.offer.provider;
            distinct.avoid_like(&mut filter.avoid, &listing.placement, provider);
        }
        for hold in holds {
            self.book.undo(hold);
        }
        (quotes, why)
    }
}

#[cfg(test)]
#[path = "quoting_tests.rs"]
mod tests;
