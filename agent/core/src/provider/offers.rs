//! The offers that this provider stands by: the current one, and earlier ones until they expire.

use ipsx_market::offer::Offer;
use ipsx_metering::{OfferId, UnixSeconds};

use super::settings::Settings;

/// How long an offer is good for. Long enough to outlast a broker's night, short enough that terms of a program
/// that is gone do not linger.
const LIFETIME: u64 = 6 * 3600;
/// A new offer replaces the current one when this much of its lifetime is left.
const RENEW_BEFORE: u64 = LIFETIME / 2;

/// The offers of one run of the program.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// Newest last.
    live: Vec<(OfferId, Offer)>,
    last_nonce: u64,
}

impl Offers {
    /// The offer to have in the book now: the current one while it is fresh, else a new one.
    pub(crate) fn current(&mut self, settings: &Settings, now: UnixSeconds) -> &(OfferId, Offer) {
        self.live.retain(|(_, offer)| offer.expires_at > now);
        let fresh = self
            .live
            .last()
            .is_some_and(|(_, offer)| offer.expires_at.since(now) > RENEW_BEFORE);
        if !fresh {
            // Wall-clock seconds also outnumber the offers of earlier runs; the counter covers a clock set back.
            let nonce = now.0.max(self.last_nonce + 1);
            self.last_nonce = nonce;
            let offer = settings.terms.offer(settings, nonce, now.after(LIFETIME));
            self.live.push((offer.id(), offer));
        }
        &self.live[self.live.len() - 1]
    }

    /// The offer with this id, if it is this provider's and has not expired.
    pub(crate) fn get(&self, id: OfferId, now: UnixSeconds) -> Option<&Offer> {
        self.live
            .iter()
            .find(|(other, offer)| *other == id && offer.expires_at > now)
            .map(|(_, offer)| offer)
    }

    /// The newest offer's id, if there is one.
    pub(crate) fn newest(&self) -> Option<OfferId> {
        self.live.last().map(|(id, _)| *id)
    }

    /// Stops standing by every offer.
    pub(crate) fn clear(&mut self) -> Option<OfferId> {
        let newest = self.newest();
        self.live.clear();
        newest
    }

    /// When the current offer has to be replaced.
    pub(crate) fn renew_at(&self) -> Option<UnixSeconds> {
        let (_, offer) = self.live.last()?;
        Some(UnixSeconds(offer.expires_at.0.saturating_sub(RENEW_BEFORE)))
    }
}
