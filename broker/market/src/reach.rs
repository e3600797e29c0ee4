//! How requesters reach providers, as tokens find it out.
//!
//! A token is a datagram that comes to a provider's endpoint from a port that nobody there has ever sent anything to. An
//! agent that hands it back over its connection is reached *directly*. One that does not is reached by *punching*, if at all:
//! it is told so, and asks the reflector from its endpoint from then on for what a NAT shows of that. It asks only then, since
//! asking opens some NATs to whatever comes from the reflector's address, and a token would prove nothing.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipsx_metering::{Address, UnixSeconds};

use crate::place::Reachability;

/// Tokens of one trial, a second apart.
const TOKENS: usize = 3;
/// Seconds between two trials of an endpoint.
const BETWEEN: u64 = 600;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a token.
    Try { to: SocketAddr, token: u64 },
    /// A trial is over.
    Found(Address, Option<Reachability>),
}

/// The endpoints of connected agents. `draw` makes of a number one that nobody can foresee.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Tokens so far.
    drawn: u64,
    agents: HashMap<Address, Tried>,
    due: BTreeSet<(UnixSeconds, Address)>,
}

#[derive(Clone, Debug)]
struct Tried {
    endpoint: SocketAddr,
    /// What a NAT shows of it.
    mapped: Option<SocketAddr>,
    /// Sent in the trial that is going on.
    tokens: Vec<u64>,
    due: UnixSeconds,
    found: Option<Reachability>,
}

impl Reach {
    /// What was found out of a provider.
    pub(crate) fn found(&self, provider: Address) -> Option<Reachability> {
        self.agents.get(&provider)?.found
    }

    /// An agent says where it is reached. Only its own address is tried: nobody else should be sent anything.
    pub(crate) fn named(
        &mut self,
        (provider, observed): (Address, IpAddr),
        endpoint: SocketAddr,
        mapped: Option<SocketAddr>,
        draw: impl Fn(u64) -> u64,
        now: UnixSeconds,
    ) -> Vec<Step> {
        if endpoint.ip() != observed || endpoint.port() == 0 {
            self.left(provider);
            return vec![Step::Found(provider, None)];
        }
        if let Some(tried) = self.agents.get_mut(&provider)
            && tried.endpoint == endpoint
        {
            tried.mapped = mapped;
            return Vec::new();
        }
        // Within a trial, another one begins no sooner than its next token would leave.
        let soon = |due: &UnixSeconds| (now..=now.after(1)).contains(due);
        let due = self.agents.get(&provider).map(|tried| tried.due);
        let due = due.filter(soon).unwrap_or(now);
        self.left(provider);
        let tried = Tried {
            endpoint,
            mapped,
            tokens: Vec::new(),
            due,
            found: None,
        };
        self.agents.insert(provider, tried);
        self.due.insert((due, provider));
        if due > now {
            return Vec::new();
        }
        self.go_on(provider, &draw, now).into_iter().collect()
    }

    /// An agent hands a token back.
    pub(crate) fn heard(
        &mut self,
        provider: Address,
        token: u64,
        now: UnixSeconds,
    ) -> Option<Step> {
        let tried = self.agents.get_mut(&provider)?;
        if !tried.tokens.contains(&token) {
            return None;
        }
        tried.tokens.clear();
        tried.found = Some(Reachability::Direct);
        self.wait(provider, now.after(BETWEEN));
        Some(Step::Found(provider, Some(Reachability::Direct)))
    }

    /// An agent has gone.
    pub(crate) fn left(&mut self, provider: Address) {
        if let Some(tried) = self.agents.remove(&provider) {
            self.due.remove(&(tried.due, provider));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<UnixSeconds> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Goes on with all trials that are due.
    pub(crate) fn handle_timeout(
        &mut self,
        draw: impl Fn(u64) -> u64,
        now: UnixSeconds,
    ) -> Vec<Step> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<_> = due.map(|(_, provider)| *provider).collect();
        let steps = due
            .into_iter()
            .filter_map(|provider| self.go_on(provider, &draw, now));
        steps.collect()
    }

    /// Sends the next token of a trial, or ends it.
    fn go_on(
        &mut self,
        provider: Address,
        draw: impl Fn(u64) -> u64,
        now: UnixSeconds,
    ) -> Option<Step> {
        let tried = self.agents.get_mut(&provider)?;
        if tried.tokens.is_empty() && tried.mapped == Some(tried.endpoint) {
            // It is asking by the very mapping that would be tried; once it connects anew, it is not.
            self.wait(provider, now.after(BETWEEN));
            return None;
        }
        if tried.tokens.len() < TOKENS {
            self.drawn += 1;
            let token = draw(self.drawn);
            tried.tokens.push(token);
            let to = tried.endpoint;
            self.wait(provider, now.after(1));
            return Some(Step::Try { to, token });
        }
        tried.tokens.clear();
        tried.found = Some(Reachability::Punched);
        self.wait(provider, now.after(BETWEEN));
        Some(Step::Found(provider, Some(Reachability::Punched)))
    }

    fn wait(&mut self, provider: Address, until: UnixSeconds) {
        if let Some(tried) = self.agents.get_mut(&provider) {
            self.due.remove(&(tried.due, provider));
            tried.due = until;
            self.due.insert((until, provider));
        }
    }
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
