//! How many handshake messages may cost us something.
//!
//! A message with the right first MAC can be made by anybody who knows our public key, from any source address. The
//! first of each second are answered as they come. Of the rest only those pass that prove their address by a cookie,
//! and even these are limited: by address, and all together. Everything else is at most answered with a cookie. Addresses
//! that peers have called from get theirs even when strangers have used up all others: their sessions need new keys every
//! two minutes, flood or not.

use std::{collections::HashMap, net::IpAddr, time::Duration, time::Instant};

/// Messages a second that pass without a proof.
const CALM: u32 = 200;

/// Messages a second that pass with a proof, from all addresses: each costs about 0.1 ms of Diffie-Hellman.
const PROVEN: u32 = 2_000;

/// Cookies sent a second: each costs a system call.
const COOKIES: u32 = 10_000;

/// Cookies sent a second to addresses that peers have called from.
const KNOWN_COOKIES: u32 = 2_000;

/// How long such an address is remembered: a few sessions.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Messages a second and at once from one address.
const PER_SOURCE: u32 = 20;
const BURST: u32 = 5;

/// Addresses counted at once, at most.
const MAX_SOURCES: usize = 4_096;

const PERIOD: Duration = Duration::from_secs(1);

/// Whether handshakes arrive so fast that they have to prove their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Calm,
    Flood,
}

#[derive(Debug)]
pub(crate) struct HandshakeLimits {
    period_ends: Instant,
    seen: u32,
    proven: u32,
    cookies: u32,
    known_cookies: u32,
    /// Addresses that peers have called from, and until when that counts.
    known: HashMap<IpAddr, Instant>,
    /// Until when each address has used up its share: a bucket that holds time.
    sources: HashMap<IpAddr, Instant>,
}

impl HandshakeLimits {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            period_ends: now + PERIOD,
            seen: 0,
            proven: 0,
            cookies: 0,
            known_cookies: 0,
            known: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    /// Counts a message, and says how they come.
    pub(crate) fn pace(&mut self, now: Instant) -> Pace {
        if now >= self.period_ends {
            self.period_ends = now + PERIOD;
            (self.seen, self.proven) = (0, 0);
            (self.cookies, self.known_cookies) = (0, 0);
            self.sources.retain(|_, &mut used_until| used_until > now);
        }
        self.seen = self.seen.saturating_add(1);
        if self.seen > CALM {
            Pace::Flood
        } else {
            Pace::Calm
        }
    }

    /// Whether a message from a proven address may pass.
    pub(crate) fn take_proven(&mut self, from: IpAddr, now: Instant) -> bool {
        let may = self.proven < PROVEN && self.take_share(from, now);
        self.proven += u32::from(may);
        may
    }

    /// Remembers that a peer has called from an address.
    pub(crate) fn remember(&mut self, from: IpAddr, now: Instant) {
        if self.known.len() >= MAX_SOURCES {
            self.known.retain(|_, &mut until| until > now);
        }
        let source = network(from);
        if self.known.len() < MAX_SOURCES || self.known.contains_key(&source) {
            self.known.insert(source, now + REMEMBERED);
        }
    }

    /// Whether a cookie may be sent to an address.
    pub(crate) fn take_cookie(&mut self, to: IpAddr, now: Instant) -> bool {
        if self.cookies < COOKIES {
            self.cookies += 1;
            return true;
        }
        let known = self
            .known
            .get(&network(to))
            .is_some_and(|&until| until > now);
        let may = known && self.known_cookies < KNOWN_COOKIES && self.take_share(to, now);
        self.known_cookies += u32::from(may);
        may
    }

    /// Takes one message of what an address may cost.
    fn take_share(&mut self, from: IpAddr, now: Instant) -> bool {
        let source = network(from);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return false;
        }
        let used_until = self.sources.entry(source).or_insert(now);
        let after = (*used_until).max(now) + PERIOD / PER_SOURCE;
        let may = after <= now + BURST * (PERIOD / PER_SOURCE);
        if may {
            *used_until = after;
        }
        may
    }
}

/// What one user has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    fn flooded(now: Instant) -> HandshakeLimits {
        let mut limits = HandshakeLimits::new(now);
        for _ in 0..CALM {
            assert_eq!(limits.pace(now), Pace::Calm);
        }
        assert_eq!(limits.pace(now), Pace::Flood);
        limits
    }

    #[test]
    fn calm_returns_with_the_next_second() {
        let now = Instant::now();
        let mut limits = flooded(now);
        assert_eq!(limits.pace(now + Duration::from_millis(999)), Pace::Flood);
        assert_eq!(limits.pace(now + PERIOD), Pace::Calm);
    }

    #[test]
    fn one_address_gets_a_burst_and_then_its_rate() {
        let now = Instant::now();
        let mut limits = flooded(now);
        let mut take = |text: &str, ms| {
            let from = text.parse().expect("an address");
            limits.take_proven(from, now + Duration::from_millis(ms))
        };
        for _ in 0..BURST {
            assert!(take("2001:db8::1", 0));
        }
        assert!(!take("2001:db8::2", 0), "the same network");
        assert!(take("2001:db8:0:1::1", 0));
        assert!(take("192.0.2.1", 0));
        let passed = (0..1000).filter(|&ms| take("2001:db8::1", ms)).count();
        assert!((19..=20).contains(&passed), "{passed} in a second");
    }

    #[test]
    fn many_addresses_are_limited_together_and_forgotten() {
        let now = Instant::now();
        let mut limits = flooded(now);
        let from = |n: u32| IpAddr::V4(n.into());
        let passed = (0..10_000)
            .filter(|&n| limits.take_proven(from(n), now))
            .count();
        assert_eq!(passed, PROVEN as usize);
        let cookies = (0..20_000)
            .filter(|&n| limits.take_cookie(from(n), now))
            .count();
        assert_eq!(cookies, COOKIES as usize);
        limits.pace(now + PERIOD);
        assert!(limits.sources.is_empty());
        assert!(limits.take_proven(from(1), now + PERIOD));
        assert!(limits.take_cookie(from(1), now + PERIOD));
    }

    #[test]
    fn known_addresses_have_cookies_of_their_own() {
        let now = Instant::now();
        let mut limits = flooded(now);
        let from = |n: u32| IpAddr::V4(n.into());
        limits.remember(from(7), now);
        while limits.take_cookie(from(1), now) {}
        let mut take = |n, now| {
            (0..100)
                .filter(|_| limits.take_cookie(from(n), now))
                .count()
        };
        assert_eq!(take(7, now), BURST as usize, "and not more than its share");
        assert_eq!(take(8, now), 0);
        // What strangers do does not make it forgotten, time does.
        for n in 100..10_000 {
            limits.remember(from(n), now);
        }
        assert_eq!(limits.known.len(), MAX_SOURCES);
        assert!(limits.known.contains_key(&from(7)));
        limits.remember(from(20_000), now + REMEMBERED);
        assert_eq!(limits.known.len(), 1);
    }
}
