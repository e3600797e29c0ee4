//! Says what it sees of whoever asks by STUN (RFC 8489), and tries agents' endpoints with tokens.
//!
//! Two sockets of one address. The first answers, with no more bytes than it was asked with, so that nobody is sent more than
//! was sent in its name. The second only sends: an agent's NAT has never seen its port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipsx_stun::{Message, REQUEST, Transaction};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::agents::prefix;
use crate::error::StartError;
use crate::http::Limiter;

/// Answers a second to one network (a /24 of IPv4, a /48 of IPv6), in whose name anybody may ask.
const PREFIX_ANSWERS: u32 = 20;
/// The longest request that is read; what is longer is none.
const LONGEST: usize = 576;

/// Both sockets.
pub(crate) struct Reflector {
    asked: UdpSocket,
    trying: UdpSocket,
    told: SocketAddr,
}

impl Reflector {
    /// Binds the sockets. `public` is what others reach the address by, if it is another one.
    pub(crate) async fn bind(
        listen: SocketAddr,
        public: Option<IpAddr>,
    ) -> Result<Self, StartError> {
        let failed = |reason: io::Error| StartError::Listen {
            address: listen,
            purpose: "who asks what is seen of it",
            key: "reflector_listen",
            reason,
        };
        let asked = UdpSocket::bind(listen).await.map_err(failed)?;
        let beside = SocketAddr::new(listen.ip(), 0);
        let trying = UdpSocket::bind(beside).await.map_err(failed)?;
        let own = asked.local_addr().map_err(failed)?;
        let told = SocketAddr::new(public.unwrap_or(own.ip()), own.port());
        Ok(Self {
            asked,
            trying,
            told,
        })
    }

    /// What others are told to ask.
    pub(crate) fn address(&self) -> SocketAddr {
        self.told
    }

    /// Answers until the task is ended.
    pub(crate) async fn run(self: Arc<Self>) {
        let limiter = Limiter::new("prefix", PREFIX_ANSWERS);
        let mut datagram = [0; LONGEST + 1];
        loop {
            let (length, from) = match self.asked.recv_from(&mut datagram).await {
                Ok(received) => received,
                Err(error) => {
                    // What a machine says that an answer did not reach.
                    tracing::trace!(%error, "the reflector's socket");
                    continue;
                }
            };
            let Some(answer) = answer(&datagram[..length], from) else {
                continue;
            };
            let verdict = limiter.take(prefix(from.ip()), Instant::now());
            if verdict.is_none_or(|verdict| verdict.wait().is_none()) {
                // A lost answer is asked for again.
                let _ = self.asked.try_send_to(&answer, from);
            }
        }
    }

    /// Sends a token, which may be lost.
    pub(crate) fn try_endpoint(&self, to: SocketAddr, token: u64) {
        let datagram = Message::Indication.write(Transaction::from(token));
        let to = self.reachable(to);
        if let Err(error) = self.trying.try_send_to(&datagram, to) {
            tracing::debug!(%to, %error, "a token was not sent");
        }
    }

    /// An IPv4 address as a socket of both versions knows it.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.trying.local_addr(), to.ip()) {
            (Ok(own), IpAddr::V4(v4)) if own.is_ipv6() => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        }
    }
}

/// The answer to a request that is at least as long.
fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    if !(REQUEST..=LONGEST).contains(&datagram.len()) {
        return None;
    }
    let (Message::Request, transaction) = Message::parse(datagram)? else {
        return None;
    };
    let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
    Some(Message::Mapped(seen).write(transaction))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn no_answer_is_longer_than_what_asked_for_it() {
        let from = "[::ffff:192.0.2.7]:4000".parse().unwrap();
        let transaction = Transaction([3; 12]);
        let request = Message::Request.write(transaction);
        let answered = answer(&request, from).unwrap();
        assert!(answered.len() <= request.len());
        let seen = "192.0.2.7:4000".parse().unwrap();
        assert_eq!(
            Message::parse(&answered),
            Some((Message::Mapped(seen), transaction))
        );
        // Twenty bytes ask as well, but an answer has more.
        let mut bare = request.clone();
        bare.truncate(ipsx_stun::HEADER);
        bare[2..4].fill(0);
        assert!(Message::parse(&bare).is_some());
        assert_eq!(answer(&bare, from), None);
        let mut long = request;
        long.resize(LONGEST + 1, 0);
        for other in [
            long,
            answered,
            Message::Indication.write(transaction),
            vec![1; 148],
        ] {
            assert_eq!(answer(&other, from), None);
        }
    }

    #[tokio::test]
    async fn one_network_is_answered_only_so_often() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let reflector = Arc::new(Reflector::bind(listen, None).await.unwrap());
        let running = tokio::spawn(Arc::clone(&reflector).run());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut answers = 0;
        let mut datagram = [0; 64];
        for number in 0..u64::from(PREFIX_ANSWERS) * 15 {
            let request = Message::Request.write(Transaction::from(number));
            socket.send_to(&request, reflector.address()).await.unwrap();
            let answer = socket.recv_from(&mut datagram);
            if timeout(Duration::from_millis(20), answer).await.is_ok() {
                answers += 1;
            }
        }
        running.abort();
        // Ten seconds' worth at once, and what became free meanwhile.
        assert!((200..290).contains(&answers), "{answers}");
    }
}
