//! Taking an offer for each lease, or none if there are too few.

use ipsx_metering::{B256, OfferId, UnixSeconds};

use super::super::{Asker, Command, Market, Pending, RequestFailure};
use super::{Bundling, Leg, Waits};
use crate::avoid::{Avoid, Distinct};
use crate::request::SignedRequest;
use crate::sold::sold_at;

/// The book has too few offers for a request: nobody was asked.
#[derive(Default)]
pub(super) struct TooFew {
    pub(super) found: usize,
    /// What is not distinct from these, if nothing like them is of any use.
    pub(super) like: Avoid,
    /// How often the book was searched.
    pub(super) searches: usize,
    /// Why there are no more.
    reason: String,
}

impl TooFew {
    pub(super) fn failure(self, wanted: usize) -> RequestFailure {
        RequestFailure::Incomplete {
            found: self.found,
            wanted,
            reason: self.reason,
        }
    }
}

impl Market {
    /// Asks a provider for each leg, and returns by which number all of them are known and how often the book was searched; or
    /// asks nobody, if there are too few offers. All legs start in the first second for which there are enough.
    pub(super) fn ask_for_all(
        &mut self,
        waits: Waits,
        request: &SignedRequest,
        seed: B256,
        tried: &[OfferId],
        now: UnixSeconds,
    ) -> Result<(u64, usize, Vec<Command>), TooFew> {
        let timers = self.config.timers;
        let asked = now.after(timers.propose * self.config.attempts as u64);
        let sign_by = asked.after(timers.sign);
        let (mut most, mut searches) = (TooFew::default(), 0);
        for start in request.message.start.together(now) {
            let start_by = start.earliest.max(asked).after(timers.start);
            let bundling = Bundling {
                waits,
                request: request.clone(),
                seed,
                start,
                sign_by,
                start_by: start_by.max(sign_by),
                legs: vec![Leg::default(); request.message.count()],
                tried: tried.to_vec(),
            };
            match self.ask_for(bundling, now) {
                Ok((bundle, commands)) => {
                    let count = request.message.count();
                    return Ok((bundle, searches + count, commands));
                }
                Err(few) => {
                    searches += few.searches;
                    if few.found > most.found || most.reason.is_empty() {
                        most = few;
                    }
                }
            }
        }
        if !request.message.start.is_now() {
            // What one second has enough of already may be what another one lacks.
            most.like = Avoid::default();
        }
        Err(TooFew { searches, ..most })
    }

    /// The same at one time.
    fn ask_for(
        &mut self,
        bundling: Bundling,
        now: UnixSeconds,
    ) -> Result<(u64, Vec<Command>), TooFew> {
        let (count, bundle) = (bundling.legs.len(), self.next_number());
        let all_or_nothing = bundling.is_all_or_nothing();
        self.bundles.insert(bundle, bundling);
        let mut commands = Vec::new();
        for leg in 0..count as u8 {
            match self.ask_for_leg(bundle, leg, now) {
                Ok(asked) => commands.extend(asked),
                Err(reason) if all_or_nothing || leg == 0 => {
                    return Err(self.undo_bundle(bundle, reason));
                }
                // What does not fit this one fits none after it.
                Err(_) => break,
            }
        }
        Ok((bundle, commands))
    }

    pub(super) fn ask_for_leg(
        &mut self,
        bundle: u64,
        leg: u8,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, String> {
        let Some(bundling) = self.bundles.get(&bundle) else {
            return Ok(Vec::new());
        };
        let (request, seed) = (bundling.request.clone(), bundling.seed);
        let (asker, tried) = (Asker::Leg { bundle, leg }, bundling.tried.clone());
        let commands = self.propose(asker, request, seed, tried, now);
        let commands = commands.map_err(|none| none.why())?;
        let proposal = self.counter;
        if let Some(bundling) = self.bundles.get_mut(&bundle)
            && let Some(leg) = bundling.legs.get_mut(usize::from(leg))
        {
            leg.asked += 1;
            leg.proposal = Some(proposal);
        }
        Ok(commands)
    }

    /// Takes back what nobody has heard of.
    fn undo_bundle(&mut self, bundle: u64, reason: String) -> TooFew {
        let (mut found, mut like) = (0, Avoid::default());
        if let Some(bundling) = self.bundles.remove(&bundle) {
            let distinct = bundling.request.message.bundle.distinct;
            distinct.prepare(&mut like);
            for number in bundling.proposals() {
                let Some(pending) = self.pending.remove(number) else {
                    continue;
                };
                self.book.undo(pending.hold);
                found += 1;
                // An offer of several addresses may give another one next time, and another offer this one.
                if distinct != Distinct::Address || !pending.is_of_several() {
                    let placement = &pending.listing.placement;
                    distinct.avoid_like(&mut like, placement, pending.provider);
                }
            }
        }
        TooFew {
            found,
            like,
            searches: found + 1,
            reason,
        }
    }
}

impl Pending {
    /// Whether the offer sells several addresses.
    fn is_of_several(&self) -> bool {
        let address = self.listing.placement.address;
        sold_at(&self.listing.offer.prefixes, address) != address.into()
    }
}
