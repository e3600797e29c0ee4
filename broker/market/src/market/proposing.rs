//! From a request to a deal that its provider has signed.

use ipsx_metering::{Address, B256, OfferId, Signature, TypedData, UnixSeconds, keccak256, verify};

use super::refusal::in_short;
use super::{Answered, Asker, Command, Live, Market, Pending, RequestFailure, Ticket};
use crate::avoid::Avoid;
use crate::book::{HoldId, NoMatch};
use crate::check::check_terms;
use crate::deal::{Deal, Proposal, ProviderTerms};
use crate::matching::Wanted;
use crate::messages::BrokerMessage;
use crate::record::{Cause, DealRecord};
use crate::request::SignedRequest;
use crate::status::ProviderStatus;

impl Market {
    /// Proposes a checked request to the best offer. The answer comes as [`Command::Answer`] with this ticket, now or
    /// later. `seed` is random: the deal's salt comes from it.
    pub fn request(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        now: UnixSeconds,
    ) -> Vec<Command> {
        self.ask(Asker::Ticket(ticket), ticket, request, seed, now)
    }

    /// The same for whoever asks.
    pub(super) fn ask(
        &mut self,
        asker: Asker,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let count = request.message.count();
        if self.unstarted(request.message.payer) + count > self.config.unstarted_deals {
            let failure = RequestFailure::TooManyUnstarted(self.config.unstarted_deals);
            return vec![refuse(ticket, failure)];
        }
        if count > 1 {
            return self.request_bundle(ticket, request, seed, now);
        }
        self.propose(asker, request, seed, Vec::new(), now)
            .unwrap_or_else(|none| self.no_match(ticket, *none, now))
    }

    /// A provider signs. The commands answer the request, or ask the next provider when the terms or the signature
    /// do not hold.
    pub fn accept(
        &mut self,
        provider: Address,
        number: u64,
        terms: &ProviderTerms,
        signature: Signature,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let asked = self.pending.get(number);
        let Some(pending) = asked.filter(|p| p.waits_for(provider)) else {
            // The proposal timed out, or was another provider's: nobody waits for it.
            return Vec::new();
        };
        let deal = Deal::new(&pending.proposal, &pending.listing.offer, terms);
        if let Err(reason) = check_terms(terms) {
            return self.try_next(number, &reason.to_string(), now);
        }
        if let Err(reason) = verify(deal.signing_hash(&self.config.domain), &signature, provider) {
            return self.try_next(number, &reason.to_string(), now);
        }
        let listing = &pending.listing;
        let record = DealRecord::new(
            deal,
            &pending.proposal.request.message,
            listing.offer.clone(),
            listing.placement.clone(),
            signature,
            pending.asked_at,
        );
        if self.channel_is_busy(&record) {
            let reason = "you have a lease from it already that pays through the same channel; use another channel_salt";
            return self.try_next(number, reason, now);
        }
        if let Asker::Leg { bundle, .. } = pending.asker {
            self.pending.sign(number, record);
            return self.settle(bundle, "", now);
        }
        let Some(pending) = self.pending.remove(number) else {
            return Vec::new();
        };
        self.propose_deal(pending, record, now)
    }

    /// A provider refuses; the next best offer is asked.
    pub fn decline(
        &mut self,
        provider: Address,
        number: u64,
        reason: &str,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let asked = self.pending.get(number);
        if asked.is_none_or(|p| !p.waits_for(provider)) {
            return Vec::new();
        }
        self.try_next(number, reason, now)
    }

    /// Asks the next best provider for the request of a proposal that came to nothing.
    pub(super) fn try_next(&mut self, number: u64, reason: &str, now: UnixSeconds) -> Vec<Command> {
        let Some(mut pending) = self.pending.remove(number) else {
            return Vec::new();
        };
        let mut commands = match pending.signed.take() {
            Some(record) => self.turn_down(*record, pending.hold, now),
            None => {
                self.book.release(pending.hold);
                Vec::new()
            }
        };
        pending.tried.push(pending.listing.id);
        let (tried, seed) = (pending.tried, pending.seed);
        let request = pending.proposal.request;
        self.resting.wake(request.message.payer);
        let asked = tried.len();
        let failure = RequestFailure::NoneSigned {
            asked,
            reason: in_short(reason),
        };
        let ticket = match pending.asker {
            Asker::Resting(number) => return self.rest_on(number, tried, &failure, now),
            Asker::Leg { bundle, leg } => {
                commands.extend(self.leg_refused((bundle, leg), pending.listing.id, reason, now));
                return commands;
            }
            Asker::Ticket(ticket) | Asker::Probe { ticket, .. } => ticket,
        };
        if asked >= self.config.attempts && self.lets_rest(&request, now) {
            return self.rest(ticket, request, seed, tried, Avoid::default(), now);
        }
        let given_up =
            asked >= self.config.attempts || matches!(pending.asker, Asker::Probe { .. });
        if given_up || now > request.message.expires_at {
            return vec![refuse(ticket, failure)];
        }
        match self.propose(Asker::Ticket(ticket), request, seed, tried, now) {
            Ok(commands) => commands,
            Err(none) if self.lets_rest(&none.request, now) => self.no_match(ticket, *none, now),
            Err(_) => vec![refuse(ticket, failure)],
        }
    }

    /// No offer fits a request that was just posted.
    fn no_match(&mut self, ticket: Ticket, none: Unmatched, now: UnixSeconds) -> Vec<Command> {
        if self.lets_rest(&none.request, now) {
            let Unmatched {
                request,
                seed,
                tried,
                ..
            } = none;
            self.rest(ticket, request, seed, tried, Avoid::default(), now)
        } else {
            vec![refuse(ticket, none.why.into())]
        }
    }

    /// Proposes a request to the best offer that was not tried.
    pub(super) fn propose(
        &mut self,
        asker: Asker,
        request: SignedRequest,
        seed: B256,
        tried: Vec<OfferId>,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, Box<Unmatched>> {
        let hold = HoldId(self.next_number());
        let (filter, leg) = (self.filter_of(asker, &request), asker.leg());
        let wanted = Wanted {
            filter: &filter,
            start: self.start_of(asker, &request),
            ..Wanted::from(&request.message)
        };
        let taken = match asker {
            Asker::Probe { offer, .. } => self.book.take_this(hold, offer, &wanted, now),
            _ => self.book.take(hold, &wanted, now, &tried),
        };
        let mut listing = match taken {
            Ok(listing) => listing,
            Err(why) => {
                return Err(Box::new(Unmatched {
                    request,
                    seed,
                    tried,
                    why,
                }));
            }
        };
        let hours = &listing.offer.weekly_hours;
        let starts_at = wanted.conditions(now).starts_at(hours).unwrap_or(now);
        let which = (tried.len() as u64) << 8 | u64::from(leg);
        let salt = keccak256([seed.as_slice(), &which.to_be_bytes()].concat());
        let exit_address = self.exit_address(&listing, &filter, salt);
        listing.placement.address = exit_address;
        if let Asker::Probe { task, .. } = asker {
            self.leased_for_probe(&task, exit_address);
        }
        let timers = self.config.timers;
        let (sign_by, start_by) = match self.bundle_of(asker) {
            Some(bundle) => (bundle.sign_by, bundle.start_by),
            None => (now.after(timers.sign), starts_at.after(timers.start)),
        };
        let proposal = Proposal {
            request,
            leg,
            offer: listing.id,
            exit_address,
            sign_by,
            starts_at,
            start_by,
            salt,
        };
        let (provider, number) = (listing.offer.provider, self.next_number());
        let message = BrokerMessage::Propose {
            proposal: number,
            terms: Box::new(proposal.clone()),
        };
        if let Asker::Resting(resting) = asker {
            self.resting.ask(resting, number);
        }
        let pending = Pending {
            asker,
            provider,
            listing,
            hold,
            proposal,
            asked_at: now,
            seed,
            tried,
            signed: None,
        };
        self.pending.insert(number, pending);
        Ok(vec![Command::Send {
            provider,
            message: Box::new(message),
        }])
    }

    fn propose_deal(
        &mut self,
        pending: Pending,
        record: DealRecord,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let proposed = record.proposed();
        let mut commands = self.insert_signed(record, pending.hold, now);
        match pending.asker {
            Asker::Ticket(ticket) | Asker::Probe { ticket, .. } => commands.push(Command::Answer {
                ticket,
                answer: Ok(Answered::Deal(Box::new(proposed))),
            }),
            Asker::Resting(number) => commands.extend(self.matched(number, now)),
            // Answered once all of them are signed.
            Asker::Leg { .. } => {}
        }
        commands
    }

    /// A deal that its provider has signed waits for the requester.
    pub(super) fn insert_signed(
        &mut self,
        mut record: DealRecord,
        hold: HoldId,
        now: UnixSeconds,
    ) -> Vec<Command> {
        let moved = record.provider_becomes(ProviderStatus::Accepted, Cause::Signed, now);
        let id = record.deal_id;
        self.insert(Live {
            record,
            hold,
            away_since: None,
            deadline: None,
            unwritten: Vec::new(),
        });
        self.store(id, moved, now)
    }
}

/// A request that no offer fits, with all that belongs to it.
pub(super) struct Unmatched {
    request: SignedRequest,
    seed: B256,
    tried: Vec<OfferId>,
    why: NoMatch,
}

impl Unmatched {
    /// In words.
    pub(super) fn why(&self) -> String {
        self.why.to_string()
    }
}

pub(super) fn refuse(ticket: Ticket, failure: RequestFailure) -> Command {
    Command::Answer {
        ticket,
        answer: Err(failure),
    }
}
