//! Who may connect, how often, and how many at once: before anybody is known, and by wallet afterwards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipsx_metering::Address;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::http::Limiter;

/// Handshakes at work at the same time. At a round trip of 200 ms each takes most of a second, so fewer would leave the
/// processor idle when thousands come back at once.
const HANDSHAKES: usize = 512;
/// Connections without a proved wallet, those that wait for their turn included.
const PENDING: usize = 16_384;
/// Of these from one prefix.
const PENDING_OF_PREFIX: usize = 512;
/// From as many on, whoever connects shows first that it can be reached at its address.
const RETRY_ABOVE: usize = 64;
/// A handshake begins within this time or not at all: an agent waits 20 s for the whole of it, and one that has gone must
/// take nobody's turn.
const TURN: Duration = Duration::from_secs(12);
/// Handshakes of one wallet a second; ten times as many at once.
const WALLET_CONNECTS: u32 = 1;

/// What agents may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Time for the whole handshake.
    pub(crate) handshake: Duration,
    /// Messages a second from one agent, on average; ten times as many at once.
    pub(crate) messages_per_second: u32,
    /// Agents connected.
    pub(crate) agents: u32,
    /// Connections a second from one prefix, likewise; 0 for any number.
    pub(crate) prefix_connects_per_second: u32,
    /// Messages a second from all agents of one prefix, likewise.
    pub(crate) prefix_messages_per_second: u32,
}

/// The network that an address stands for: a /24 of IPv4, a /48 of IPv6.
pub(crate) fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << 8))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80))),
    }
}

/// What becomes of a connection that begins.
pub(crate) enum Verdict {
    /// It may go on.
    Admit(Pending),
    /// It has to show that it can be reached at its address, and is forgotten meanwhile.
    Retry,
    /// It may not; the metric's label.
    Refuse(&'static str),
}

#[derive(Default)]
struct Waiting {
    all: usize,
    of_prefix: HashMap<IpAddr, usize>,
}

/// The gate before the desk.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    waiting: Mutex<Waiting>,
    handshakes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    connects: Limiter<IpAddr>,
    wallets: Limiter<Address>,
    messages: Limiter<IpAddr>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            waiting: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            places: Arc::new(Semaphore::new(limits.agents as usize)),
            connects: Limiter::new("prefix", limits.prefix_connects_per_second),
            wallets: Limiter::new("wallet", WALLET_CONNECTS),
            messages: Limiter::new("prefix", limits.prefix_messages_per_second),
        })
    }

    /// Judges a connection that begins. `reachable` is whether it has shown to be at its address: what comes from others
    /// counts for nobody, since anybody may have sent it.
    pub(crate) fn judge(self: &Arc<Self>, address: IpAddr, reachable: bool) -> Verdict {
        let prefix = prefix(address);
        if self.places.available_permits() == 0 {
            return Verdict::Refuse("agents_full");
        }
        let mut waiting = self.lock();
        let of_prefix = waiting.of_prefix.get(&prefix).copied().unwrap_or(0);
        if !reachable && waiting.all >= RETRY_ABOVE {
            return Verdict::Retry;
        }
        if waiting.all >= PENDING {
            return Verdict::Refuse("handshakes_full");
        }
        if of_prefix >= PENDING_OF_PREFIX {
            return Verdict::Refuse("prefix_handshakes_full");
        }
        if reachable && !self.may_connect(prefix) {
            return Verdict::Refuse("prefix_connect_rate");
        }
        waiting.all += 1;
        waiting.of_prefix.insert(prefix, of_prefix + 1);
        Verdict::Admit(Pending {
            gate: Arc::clone(self),
            prefix,
            counted: reachable,
        })
    }

    /// Waits for a handshake's turn; `None` if it does not come in time.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.handshakes).acquire_owned();
        tokio::time::timeout(TURN, turn).await.ok()?.ok()
    }

    /// A place for an agent that has proved its wallet.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Whether a wallet may connect once more: two machines with the same one would push each other out for ever.
    pub(crate) fn may_join(&self, wallet: Address) -> bool {
        let verdict = self.wallets.take(wallet, Instant::now());
        verdict.is_none_or(|verdict| verdict.wait().is_none())
    }

    /// Waits until a prefix may say one more thing.
    pub(crate) async fn pace(&self, prefix: IpAddr) {
        loop {
            let verdict = self.messages.take(prefix, Instant::now());
            match verdict.and_then(|verdict| verdict.wait()) {
                None => return,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    fn may_connect(&self, prefix: IpAddr) -> bool {
        let verdict = self.connects.take(prefix, Instant::now());
        verdict.is_none_or(|verdict| verdict.wait().is_none())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Counters are whole after any panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection without a proved wallet. It counts as long as this lives.
pub(crate) struct Pending {
    gate: Arc<Gate>,
    prefix: IpAddr,
    /// Whether it was counted for its prefix.
    counted: bool,
}

impl Pending {
    /// It is at its address: whether the prefix may have it.
    pub(crate) fn reached(&mut self) -> bool {
        std::mem::replace(&mut self.counted, true) || self.gate.may_connect(self.prefix)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = self.gate.lock();
        waiting.all -= 1;
        if let Some(count) = waiting.of_prefix.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                waiting.of_prefix.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn gate(agents: u32, connects: u32) -> Arc<Gate> {
        Gate::new(Limits {
            handshake: Duration::from_secs(5),
            messages_per_second: 100,
            agents,
            prefix_connects_per_second: connects,
            prefix_messages_per_second: 0,
        })
    }

    fn label(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Admit(_) => "admit",
            Verdict::Retry => "retry",
            Verdict::Refuse(label) => label,
        }
    }

    fn address(n: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n as u32))
    }

    #[test]
    fn prefixes_are_what_one_customer_has() {
        let of = |text: &str| prefix(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.77"), "192.0.2.0");
        assert_eq!(of("::ffff:192.0.2.77"), "192.0.2.0");
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1::");
    }

    #[test]
    fn strangers_in_numbers_show_that_they_can_be_reached() {
        let gate = gate(1_000, 0);
        let held: Vec<_> = (0..RETRY_ABOVE)
            .map(|n| gate.judge(address(n << 8), false))
            .collect();
        assert!(held.iter().all(|verdict| label(verdict) == "admit"));
        assert_eq!(label(&gate.judge(address(0), false)), "retry");
        assert_eq!(label(&gate.judge(address(0), true)), "admit");
        drop(held);
        assert_eq!(label(&gate.judge(address(0), false)), "admit");
    }

    #[test]
    fn one_prefix_cannot_take_all_turns_nor_all_prefixes_more_than_there_are() {
        let gate = gate(100_000, 0);
        let one: Vec<_> = (0..PENDING_OF_PREFIX)
            .map(|_| gate.judge(address(1), true))
            .collect();
        let more = gate.judge(address(2), true);
        assert_eq!(label(&more), "prefix_handshakes_full");
        let others: Vec<_> = (PENDING_OF_PREFIX..PENDING)
            .map(|n| gate.judge(address(n << 8), true))
            .collect();
        assert!(others.iter().all(|verdict| label(verdict) == "admit"));
        let more = gate.judge(address(3 << 16), true);
        assert_eq!(label(&more), "handshakes_full");
        drop((one, others));
        assert_eq!(gate.lock().all, 0);
        assert!(gate.lock().of_prefix.is_empty());
    }

    #[test]
    fn spoofed_addresses_cost_their_prefix_nothing() {
        let gate = gate(1_000, 1);
        for _ in 0..50 {
            assert_eq!(label(&gate.judge(address(1), false)), "admit");
        }
        for _ in 0..10 {
            assert_eq!(label(&gate.judge(address(1), true)), "admit");
        }
        let more = gate.judge(address(2), true);
        assert_eq!(label(&more), "prefix_connect_rate");
        // Who was let in unseen counts once it is reached.
        let Verdict::Admit(mut pending) = gate.judge(address(1), false) else {
            panic!("refused")
        };
        assert!(!pending.reached());
    }

    #[test]
    fn a_full_broker_says_so_at_once() {
        let gate = gate(1, 0);
        let place = gate.place();
        assert!(place.is_some() && gate.place().is_none());
        assert_eq!(label(&gate.judge(address(1), true)), "agents_full");
        drop(place);
        assert_eq!(label(&gate.judge(address(1), true)), "admit");
    }

    #[test]
    fn a_wallet_may_come_back_ten_times_at_once_and_not_more() {
        let gate = gate(10, 0);
        let wallet = Address::repeat_byte(1);
        assert!((0..10).all(|_| gate.may_join(wallet)));
        assert!(!gate.may_join(wallet));
        assert!(gate.may_join(Address::repeat_byte(2)));
    }
}
