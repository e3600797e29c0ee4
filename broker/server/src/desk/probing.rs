//! Probes: which are due, what they found out, and the network's word on where somebody was seen.

use std::net::IpAddr;

use ipsx_market::echo::Echo;
use ipsx_market::market::ProbeRefusal;
use ipsx_market::proof::{Appeal, ProbeOrder, ProbeOutcome, Proof, Ruling, Standing, Subject};
use ipsx_metering::{Address, B256, Signed};
use serde::Serialize;

use super::{Desk, DeskError};
use crate::clock;
use crate::operator::random;

/// Proofs that are listed at once.
const LISTED: usize = 1_000;

/// An address, and what is known of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProofLine {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    #[serde(flatten)]
    pub(crate) proof: Proof,
}

impl Desk {
    /// The network's word that this address asked with this nonce.
    pub(crate) fn echo(&self, nonce: B256, seen: IpAddr) -> Signed<Echo> {
        self.operator.sign(Echo {
            network: self.operator.network(),
            nonce,
            seen,
            at: clock::now(),
        })
    }

    /// The next probe that is due.
    pub(crate) async fn next_probe(&self) -> Result<Option<ProbeOrder>, DeskError> {
        let (id, nonce) = (B256::from(random::<32>()), B256::from(random::<32>()));
        let mut books = self.books().await?;
        Ok(books.market.next_probe(id, nonce, clock::now()))
    }

    /// Takes what a probe found out, and does what follows from it; on disk when this returns.
    pub(crate) async fn probed(
        &self,
        task: B256,
        outcome: ProbeOutcome,
    ) -> Result<Standing, DeskError> {
        if let ProbeOutcome::Seen { echo, .. } = &outcome {
            let domain = self.operator.domain();
            let own = self.operator.state().operator;
            echo.verify(&domain, own).map_err(|_| ProbeRefusal::Echo)?;
        }
        let nothing = match &outcome {
            ProbeOutcome::Silent { reason } => Some(("silent", plain(reason))),
            ProbeOutcome::Missed { reason } => Some(("missed", plain(reason))),
            ProbeOutcome::Seen { .. } => None,
        };
        let draw = u64::from_be_bytes(random::<8>());
        let now = clock::now();
        let mut books = self.books().await?;
        let place = |address| self.placer.place(address);
        let done = books.market.probed(task, outcome, place, draw, now)?;
        let (proof, commands) = done;
        let last = proof.sightings.last().filter(|_| nothing.is_none());
        let wrong = last.and_then(|sighting| sighting.disagreement);
        let (label, reason) = match nothing {
            Some((label, reason)) => (label, Some(reason)),
            None if wrong.is_some() => ("disagreed", None),
            None => ("agreed", None),
        };
        self.metrics.probes.with_label_values(&[label]).inc();
        tracing::info!(
            outcome = label, ?wrong, reason, standing = ?proof.standing,
            sold = ?last.map(|sighting| sighting.sold), seen = ?last.map(|sighting| sighting.seen.address), "probe"
        );
        self.execute(books, commands, now).await?;
        Ok(proof.standing)
    }

    /// Takes what a provider says of its address; on disk when this returns.
    pub(crate) async fn appeal(&self, appeal: Signed<Appeal>) -> Result<(), DeskError> {
        let (provider, address) = (appeal.message.provider, appeal.message.address);
        let checked = appeal.verify(&self.operator.domain(), provider);
        checked
            .map_err(|_| DeskError::Invalid("the appeal is not signed by its provider".into()))?;
        let now = clock::now();
        let mut books = self.books().await?;
        let commands = books.market.appeal(appeal, now)?;
        tracing::info!(%provider, %address, "a provider appeals; GET /proofs shows its words");
        self.execute(books, commands, now).await
    }

    /// The operator says what an address is.
    pub(crate) async fn rule(
        &self,
        provider: Address,
        address: IpAddr,
        ruling: Ruling,
    ) -> Result<(), DeskError> {
        let now = ruling.at;
        let mut books = self.books().await?;
        let place = |address| self.placer.place(address);
        let ruled = books.market.rule(provider, address, &ruling, place, now);
        let commands = ruled?;
        tracing::info!(%provider, %address, kind = ?ruling.address_type, "the operator has ruled");
        self.execute(books, commands, now).await
    }

    /// What is known of addresses, or of those of one provider; at most so many as fit into one answer.
    pub(crate) async fn proofs(
        &self,
        provider: Option<Address>,
    ) -> Result<Vec<ProofLine>, DeskError> {
        let books = self.books().await?;
        let all = books.market.proofs().all();
        let asked = all.filter(|(subject, _)| provider.is_none_or(|one| one == subject.provider));
        let lines = asked.take(LISTED).map(|(subject, proof)| ProofLine {
            subject: *subject,
            proof: proof.clone(),
        });
        Ok(lines.collect())
    }
}

/// What goes into the log as it is.
fn plain(reason: &str) -> String {
    let printable = reason.chars().filter(|c| !c.is_control());
    printable.take(200).collect()
}
