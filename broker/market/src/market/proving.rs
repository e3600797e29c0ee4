//! Which offers are for sale, by what is known of their addresses, and how that is found out.

use std::net::IpAddr;

use ipsx_metering::{Address, B256, UnixSeconds};

use super::{Asker, Command, Market, Ticket};
use crate::book::{Listing, PlaceError};
use crate::messages::BrokerMessage;
use crate::offer::{Offer, Placement};
use crate::proof::{
    Offered, PATIENCE, ProbeOrder, ProbeOutcome, Proof, Proofs, REMEMBERED, Report, Sighting,
    Subject, Task, Withheld, is_followed,
};
use crate::request::SignedRequest;

/// What a prober says is about no probe that is under way, or is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeRefusal {
    /// It was never asked for, is over, or came too late.
    #[error("no such probe is under way; it may have come too late")]
    Unknown,
    /// No lease was taken for it.
    #[error("the probe has not leased anything, so it can't have seen an exit")]
    NotLeased,
    /// The echo is not the operator's word on this probe.
    #[error("the echo is not this network's answer to this probe")]
    Echo,
}

/// An offer is in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where, with what was measured.
    pub placement: Placement,
    /// Why it is not for sale yet; absent when it is.
    pub withheld: Option<Withheld>,
}

impl Market {
    /// Asks for proofs by these rules, and goes on with what is known already.
    pub fn with_proofs(mut self, proofs: Proofs) -> Self {
        self.proofs = proofs;
        self
    }

    /// What other brokers have found out meanwhile.
    pub fn learn_proofs(
        &mut self,
        known: impl IntoIterator<Item = (Subject, Proof)>,
        now: UnixSeconds,
    ) {
        self.proofs.learn(known, now);
    }

    /// What is known of addresses.
    pub fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// Puts an offer of a connected agent into the book; the caller has [checked](crate::check) it. It is for sale at
    /// once if its address needs no proof or has one.
    pub fn place(
        &mut self,
        offer: Offer,
        mut placement: Placement,
        now: UnixSeconds,
    ) -> Result<Placed, PlaceError> {
        let subject = Subject::of(&offer, placement.address);
        if let Some(proof) = self.proofs.get(&subject) {
            proof.complete(&mut placement);
        }
        placement.measured.reachability = self.reach.found(offer.provider);
        let withheld = self.proofs.withheld(&subject, now);
        let listing = Listing {
            id: offer.id(),
            offer,
            placement: placement.clone(),
        };
        self.book.put_as(listing, withheld.is_none())?;
        self.proofs.offered(subject, now);
        Ok(Placed {
            placement,
            withheld,
        })
    }

    /// The next probe that is due, for whoever asks for one. `id` and `nonce` are random.
    pub fn next_probe(&mut self, id: B256, nonce: B256, now: UnixSeconds) -> Option<ProbeOrder> {
        self.proofs.give_up(now);
        let (book, proofs) = (&self.book, &self.proofs);
        let drawn = proofs.draw(&id) as usize;
        // Any of those that the proof is for.
        let offered = |subject: &Subject| {
            let mut offers = book.offers_at(subject.provider, subject.address);
            offers.retain(|listing| Subject::of(&listing.offer, subject.address) == *subject);
            if offers.is_empty() {
                return Offered::Gone;
            }
            offers.retain(|listing| book.has_free_lease(listing.id));
            offers.sort_unstable_by_key(|listing| listing.id);
            let chosen = drawn % offers.len().max(1);
            match offers.into_iter().nth(chosen) {
                Some(listing) => Offered::Free(listing),
                None => Offered::Busy,
            }
        };
        let (subject, listing) = self.proofs.take_due(now, offered)?;
        let offer = listing.id;
        let until = now.after(PATIENCE);
        let task = Task {
            subject,
            offer,
            nonce,
            until,
            sold: None,
        };
        self.proofs.begin(id, task);
        Some(ProbeOrder {
            task: id,
            nonce,
            offer,
            provider: subject.provider,
            country: listing.placement.country,
            prices: listing.offer.prices,
            min_seconds: listing.offer.min_seconds,
            max_seconds: listing.offer.max_seconds,
            until,
        })
    }

    /// Proposes a checked request to the offer that a probe is for, whether it is for sale or not; its provider can't
    /// tell it from any other.
    pub fn request_for_probe(
        &mut self,
        ticket: Ticket,
        request: SignedRequest,
        seed: B256,
        task: B256,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, ProbeRefusal> {
        let known = self.proofs.task_mut(&task);
        let known = known.filter(|task| now <= task.until && task.sold.is_none());
        let offer = known.ok_or(ProbeRefusal::Unknown)?.offer;
        let asker = Asker::Probe {
            ticket,
            task,
            offer,
        };
        Ok(self.ask(asker, ticket, request, seed, now))
    }

    /// Notes what a probe's lease is sold, so that what it sees can be compared.
    pub(super) fn leased_for_probe(&mut self, task: &B256, sold: IpAddr) {
        if let Some(task) = self.proofs.task_mut(task) {
            task.sold = Some(sold);
        }
    }

    /// Takes what a probe found out, whose echo's signature the caller has checked. `place` says where addresses are;
    /// `draw` is random.
    pub fn probed(
        &mut self,
        id: B256,
        outcome: ProbeOutcome,
        place: impl Fn(IpAddr) -> Placement,
        draw: u64,
        now: UnixSeconds,
    ) -> Result<(Proof, Vec<Command>), ProbeRefusal> {
        let task = self.proofs.task_mut(&id).cloned();
        let task = task.filter(|task| now <= task.until);
        let task = task.ok_or(ProbeRefusal::Unknown)?;
        let (subject, rules) = (task.subject, self.proofs.rules);
        let changed = match outcome {
            ProbeOutcome::Missed { .. } => {
                self.proofs.finish(&id);
                self.change_proof(subject, now, |proof| {
                    proof.missed(now, draw);
                    true
                })
            }
            ProbeOutcome::Silent { .. } => {
                task.sold.ok_or(ProbeRefusal::NotLeased)?;
                self.proofs.finish(&id);
                let answers = self.proofs.answers();
                self.change_proof(subject, now, |proof| {
                    let others = |since| answers.of_others(subject.provider, since);
                    proof.silent(others, now, draw);
                    true
                })
            }
            ProbeOutcome::Seen { echo, timed } => {
                let sold = task.sold.ok_or(ProbeRefusal::NotLeased)?;
                let echo = echo.message;
                let own = echo.network == self.config.network && echo.nonce == task.nonce;
                if !own || echo.at > task.until {
                    return Err(ProbeRefusal::Echo);
                }
                self.proofs.finish(&id);
                self.proofs.answered(subject.provider, now);
                let seen = place(echo.seen.to_canonical());
                let sighting = Sighting::new(now, sold, seen, &place(subject.address), timed);
                self.change_proof(subject, now, |proof| {
                    if sighting.disagreement.is_none() {
                        proof.measure(&timed);
                    }
                    proof.seen(sighting, &subject, &rules, now, draw);
                    true
                })
            }
        };
        changed.ok_or(ProbeRefusal::Unknown)
    }

    /// A customer ended its lease because it saw another address than it was sold.
    pub(super) fn exit_reported(
        &mut self,
        provider: Address,
        sold: IpAddr,
        report: Report,
    ) -> Vec<Command> {
        let Some(subject) = self.subject(provider, sold) else {
            return Vec::new();
        };
        let draw = self.proofs.draw(&report.deal.0);
        let changed = self.change_proof(subject, report.at, |proof| proof.reported(report, draw));
        changed.map_or_else(Vec::new, |(_, commands)| commands)
    }

    /// A lease began: now and then a probe follows it.
    pub(super) fn lease_began(
        &mut self,
        provider: Address,
        sold: IpAddr,
        salt: &B256,
        now: UnixSeconds,
    ) {
        let draw = self.proofs.draw(salt);
        if !is_followed(draw) {
            return;
        }
        if let Some(subject) = self.subject(provider, sold) {
            // When the next probe is due is drawn anew after a restart, and nobody misses what is not written.
            self.proofs
                .change(subject, now, |proof| proof.probe_soon(now, draw));
        }
    }

    /// Forgets addresses that are not offered any more: at once when nothing was found out, since to offer one costs
    /// nothing; else long after that. Returns those that were written down.
    pub fn forget_proofs(&mut self, now: UnixSeconds) -> Vec<Subject> {
        let long_ago = UnixSeconds(now.0.saturating_sub(REMEMBERED));
        let book = &self.book;
        let offered = |s: &Subject| book.has_offer_at(s.provider, s.address);
        let old = |proof: &Proof| proof.is_blank() || proof.at < long_ago;
        self.proofs
            .forget(|subject, proof| old(proof) && !offered(subject))
    }

    /// Lets proofs lapse whose time is over.
    pub(super) fn lapse_proofs(&mut self, now: UnixSeconds) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(subject) = self.proofs.lapsed(now) {
            let lapsed = self.change_proof(subject, now, |proof| proof.lapse(now));
            commands.extend(lapsed.into_iter().flat_map(|(_, commands)| commands));
        }
        commands
    }

    /// What a lease of this address tells something about, if it is still sold.
    fn subject(&self, provider: Address, sold: IpAddr) -> Option<Subject> {
        let offers = self.book.offers_of(provider).into_iter();
        let mut subjects = offers.map(|l| Subject::of(&l.offer, l.placement.address));
        subjects.find(|subject| subject.prefix.contains(&sold))
    }

    /// Changes what is known of an address, if `change` says that it did: writes it down, and puts the offers of it up for
    /// sale or takes them off.
    pub(super) fn change_proof(
        &mut self,
        subject: Subject,
        now: UnixSeconds,
        change: impl FnOnce(&mut Proof) -> bool,
    ) -> Option<(Proof, Vec<Command>)> {
        let was = self.proofs.withheld(&subject, now);
        let proof = self.proofs.change(subject, now, change)?;
        let withheld = self.proofs.withheld(&subject, now);
        let mut commands = vec![Command::StoreProof {
            subject,
            proof: Box::new(proof.clone()),
        }];
        for mut listing in self.book.offers_at(subject.provider, subject.address) {
            if Subject::of(&listing.offer, subject.address) != subject {
                continue;
            }
            let offer = listing.id;
            proof.complete(&mut listing.placement);
            listing.placement.measured.reachability = self.reach.found(subject.provider);
            let placement = listing.placement.clone();
            let moved = self.book.is_for_sale(offer) != withheld.is_none();
            if self.book.put_as(listing, withheld.is_none()).is_ok() && (moved || was != withheld) {
                let message = BrokerMessage::OfferPlaced {
                    offer,
                    placement,
                    withheld,
                };
                commands.push(Command::Send {
                    provider: subject.provider,
                    message: Box::new(message),
                });
            }
        }
        Some((proof, commands))
    }
}

#[cfg(test)]
#[path = "proving_tests.rs"]
mod tests;
