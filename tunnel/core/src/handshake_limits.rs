//! How many handshake messages may cost us something.
//!
//! A message with the right first MAC can be made by anybody who knows our public key, from any source address. The
//! first of each second are answered as they come. Of the rest only those pass that prove their address by a cookie,
//! and even these are limited: by address, and all together. Everything else is at most answered with a cookie.

use std::{collections::HashMap, net::IpAddr, time::Duration, time::Instant};

/// Messages a second that pass without a proof.
const CALM: u32 = 200;

/// Messages a second that pass with a proof, from all addresses: each costs about 0.1 ms of Diffie-Hellman.
const PROVEN: u32 = 2_000;

/// Cookies sent a second: each costs a system call.
const COOKIES: u32 = 10_000;

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
            sources: HashMap::new(),
        }
    }

    /// Counts a message, and says how they come.
    pub(crate) fn pace(&mut self, now: Instant) -> Pace {
        if now >= self.period_ends {
            self.period_ends = now + PERIOD;
            (self.seen, self.proven, self.cookies) = (0, 0, 0);
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
        let source = network(from);
        if self.proven >= PROVEN
            || (self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source))
        {
            return false;
        }
        let used_until = self.sources.entry(source).or_insert(now);
        let after = (*used_until).max(now) + PERIOD / PER_SOURCE;
        if after > now + BURST * (PERIOD / PER_SOURCE) {
            return false;
        }
        *used_until = after;
        self.proven += 1;
        true
    }

    /// Whether a cookie may be sent.
    pub(crate) fn take_cookie(&mut self) -> bool {
        let may = self.cookies < COOKIES;
        self.cookies += u32::from(may);
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
        let cookies = (0..20_000).filter(|_| limits.take_cookie()).count();
        assert_eq!(cookies, COOKIES as usize);
        limits.pace(now + PERIOD);
        assert!(limits.sources.is_empty());
        assert!(limits.take_proven(from(1), now + PERIOD) && limits.take_cookie());
    }
}
