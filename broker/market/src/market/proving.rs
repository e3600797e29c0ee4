//! Which offers are for sale, by what is known of their addresses, and how that is found out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipsx_metering::{Address, B256, Signed, UnixSeconds};

use super::{Command, Market, Ticket};
use crate::book::{Listing, PlaceError};
use crate::messages::BrokerMessage;
use crate::offer::{Offer, Placement};
use crate::proof::{
    Appeal, LONGEST_TEXT, ProbeOrder, ProbeOutcome, Proof, Proofs, REMEMBERED, Report, Ruling,
    Sighting, Subject, Task,
};
use crate::request::SignedRequest;

/// Clocks of providers may be off by so much, seconds.
const APPEAL_CLOCK: u64 = 600;

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

/// Why an appeal, or a ruling, is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppealRefusal {
    /// Signed for another network, or by a clock that is off.
    #[error("the appeal is for another network, or its time is not now: sign it again")]
    Unusable,
    /// Too many words.
    #[error("the appeal's text is longer than {LONGEST_TEXT} characters")]
    TooLong,
    /// Nothing is sold there.
    #[error("this provider offers nothing from that address here")]
    NotYours,
    /// One was made within the last hour.
    #[error("an appeal of this address was made within the last hour; the operator has it")]
    TooSoon,
}

/// An offer is in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where, with what was measured.
    pub placement: Placement,
    /// Whether it can be sold; else once its address is proven.
    pub for_sale: bool,
}

impl Market {
    /// Asks for proofs by these rules, and goes on with what is known already.
    pub fn with_proofs(mut self, proofs: Proofs) -> Self {
        self.proofs = proofs;
        self
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
        let for_sale = self.proofs.allow(&subject, now);
        let listing = Listing {
            id: offer.id(),
            offer,
            placement: placement.clone(),
        };
        self.book.put_as(listing, for_sale)?;
        self.proofs.offered(subject, now);
        Ok(Placed {
            placement,
            for_sale,
        })
    }

    /// The next probe that is due, for whoever asks for one. `id` and `nonce` are random.
    pub fn next_probe(&mut self, id: B256, nonce: B256, now: UnixSeconds) -> Option<ProbeOrder> {
        self.proofs.give_up(now);
        let book = &self.book;
        // Any of those that the proof is for.
        let offered = |subject: &Subject| {
            let mut offers = book.offers_at(subject.provider, subject.address);
            offers.retain(|listing| Subject::of(&listing.offer, subject.address) == *subject);
            offers.sort_unstable_by_key(|listing| listing.id);
            let chosen = draw(&id) as usize % offers.len().max(1);
            offers.into_iter().nth(chosen)
        };
        let (subject, listing) = self.proofs.take_due(now, offered)?;
        let offer = listing.id;
        let until = now.after(crate::proof::PATIENCE);
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
        Ok(self.request_of(ticket, request, seed, Some((task, offer)), now))
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
        let change: Box<dyn FnOnce(&mut Proof) -> bool> = match outcome {
            ProbeOutcome::Missed { .. } => Box::new(move |proof: &mut Proof| {
                proof.missed(now, draw);
                true
            }),
            ProbeOutcome::Seen {
                echo,
                latency_ms,
                mbit_down,
            } => {
                let sold = task.sold.ok_or(ProbeRefusal::NotLeased)?;
                let echo = echo.message;
                let own = echo.network == self.config.network && echo.nonce == task.nonce;
                if !own || echo.at > task.until {
                    return Err(ProbeRefusal::Echo);
                }
                let offered = place(subject.address);
                let seen = place(echo.seen.to_canonical());
                let sighting = Sighting::new(now, sold, seen, &offered);
                Box::new(move |proof: &mut Proof| {
                    if sighting.disagreement.is_none() {
                        proof.measure(latency_ms, mbit_down);
                    }
                    proof.seen(sighting, &subject, &rules, now, draw);
                    true
                })
            }
        };
        self.proofs.finish(&id);
        let proof = self.proofs.change(subject, now, change);
        let proof = proof.ok_or(ProbeRefusal::Unknown)?;
        let commands = self.proof_changed(subject, &proof, now);
        Ok((proof, commands))
    }

    /// A customer ended its lease because it saw another address than it was sold.
    pub(super) fn exit_reported(
        &mut self,
        provider: Address,
        seen_at: IpAddr,
        report: Report,
    ) -> Vec<Command> {
        // The id of the lease is as good as drawn: its salt is the broker's.
        let draw = draw(&report.deal.0);
        let Some(subject) = self.subject(provider, seen_at) else {
            return Vec::new();
        };
        let change = |proof: &mut Proof| proof.reported(report, draw);
        let Some(proof) = self.proofs.change(subject, report.at, change) else {
            return Vec::new();
        };
        self.proof_changed(subject, &proof, report.at)
    }

    /// A lease began: now and then a probe follows it.
    pub(super) fn lease_began(
        &mut self,
        provider: Address,
        sold: IpAddr,
        salt: &B256,
        now: UnixSeconds,
    ) {
        if let Some(subject) = self.subject(provider, sold) {
            let draw = draw(salt);
            // When the next probe is due is drawn anew after a restart, and nobody misses what is not written.
            self.proofs
                .change(subject, now, |proof| proof.leased(now, draw));
        }
    }

    /// Takes what a provider says of its address; the caller has checked its signature.
    pub fn appeal(
        &mut self,
        appeal: Signed<Appeal>,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, AppealRefusal> {
        let message = &appeal.message;
        let signed_now = now.0.abs_diff(message.at.0) <= APPEAL_CLOCK;
        if message.network != self.config.network || !signed_now {
            return Err(AppealRefusal::Unusable);
        }
        if message.text.chars().count() > LONGEST_TEXT {
            return Err(AppealRefusal::TooLong);
        }
        let (provider, address) = (message.provider, message.address);
        let subjects = self.subjects_at(provider, address);
        if subjects.is_empty() {
            return Err(AppealRefusal::NotYours);
        }
        let mut commands = Vec::new();
        for subject in subjects {
            let change = |proof: &mut Proof| proof.appealed(appeal.clone());
            if let Some(proof) = self.proofs.change(subject, now, change) {
                commands.extend(self.proof_changed(subject, &proof, now));
            }
        }
        if commands.is_empty() {
            return Err(AppealRefusal::TooSoon);
        }
        Ok(commands)
    }

    /// The operator says what an address is. `place` says what the databases do.
    pub fn rule(
        &mut self,
        provider: Address,
        address: IpAddr,
        ruling: &Ruling,
        place: impl Fn(IpAddr) -> Placement,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, AppealRefusal> {
        let known = self.proofs.all().map(|(subject, _)| *subject);
        let own = known.filter(|s| s.provider == provider && s.address == address);
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            return Err(AppealRefusal::NotYours);
        }
        let mut commands = Vec::new();
        for subject in own {
            let change = |proof: &mut Proof| {
                proof.ruling = Some(ruling.clone());
                true
            };
            if let Some(proof) = self.proofs.change(subject, now, change) {
                commands.push(Command::StoreProof {
                    subject,
                    proof: Box::new(proof),
                });
            }
        }
        let offers = self.book.offers_at(provider, address);
        let offers: Vec<_> = offers.iter().map(|listing| listing.id).collect();
        commands.extend(self.place_anew(&offers, place));
        Ok(commands)
    }

    /// What is sold by a provider whose agent is seen there.
    fn subjects_at(&self, provider: Address, address: IpAddr) -> BTreeSet<Subject> {
        let offers = self.book.offers_at(provider, address).into_iter();
        offers.map(|l| Subject::of(&l.offer, address)).collect()
    }

    /// Forgets addresses of which nothing was found out for long, and at once those that are not offered any more before
    /// anything was: to offer one costs nothing.
    pub fn forget_proofs(&mut self, now: UnixSeconds) {
        let long_ago = UnixSeconds(now.0.saturating_sub(REMEMBERED));
        let book = &self.book;
        let offered = |s: &Subject| !book.offers_at(s.provider, s.address).is_empty();
        self.proofs
            .forget(|subject, proof| proof.at < long_ago || proof.is_blank() && !offered(subject));
    }

    /// Lets proofs lapse whose time is over.
    pub(super) fn lapse_proofs(&mut self, now: UnixSeconds) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(subject) = self.proofs.lapsed(now) {
            let change = |proof: &mut Proof| proof.lapse(now);
            if let Some(proof) = self.proofs.change(subject, now, change) {
                commands.extend(self.proof_changed(subject, &proof, now));
            }
        }
        commands
    }

    /// What a lease of this address tells something about, if it is still sold.
    fn subject(&self, provider: Address, sold: IpAddr) -> Option<Subject> {
        let offers = self.book.offers_of(provider).into_iter();
        let mut subjects = offers.map(|l| Subject::of(&l.offer, l.placement.address));
        subjects.find(|subject| subject.prefix.contains(&sold))
    }

    /// Writes a proof down, and puts the offers of its address up for sale or takes them off.
    fn proof_changed(&mut self, subject: Subject, proof: &Proof, now: UnixSeconds) -> Vec<Command> {
        let mut commands = vec![Command::StoreProof {
            subject,
            proof: Box::new(proof.clone()),
        }];
        let for_sale = self.proofs.allow(&subject, now);
        for mut listing in self.book.offers_at(subject.provider, subject.address) {
            if Subject::of(&listing.offer, subject.address) != subject {
                continue;
            }
            let offer = listing.id;
            proof.complete(&mut listing.placement);
            let placement = listing.placement.clone();
            let was = self.book.is_for_sale(offer);
            if self.book.put_as(listing, for_sale).is_ok() && was != for_sale {
                let message = BrokerMessage::OfferPlaced {
                    offer,
                    placement,
                    for_sale,
                };
                commands.push(Command::Send {
                    provider: subject.provider,
                    message: Box::new(message),
                });
            }
        }
        commands
    }
}

/// The first eight bytes of something random.
fn draw(random: &B256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
#[path = "proving_tests.rs"]
mod tests;
