//! What requesters say.

use ipsx_market::avoid::Distinct;
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::http::{
    Connected, EndDeal, Frames, PostRequest, PostWithdrawal, SignBundle, SignDeal, SignIn,
};
use ipsx_market::market::Ticket;
use ipsx_market::record::DealRecord;
use ipsx_market::request::{SignedRequest, TunnelKey};
use ipsx_market::search::OfferQuery;
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, B256, DealId, Reservation, Signed, TypedData, UnixSeconds};

use super::{OFFERS, World, key, requester};

/// Two or three addresses at once, of different providers.
fn bundle(who: u8) -> Bundle {
    let leg = |number: u8| Leg {
        tunnel_key: TunnelKey(B256::repeat_byte(200 + number)),
        channel_salt: B256::repeat_byte(200 + number),
    };
    Bundle {
        legs: (0..=who % 2).map(leg).collect(),
        distinct: Distinct::Provider,
        all_or_nothing: who % 8 < 6,
    }
}

impl World {
    /// A body is read as each that the interface takes, and used where it can be.
    pub(super) fn bodies(&mut self, who: u8, text: &[u8]) {
        let own = requester(who).address();
        if let Ok(body) = serde_json::from_slice::<PostRequest>(text)
            && self.context.request(&body.request, own).is_ok()
        {
            assert_eq!(body.request.message.requester, own);
            self.request(body.request);
        }
        let _ = serde_json::from_slice::<SignDeal>(text);
        let _ = serde_json::from_slice::<SignBundle>(text);
        let _ = serde_json::from_slice::<EndDeal>(text);
        let _ = serde_json::from_slice::<SignIn>(text);
        let _ = serde_json::from_slice::<PostWithdrawal>(text);
        let _ = serde_json::from_slice::<Frames>(text);
        let _ = serde_json::from_slice::<Connected>(text);
        let pairs = std::str::from_utf8(text).unwrap_or_default().split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        if let Ok(query) = OfferQuery::parse(pairs) {
            let again = OfferQuery::parse(query.pairs());
            assert_eq!(again.as_ref(), Ok(&query));
            let (book, now) = (self.market.book(), self.context.now);
            let found = book.page(&query.wanted(), now, query.limit, query.after);
            assert!(found.len() <= query.limit.min(OFFERS));
        }
    }

    pub(super) fn ask(&mut self, who: u8) {
        self.nonce += 1;
        let (wallet, mut message) = (requester(who), self.examples.request.message.clone());
        message.filter = Default::default();
        message.requester = wallet.address();
        message.payer = wallet.address();
        message.nonce = self.nonce;
        message.channel_salt = B256::repeat_byte(who);
        message.seconds = 60;
        message.expires_at = self.context.now.after(3_600);
        message.rest_until = match who {
            128.. => self.context.now.after(u64::from(who)),
            _ => UnixSeconds(0),
        };
        if (64..192).contains(&who) {
            message.start = StartWindow::NOW;
            message.bundle = bundle(who);
        }
        let request = SignedRequest::sign(message, &self.context.domain, &wallet, &wallet);
        self.context.request(&request, wallet.address()).unwrap();
        self.request(request);
    }

    fn request(&mut self, request: SignedRequest) {
        self.nonce += 1;
        let (ticket, now) = (Ticket(self.nonce), self.context.now);
        let seed = B256::from(ipsx_metering::U256::from(self.nonce));
        let commands = self.market.request(ticket, request, seed, now);
        self.run(commands);
    }

    pub(super) fn sign(&mut self, who: u8, which: u8) {
        let (id, wallet) = (self.pick(which), requester(who));
        let Some(record) = self.records.get(&id) else {
            return;
        };
        let (theirs, hash) = (
            record.deal.requester,
            record.deal.signing_hash(&self.context.domain),
        );
        let (own, now) = (wallet.address(), self.context.now);
        let legs = self.legs(id).into_iter();
        let signatures: Vec<_> = legs
            .map(|leg| {
                let hash = leg.deal.signing_hash(&self.context.domain);
                (leg.deal_id, wallet.sign_hash(hash))
            })
            .collect();
        let done = match signatures.len() {
            0 | 1 => self.market.sign(id, own, wallet.sign_hash(hash), now),
            _ => {
                let request = record.deal.request;
                self.market.sign_bundle(request, own, &signatures, now)
            }
        };
        self.moved(done.map(|()| Vec::new()), Some(theirs), own);
    }

    /// The deals that are good for anything only together with one, itself included.
    pub(super) fn legs(&self, id: DealId) -> Vec<&DealRecord> {
        let known = self.records.get(&id).filter(|record| record.together > 0);
        let others = self
            .market
            .deals()
            .filter(|other| known.is_some_and(|record| record.deal.request == other.deal.request));
        others.collect()
    }

    pub(super) fn bind(&mut self, which: u8) {
        let (id, now) = (self.pick(which), self.context.now);
        if which.is_multiple_of(8) {
            let commands = self.market.give_up(id, now);
            return self.run(commands);
        }
        let mut legs: Vec<_> = self.legs(id).iter().map(|leg| leg.deal_id).collect();
        if legs.is_empty() {
            legs.push(id);
        }
        let bound = |leg: &DealId| self.market.may_bind(*leg, now).is_ok();
        if legs.iter().all(bound) {
            legs.into_iter().for_each(|leg| self.bind_one(leg));
        }
    }

    fn bind_one(&mut self, id: DealId) {
        let now = self.context.now;
        let record = self.market.may_bind(id, now).unwrap();
        let outcome = Outcome {
            deal_id: id,
            outcome: Binding::Bound,
        };
        let reservation = Reservation {
            channel_id: record.deal.channel().id(),
            capacity: Amount(1),
            valid_until: now.after(3_600),
        };
        let (domain, operator) = (self.context.domain, key(99));
        let outcome = Signed::sign(outcome, &domain, &operator);
        let reservation = Signed::sign(reservation, &domain, &operator);
        let bound = self
            .market
            .bind(id, outcome, reservation, Amount::ZERO, None, now);
        self.run(bound.unwrap());
    }
}
