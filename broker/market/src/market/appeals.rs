//! Providers that hold their address for something else than the databases do, and the operator's word on it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipsx_metering::{Address, Signed, UnixSeconds};

use super::{Command, Market};
use crate::offer::Placement;
use crate::proof::{Appeal, LONGEST_TEXT, Proof, Ruling, Subject};

/// Clocks of providers may be off by so much, seconds.
const CLOCK: u64 = 600;

/// Why an appeal, or a ruling, is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppealRefusal {
    /// Signed for another network, or by a clock that is off.
    #[error("the appeal is for another network, or its time is not now: sign it again")]
    Unusable,
    /// No words, or too many.
    #[error("its text must have 1 to {LONGEST_TEXT} characters")]
    Text,
    /// Nothing is sold there.
    #[error("this provider offers nothing from that address here")]
    NotYours,
    /// One was made within the last hour.
    #[error("an appeal of this address was made within the last hour; the operator has it")]
    TooSoon,
}

impl Market {
    /// Takes what a provider says of its address; the caller has checked its signature.
    pub fn appeal(
        &mut self,
        appeal: Signed<Appeal>,
        now: UnixSeconds,
    ) -> Result<Vec<Command>, AppealRefusal> {
        let message = &appeal.message;
        let signed_now = now.0.abs_diff(message.at.0) <= CLOCK;
        if message.network != self.config.network || !signed_now {
            return Err(AppealRefusal::Unusable);
        }
        check_text(&message.text)?;
        let (provider, address) = (message.provider, message.address);
        let subjects = self.subjects_at(provider, address);
        if subjects.is_empty() {
            return Err(AppealRefusal::NotYours);
        }
        let mut commands = Vec::new();
        for subject in subjects {
            let appealed = self.change_proof(subject, now, |proof| proof.appealed(appeal.clone()));
            commands.extend(appealed.into_iter().flat_map(|(_, commands)| commands));
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
        check_text(&ruling.reason)?;
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
        commands.extend(self.place_anew(&offers, place, now));
        Ok(commands)
    }

    /// What is sold by a provider whose agent is seen there.
    fn subjects_at(&self, provider: Address, address: IpAddr) -> BTreeSet<Subject> {
        let offers = self.book.offers_at(provider, address).into_iter();
        offers.map(|l| Subject::of(&l.offer, address)).collect()
    }
}

fn check_text(text: &str) -> Result<(), AppealRefusal> {
    match text.chars().count() {
        1..=LONGEST_TEXT => Ok(()),
        _ => Err(AppealRefusal::Text),
    }
}
