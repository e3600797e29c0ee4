//! All proofs of a market: which probe is due, which are under way.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipsx_metering::{B256, OfferId, UnixSeconds};

use super::{Proof, ProofRules, Standing, Subject};

/// Seconds that a prober has for one probe; then another may have it.
pub(crate) const PATIENCE: u64 = 180;

/// A probe that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What is probed.
    pub subject: Subject,
    /// The offer that is leased from.
    pub offer: OfferId,
    /// The echo is asked with it.
    pub nonce: B256,
    /// The outcome counts until then.
    pub until: UnixSeconds,
    /// The address that the lease was sold, once it was.
    pub sold: Option<IpAddr>,
}

/// What is known of every address, and what is to be found out.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    pub(crate) rules: ProofRules,
    known: HashMap<Subject, Proof>,
    /// When probes are due: of what is for sale, and of the rest. However many of these there are, the former are looked
    /// at in time.
    due: [BTreeSet<(UnixSeconds, Subject)>; 2],
    /// When proofs lapse.
    ending: BTreeSet<(UnixSeconds, Subject)>,
    tasks: HashMap<B256, Task>,
}

impl Proofs {
    /// What was known before.
    pub fn restore(rules: ProofRules, known: impl IntoIterator<Item = (Subject, Proof)>) -> Self {
        let mut proofs = Self {
            rules,
            ..Self::default()
        };
        for (subject, proof) in known {
            proofs.put(subject, proof);
        }
        proofs
    }

    /// What is known of an address.
    pub fn get(&self, subject: &Subject) -> Option<&Proof> {
        self.known.get(subject)
    }

    /// Everything that is known.
    pub fn all(&self) -> impl Iterator<Item = (&Subject, &Proof)> {
        self.known.iter()
    }

    /// Whether offers of this address may be sold.
    pub fn allow(&self, subject: &Subject, now: UnixSeconds) -> bool {
        let proof = self.known.get(subject);
        !self.rules.required || proof.is_some_and(|proof| proof.is_proven(now))
    }

    /// An address is offered, perhaps for the first time.
    pub(crate) fn offered(&mut self, subject: Subject, now: UnixSeconds) {
        if !self.known.contains_key(&subject) {
            self.put(subject, Proof::new(now));
        } else {
            self.schedule(&subject);
        }
    }

    /// Changes what is known of an address, if `change` says that it did.
    pub(crate) fn change(
        &mut self,
        subject: Subject,
        now: UnixSeconds,
        change: impl FnOnce(&mut Proof) -> bool,
    ) -> Option<Proof> {
        let known = self.known.get(&subject).cloned();
        let mut proof = known.unwrap_or_else(|| Proof::new(now));
        if !change(&mut proof) {
            return None;
        }
        self.put(subject, proof.clone());
        Some(proof)
    }

    /// The first subject whose probe is due and none is under way, with what `offer` has of it; it is due no more until
    /// its task is over. Those that are not offered are passed over until they are again.
    pub(crate) fn take_due<T>(
        &mut self,
        now: UnixSeconds,
        offer: impl Fn(&Subject) -> Option<T>,
    ) -> Option<(Subject, T)> {
        for due in &mut self.due {
            while let Some((at, subject)) = due.first().copied()
                && at <= now
            {
                due.remove(&(at, subject));
                if let Some(found) = offer(&subject) {
                    return Some((subject, found));
                }
            }
        }
        None
    }

    pub(crate) fn begin(&mut self, id: B256, task: Task) {
        self.tasks.insert(id, task);
    }

    pub(crate) fn task_mut(&mut self, id: &B256) -> Option<&mut Task> {
        self.tasks.get_mut(id)
    }

    pub(crate) fn finish(&mut self, id: &B256) -> Option<Task> {
        self.tasks.remove(id)
    }

    /// Gives back what probers did not finish in time.
    pub(crate) fn give_up(&mut self, now: UnixSeconds) {
        let mut late = Vec::new();
        self.tasks.retain(|_, task| {
            let stays = now <= task.until;
            if !stays {
                late.push(task.subject);
            }
            stays
        });
        late.iter().for_each(|subject| self.schedule(subject));
    }

    /// The next proof whose time is over by now.
    pub(crate) fn lapsed(&mut self, now: UnixSeconds) -> Option<Subject> {
        let (until, subject) = self.ending.first().copied()?;
        (until < now).then(|| {
            self.ending.remove(&(until, subject));
            subject
        })
    }

    /// The last second at which every proof counts.
    pub(crate) fn next_end(&self) -> Option<UnixSeconds> {
        self.ending.first().map(|(until, _)| *until)
    }

    /// Forgets what is not worth keeping.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Subject, &Proof) -> bool) {
        let gone = self
            .known
            .iter()
            .filter(|(subject, proof)| gone(subject, proof));
        let gone: Vec<_> = gone.map(|(subject, _)| *subject).collect();
        for subject in gone {
            self.unschedule(&subject);
            self.known.remove(&subject);
        }
    }

    fn put(&mut self, subject: Subject, proof: Proof) {
        self.unschedule(&subject);
        self.known.insert(subject, proof);
        self.schedule(&subject);
    }

    fn unschedule(&mut self, subject: &Subject) {
        if let Some(proof) = self.known.get(subject) {
            let [proven, rest] = &mut self.due;
            proven.remove(&(proof.next, *subject));
            rest.remove(&(proof.next, *subject));
            if let Standing::Proven { until } = proof.standing {
                self.ending.remove(&(until, *subject));
            }
        }
    }

    fn schedule(&mut self, subject: &Subject) {
        let Some(proof) = self.known.get(subject) else {
            return;
        };
        if !self.tasks.values().any(|task| task.subject == *subject) {
            let [proven, rest] = &mut self.due;
            let due = match proof.standing {
                Standing::Proven { .. } => proven,
                _ => rest,
            };
            due.insert((proof.next, *subject));
        }
        if let Standing::Proven { until } = proof.standing {
            self.ending.insert((until, *subject));
        }
    }
}
