//! The exit policies of one run: a lease keeps the one that its deal names.

use std::collections::VecDeque;
use std::sync::Arc;

use ipsx_agent_core::provider::policy_hash;
use ipsx_metering::B256;
use ipsx_tunnel_core::{ExitPolicy, Rule};

/// Policies that are kept for deals that were signed and whose leases have not begun. Leases that run have theirs.
const KEPT: usize = 4;

/// What was offered lately, as it is carried out.
pub(super) struct Policies {
    /// What is closed besides: it would leave from an address that is not sold.
    closed: Vec<Rule>,
    /// Newest last.
    kept: VecDeque<(B256, Arc<ExitPolicy>)>,
}

impl Policies {
    /// The first policy of a run, and what is closed besides.
    pub(super) fn new(first: &ExitPolicy, closed: Vec<Rule>) -> Self {
        let mut policies = Self {
            closed,
            kept: VecDeque::new(),
        };
        policies.add(first);
        policies
    }

    /// Takes a policy that is offered from now on, and returns its hash.
    pub(super) fn add(&mut self, offered: &ExitPolicy) -> B256 {
        let hash = policy_hash(offered);
        let mut carried = offered.clone();
        carried.deny.extend_from_slice(&self.closed);
        self.kept.retain(|(other, _)| *other != hash);
        self.kept.push_back((hash, Arc::new(carried)));
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        hash
    }

    /// What is carried out for deals that name this policy, if it is still known.
    pub(super) fn get(&self, hash: B256) -> Option<Arc<ExitPolicy>> {
        let found = self.kept.iter().find(|(other, _)| *other == hash);
        found.map(|(_, policy)| Arc::clone(policy))
    }

    /// The newest, as it is carried out.
    pub(super) fn newest(&self) -> ExitPolicy {
        let newest = self.kept.back().map(|(_, policy)| policy.as_ref().clone());
        newest.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipsx_tunnel_core::Tier;

    use super::*;

    #[test]
    fn deals_of_a_moment_ago_find_what_they_name() {
        let closed: Rule = "::/0:any/*".parse().unwrap();
        let of = |port: u16| ExitPolicy {
            allow: vec![format!("192.0.2.1:tcp/{port}").parse().unwrap()],
            ..ExitPolicy::new(Tier::Web)
        };
        let mut policies = Policies::new(&of(1), vec![closed]);
        let first = policy_hash(&of(1));
        let second = policies.add(&of(2));
        let found = policies.get(first).unwrap();
        assert_eq!((&found.allow, &found.deny), (&of(1).allow, &vec![closed]));
        assert_eq!(policies.newest().allow, of(2).allow);
        for port in 3..=5 {
            policies.add(&of(port));
        }
        assert!(policies.get(first).is_none());
        assert!(policies.get(second).is_some());
    }
}
