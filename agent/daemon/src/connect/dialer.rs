//! Connections that never go through the lease they pay for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ipsx_settlement::Dial;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// One address is tried no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Marks its connections, and keeps the addresses of every name: once the kill switch is in force, the host's resolver
/// is inside the tunnel.
pub(super) struct MarkedDialer {
    mark: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Vec<IpAddr>>,
    reached: BTreeSet<SocketAddr>,
}

impl MarkedDialer {
    /// A dialer that knows some names already.
    pub(super) fn new(mark: u32, names: &[(String, Vec<IpAddr>)]) -> Self {
        let state = State {
            names: names.iter().cloned().collect(),
            reached: BTreeSet::new(),
        };
        Self {
            mark,
            state: Mutex::new(state),
        }
    }

    /// Every name that was asked for, with its addresses.
    pub(super) fn names(&self) -> Vec<(String, Vec<IpAddr>)> {
        let names = &self.state().names;
        names.iter().map(|(n, a)| (n.clone(), a.clone())).collect()
    }

    /// Everywhere it has connected to, or may have to again.
    pub(super) fn reached(&self) -> Vec<SocketAddr> {
        self.state().reached.iter().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if let Some(known) = self.state().names.get(host) {
            return Ok(known.clone());
        }
        let found: Vec<IpAddr> = tokio::net::lookup_host((host, 0))
            .await?
            .map(|address| address.ip())
            .collect();
        self.state().names.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        SockRef::from(&socket).set_mark(self.mark)?;
        match tokio::time::timeout(PATIENCE, socket.connect(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[async_trait]
impl Dial for MarkedDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = self.addresses(host).await?;
        let all = addresses.iter().map(|&ip| SocketAddr::new(ip, port));
        self.state().reached.extend(all.clone());
        let mut failed = io::Error::new(
            io::ErrorKind::NotFound,
            format!("the name {host} has no address"),
        );
        for address in all {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_name_that_is_known_is_not_asked_for_again() {
        let pinned: IpAddr = "192.0.2.1".parse().unwrap();
        // Nobody resolves names of this domain (RFC 6761).
        let name = "broker.invalid".to_owned();
        let dialer = MarkedDialer::new(7, &[(name.clone(), vec![pinned])]);
        assert_eq!(dialer.addresses(&name).await.unwrap(), [pinned]);
        assert_eq!(dialer.names(), [(name, vec![pinned])]);
        let literal = dialer.addresses("2001:db8::1").await.unwrap();
        assert_eq!(literal, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(dialer.names().len(), 1, "an address is no name");
    }

    #[tokio::test]
    async fn where_it_was_sent_is_remembered_even_if_nobody_answers() {
        let dialer = MarkedDialer::new(7, &[]);
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(dialer.dial("127.0.0.1", closed.port()).await.is_err());
        assert_eq!(dialer.reached(), [closed]);
    }
}
