//! All proofs of a market: which probe is due, which are under way.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipsx_metering::{Address, B256, OfferId, UnixSeconds, keccak256};

use super::{Proof, ProofRules, Standing, Subject, Withheld};

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

/// What there is of a subject for a probe.
pub(crate) enum Offered<T> {
    /// It can be leased.
    Free(T),
    /// It can't be leased now: somebody else has it.
    Busy,
    /// It is not offered at all.
    Gone,
}

/// The two providers that probes saw last, and when: whether a prober sees anybody.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers([Option<(Address, UnixSeconds)>; 2]);

impl Answers {
    fn note(&mut self, provider: Address, now: UnixSeconds) {
        let [last, before] = self.0;
        let other = last.filter(|(one, _)| *one != provider).or(before);
        self.0 = [Some((provider, now)), other];
    }

    /// Whether a probe saw something of another provider since then.
    pub(crate) fn of_others(&self, provider: Address, since: UnixSeconds) -> bool {
        let mut answers = self.0.iter().flatten();
        answers.any(|(one, at)| *one != provider && *at >= since)
    }
}

/// Seconds after which a probe looks again whether what was let is free.
const BUSY: u64 = 60;

/// What is known of every address, and what is to be found out.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    pub(crate) rules: ProofRules,
    /// What nobody else knows, so that nobody can tell when the next probe comes.
    secret: B256,
    known: HashMap<Subject, Proof>,
    /// When probes are due: of what is for sale, and of the rest. However many of these there are, the former are looked
    /// at in time.
    due: [BTreeSet<(UnixSeconds, Subject)>; 2],
    /// When proofs lapse.
    ending: BTreeSet<(UnixSeconds, Subject)>,
    tasks: HashMap<B256, Task>,
    answers: Answers,
}

impl Proofs {
    /// What was known before. `secret` is random.
    pub fn restore(
        rules: ProofRules,
        secret: B256,
        known: impl IntoIterator<Item = (Subject, Proof)>,
        now: UnixSeconds,
    ) -> Self {
        let mut proofs = Self {
            rules,
            secret,
            ..Self::default()
        };
        proofs.learn(known, now);
        proofs
    }

    /// Takes what somebody else has found out last.
    pub(crate) fn learn(
        &mut self,
        known: impl IntoIterator<Item = (Subject, Proof)>,
        now: UnixSeconds,
    ) {
        for (subject, mut proof) in known {
            proof.bring_within(&self.rules, now);
            let own = self.known.get(&subject);
            if own.is_none_or(|own| own.is_blank() || own.at < proof.at) {
                self.put(subject, proof);
            }
        }
    }

    /// What is known of an address.
    pub fn get(&self, subject: &Subject) -> Option<&Proof> {
        self.known.get(subject)
    }

    /// Everything that is known.
    pub fn all(&self) -> impl Iterator<Item = (&Subject, &Proof)> {
        self.known.iter()
    }

    /// Why offers of this address are not sold now; `None` when they are.
    pub fn withheld(&self, subject: &Subject, now: UnixSeconds) -> Option<Withheld> {
        match self.known.get(subject) {
            Some(proof) => proof.withheld(&self.rules, now),
            None => Proof::new(now).withheld(&self.rules, now),
        }
    }

    /// A number that nobody can foresee who knows what it is drawn for.
    pub(crate) fn draw(&self, what: &B256) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = keccak256([self.secret, *what].concat()).0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// A probe saw something of this provider.
    pub(crate) fn answered(&mut self, provider: Address, now: UnixSeconds) {
        self.answers.note(provider, now);
    }

    /// Who answered probes lately.
    pub(crate) fn answers(&self) -> Answers {
        self.answers
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

    /// The first subject whose probe is due and none is under way, with what `offered` has of it; it is due no more until
    /// its task is over. Those that are not offered are passed over until they are again, those that are let for a while.
    pub(crate) fn take_due<T>(
        &mut self,
        now: UnixSeconds,
        offered: impl Fn(&Subject) -> Offered<T>,
    ) -> Option<(Subject, T)> {
        for due in &mut self.due {
            while let Some((at, subject)) = due.first().copied()
                && at <= now
            {
                due.remove(&(at, subject));
                match offered(&subject) {
                    Offered::Free(found) => return Some((subject, found)),
                    Offered::Gone => {}
                    Offered::Busy => {
                        let later = now.after(BUSY);
                        due.insert((later, subject));
                        if let Some(proof) = self.known.get_mut(&subject) {
                            proof.next = later;
                        }
                    }
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

    /// Forgets what is not worth keeping. Returns what was more than a plan to look.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Subject, &Proof) -> bool) -> Vec<Subject> {
        let known = self.known.iter();
        let gone = known.filter(|(subject, proof)| gone(subject, proof));
        let gone: Vec<_> = gone.map(|(s, proof)| (*s, proof.is_blank())).collect();
        for (subject, _) in &gone {
            self.unschedule(subject);
            self.known.remove(subject);
        }
        let written = gone.into_iter().filter(|(_, blank)| !blank);
        written.map(|(subject, _)| subject).collect()
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

    /// The address that a probe's lease was sold.
    #[cfg(test)]
    pub(crate) fn sold(&self, id: &B256) -> Option<IpAddr> {
        self.tasks.get(id)?.sold
    }

    /// Whether every subject is due once, or under way, or passed over for want of an offer, and lapses when it does.
    #[cfg(test)]
    pub(crate) fn is_consistent(&self) -> bool {
        let due = |s: &Subject, proof: &Proof| {
            self.due
                .iter()
                .filter(|due| due.contains(&(proof.next, *s)))
                .count()
        };
        let ends = |s: &Subject, proof: &Proof| match proof.standing {
            Standing::Proven { until } => self.ending.contains(&(until, *s)),
            _ => true,
        };
        let proven = |proof: &Proof| matches!(proof.standing, Standing::Proven { .. });
        let times: usize = self.due.iter().map(BTreeSet::len).sum();
        let counted: usize = self.known.iter().map(|(s, proof)| due(s, proof)).sum();
        self.known
            .iter()
            .all(|(s, proof)| due(s, proof) <= 1 && ends(s, proof))
            && times == counted
            && self.ending.len() == self.known.values().filter(|proof| proven(proof)).count()
    }
}
