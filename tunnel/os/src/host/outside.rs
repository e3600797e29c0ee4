//! Whom the tunnels' datagrams go to past the kill switch: the providers of the lease in use and of the next one, reflectors,
//! and relays.

use std::net::{IpAddr, SocketAddr};

/// Relays that are kept in mind: what a broker names is not without end.
const RELAYS: usize = 4;

/// Port 0 stands for any.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Of the lease in use.
    own: Vec<SocketAddr>,
    /// Of the one that is to take over.
    beside: Vec<SocketAddr>,
    /// Of either, as it became known; the latest is the last.
    relays: Vec<IpAddr>,
}

impl Outside {
    /// Of the first lease.
    pub(super) fn new(own: Vec<SocketAddr>) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// Another lease is to take over, in place of one that was to.
    pub(super) fn begin_beside(&mut self, endpoints: impl IntoIterator<Item = SocketAddr>) {
        self.beside = endpoints.into_iter().collect();
    }

    /// It has. Its relay may be one that became known meanwhile.
    pub(super) fn take_over(&mut self, own: Vec<SocketAddr>) {
        self.own = own;
        self.beside.clear();
    }

    /// A tunnel is relayed from there; whether that is new.
    pub(super) fn relay(&mut self, relay: IpAddr) -> bool {
        let any = SocketAddr::new(relay, 0);
        if self.all().any(|endpoint| endpoint == any) {
            return false;
        }
        if self.relays.len() >= RELAYS {
            self.relays.remove(0);
        }
        self.relays.push(relay);
        true
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let relays = self.relays.iter().map(|relay| SocketAddr::new(*relay, 0));
        self.own.iter().chain(&self.beside).copied().chain(relays)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn all(outside: &Outside) -> Vec<String> {
        outside.all().map(|endpoint| endpoint.to_string()).collect()
    }

    fn at(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_relay_of_the_lease_in_use_stays_while_another_one_begins_that_needs_none() {
        let mut outside = Outside::new(at(&["192.0.2.1:51820", "192.0.2.9:0"]));
        for next in ["192.0.2.2:51820", "192.0.2.3:51820"] {
            outside.begin_beside(at(&[next]));
            assert_eq!(all(&outside), ["192.0.2.1:51820", "192.0.2.9:0", next]);
        }
        outside.take_over(at(&["192.0.2.3:51820"]));
        assert_eq!(all(&outside), ["192.0.2.3:51820"]);
    }

    #[test]
    fn relays_elsewhere_are_let_through_once_they_are_known_and_are_few() {
        let mut outside = Outside::new(at(&["192.0.2.1:51820", "192.0.2.9:0"]));
        assert!(
            !outside.relay("192.0.2.9".parse().unwrap()),
            "it is already"
        );
        let relay = |number: u8| IpAddr::from([198, 51, 100, number]);
        assert!(outside.relay(relay(1)));
        assert!(!outside.relay(relay(1)));
        outside.take_over(at(&["192.0.2.2:51820"]));
        assert_eq!(all(&outside), ["192.0.2.2:51820", "198.51.100.1:0"]);
        for number in 2..=5 {
            assert!(outside.relay(relay(number)));
        }
        let relays = [2, 3, 4, 5].map(|number| format!("198.51.100.{number}:0"));
        assert_eq!(all(&outside)[1..], relays);
    }
}
