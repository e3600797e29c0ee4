//! Opening a provider's NAT for a requester: a few small datagrams towards where it sends from, while it calls. Or, where
//! that does not help, to a relay that both sides send to.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipsx_market::messages::RelayToken;
use ipsx_tunnel_core::is_public;

use super::command::Command;
use super::event::ProviderEvent;
use super::lease::{Lease, Stage};
use super::settings::Now;

/// Datagrams for one hint: the requester's first calls may be turned away, and any of both may be lost.
const OF_A_HINT: u8 = 6;
/// Datagrams of a lease in all, however many hints come.
const OF_A_LEASE: u8 = 24;
/// How long to wait after the first of a hint; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// What is still to be sent for one lease.
#[derive(Debug, Default)]
pub(crate) struct Punching {
    /// To whom, when next, and how long to wait after it.
    next: Option<(SocketAddr, Instant, Duration)>,
    left: u8,
    sent: u8,
}

impl Punching {
    /// A requester sends from `to`; the provider is seen at `own`. What can be nobody's endpoint is not heeded.
    pub(crate) fn begin(&mut self, to: SocketAddr, own: Option<IpAddr>, now: Instant) {
        if may_be_a_requester(to, own) {
            self.next = Some((to, now, FIRST_WAIT));
            self.left = OF_A_HINT;
        }
    }

    /// The requester is there, or nobody waits for it any more.
    pub(crate) fn end(&mut self) {
        self.next = None;
    }

    /// To whom to send one now.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<SocketAddr> {
        let (to, _, wait) = self.next.filter(|(_, at, _)| *at <= now)?;
        if self.sent >= OF_A_LEASE {
            self.end();
            return None;
        }
        self.sent += 1;
        self.left -= 1;
        self.next = (self.left > 0).then_some((to, now + wait, wait * 2));
        Some(to)
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next.map(|(_, at, _)| at)
    }
}

impl Lease {
    /// The provider is reached elsewhere now: whoever has not come yet is told.
    pub(crate) fn handle_endpoint(&mut self, endpoint: SocketAddr, commands: &mut Vec<Command>) {
        if let (Stage::Ready, Some(ready)) = (&self.stage, &mut self.ready)
            && std::mem::replace(&mut ready.endpoint, endpoint) != endpoint
        {
            commands.extend(self.announcement());
        }
    }

    /// The requester sends from there; `own` is where the broker sees this provider.
    pub(crate) fn handle_punch(
        &mut self,
        endpoint: SocketAddr,
        own: Option<IpAddr>,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if matches!(self.stage, Stage::Opening | Stage::Ready) {
            self.punching.begin(endpoint, own, now.instant);
            self.punch(now, commands);
        }
    }

    /// The requester comes by this relay; `own` is where the broker sees this provider. Said again, it changes nothing.
    pub(crate) fn handle_relay(
        &mut self,
        relay: SocketAddr,
        token: RelayToken,
        own: Option<IpAddr>,
        commands: &mut Vec<Command>,
    ) {
        let waits = matches!(self.stage, Stage::Opening | Stage::Ready | Stage::Serving);
        if !waits || !may_be_a_requester(relay, own) {
            return;
        }
        let before = self.relay.replace(relay);
        if before != Some(relay) {
            commands.extend(before.map(|relay| Command::LeaveRelay { relay }));
            let lease = self.id;
            commands.push(Command::Tell(ProviderEvent::LeaseRelayed { lease, relay }));
        }
        commands.push(Command::JoinRelay { relay, token });
    }

    /// Sends the next datagram, if it is time and the requester has not come yet.
    pub(super) fn punch(&mut self, now: Now, commands: &mut Vec<Command>) {
        if !matches!(self.stage, Stage::Opening | Stage::Ready) {
            self.punching.end();
        }
        let due = self.punching.handle_timeout(now.instant);
        commands.extend(due.map(|to| Command::Punch { to }));
    }
}

/// Whether somebody could lease from there whom this provider should send something to. One that is not on the internet may
/// have a requester that is not either.
fn may_be_a_requester(endpoint: SocketAddr, own: Option<IpAddr>) -> bool {
    let to = endpoint.ip().to_canonical();
    let nobodys = match to {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 224..),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
    };
    let beside = |own: IpAddr| !is_public(own) && own.is_loopback() == to.is_loopback();
    endpoint.port() != 0 && !nobodys && (is_public(to) || own.is_some_and(beside))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, clippy::unwrap_used)]
    use super::*;

    const OWN: &str = "1.2.3.4";
    const REQUESTER: &str = "5.6.7.8:40000";

    fn begun(to: &str, own: &str) -> Option<SocketAddr> {
        let now = Instant::now();
        let mut punching = Punching::default();
        punching.begin(to.parse().unwrap(), own.parse().ok(), now);
        punching.handle_timeout(now)
    }

    #[test]
    fn a_hint_is_worth_a_handful_of_datagrams_and_a_lease_not_many_more() {
        let start = Instant::now();
        let mut punching = Punching::default();
        let mut sent = Vec::new();
        for _ in 0..10 {
            let begun = start + Duration::from_secs(60);
            punching.begin(REQUESTER.parse().unwrap(), OWN.parse().ok(), begun);
            let mut after = Vec::new();
            while let Some(at) = punching.poll_timeout() {
                if punching.handle_timeout(at).is_some() {
                    after.push((at - begun).as_millis());
                }
            }
            sent.push(after);
        }
        assert_eq!(sent[0], [0, 200, 600, 1_400, 3_000, 6_200]);
        assert_eq!(sent.concat().len(), usize::from(OF_A_LEASE));
    }

    #[test]
    fn nothing_is_sent_before_its_time_or_after_the_end() {
        let now = Instant::now();
        let mut punching = Punching::default();
        punching.begin(REQUESTER.parse().unwrap(), OWN.parse().ok(), now);
        assert!(punching.handle_timeout(now).is_some());
        let early = now + FIRST_WAIT - Duration::from_millis(1);
        assert_eq!(punching.handle_timeout(early), None);
        punching.end();
        assert_eq!(punching.handle_timeout(now + FIRST_WAIT), None);
        assert_eq!(punching.poll_timeout(), None);
    }

    #[test]
    fn only_what_may_be_a_requester_is_sent_anything() {
        assert!(begun(REQUESTER, OWN).is_some());
        assert!(begun("[2600::7]:40000", OWN).is_some());
        for nobody in [
            "5.6.7.8:0",
            "0.0.0.0:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "[ff02::1]:9",
            "[::]:9",
            "[::ffff:239.1.1.1]:9",
        ] {
            assert_eq!(begun(nobody, OWN), None, "{nobody}");
            assert_eq!(begun(nobody, "127.0.0.1"), None, "{nobody}");
        }
        let inside = [
            "10.0.0.7:9",
            "192.168.1.1:9",
            "169.254.169.254:80",
            "[fe80::1]:9",
        ];
        for inside in inside.into_iter().chain(["127.0.0.1:53", "[::1]:53"]) {
            assert_eq!(begun(inside, OWN), None, "{inside}");
        }
        // Who is seen at such an address has its requesters beside it.
        assert!(begun("127.0.0.1:4000", "127.0.1.1").is_some());
        assert!(begun("10.0.0.7:9", "10.0.0.8").is_some());
        assert_eq!(begun("127.0.0.1:53", "10.0.0.8"), None);
    }
}
