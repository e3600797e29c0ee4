//! What the client asks the gateway itself: names and echoes.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use ipsx_tunnel_core::packet;
use tokio::sync::oneshot;

use crate::{
    deadlines::{Deadlines, Ended, Ending},
    engine::Context,
};

/// When a question is asked again, and at last given up, counted from the first time.
const ATTEMPTS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(7),
    Duration::from_secs(15),
];

/// How long an unanswered echo is remembered.
const ECHO_MEMORY: Duration = Duration::from_secs(60);

/// First port of the ephemeral range (RFC 6335).
const FIRST_PORT: u16 = 49_152;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It is no host name.
    #[error("'{0}' is no host name")]
    BadName(String),
    /// It does not exist, or has no address that the exit's policy lets through.
    #[error("'{0}' has no address that can be used")]
    NotFound(String),
    /// A domain list of the provider's has it.
    #[error("the provider's exit policy does not answer for '{0}'")]
    Denied(String),
    /// The provider's resolver failed.
    #[error("the provider could not resolve '{0}'")]
    Failed(String),
    /// The provider did not answer.
    #[error("the provider did not answer the question for '{0}' in time")]
    TimedOut(String),
    /// The tunnel has been shut down.
    #[error("the tunnel has been shut down")]
    Stopped,
}

/// One name under way: one question for each address family.
struct Lookup {
    host: String,
    reply: Option<oneshot::Sender<Result<Vec<IpAddr>, ResolveError>>>,
    open: usize,
    found: Vec<IpAddr>,
    /// Why a question has no answer; of several the last.
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy)]
enum Failure {
    Denied,
    Failed,
}

struct Question {
    lookup: u64,
    id: u16,
    query: Query,
    message: Vec<u8>,
    asked_at: Instant,
    attempts: usize,
}

/// Questions that wait for their answers.
pub(super) struct Questions {
    inner_v4: IpAddr,
    inner_v6: bool,
    gateway: IpAddr,
    lookups: HashMap<u64, Lookup>,
    /// By local port.
    questions: HashMap<u16, Question>,
    answered: Ended<u16>,
    deadlines: Deadlines<u16>,
    echoes: HashMap<u16, (Instant, oneshot::Sender<Duration>)>,
    echo_identifier: u16,
    next_echo: u16,
    next_lookup: u64,
    packet: Vec<u8>,
}

impl Questions {
    pub(super) fn new(inner_v4: IpAddr, inner_v6: bool, gateway: IpAddr) -> Self {
        Self {
            inner_v4,
            inner_v6,
            gateway,
            lookups: HashMap::new(),
            questions: HashMap::new(),
            answered: Ended::new(),
            deadlines: Deadlines::new(),
            echoes: HashMap::new(),
            echo_identifier: rand::random(),
            next_echo: 0,
            next_lookup: 0,
            packet: Vec::new(),
        }
    }

    /// Asks the gateway for a name's addresses.
    pub(super) fn resolve(
        &mut self,
        host: String,
        reply: oneshot::Sender<Result<Vec<IpAddr>, ResolveError>>,
        cx: &mut Context<'_>,
    ) {
        let name = match Name::from_utf8(&host) {
            Ok(mut name) if !host.is_empty() => {
                name.set_fqdn(true);
                name
            }
            _ => return drop(reply.send(Err(ResolveError::BadName(host)))),
        };
        let types: &[RecordType] = if self.inner_v6 {
            &[RecordType::A, RecordType::AAAA]
        } else {
            &[RecordType::A]
        };
        let lookup = self.next_lookup;
        self.next_lookup += 1;
        self.lookups.insert(
            lookup,
            Lookup {
                host,
                reply: Some(reply),
                open: types.len(),
                found: Vec::new(),
                failure: None,
            },
        );
        for &kind in types {
            self.ask(lookup, Query::query(name.clone(), kind), cx);
        }
    }

    fn ask(&mut self, lookup: u64, query: Query, cx: &mut Context<'_>) {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        let (Some(port), Ok(bytes)) = (self.free_port(), message.to_vec()) else {
            return self.finish_one(lookup, Err(Failure::Failed));
        };
        let question = Question {
            lookup,
            id: message.metadata.id,
            query,
            message: bytes,
            asked_at: cx.now,
            attempts: 0,
        };
        self.send(port, &question.message, cx);
        self.deadlines.push(cx.now + ATTEMPTS[0], port);
        self.questions.insert(port, question);
    }

    /// A random free port, which an answer from anyone else would have to guess.
    fn free_port(&self) -> Option<u16> {
        (0..64)
            .map(|_| FIRST_PORT | rand::random::<u16>())
            .find(|port| !self.questions.contains_key(port) && !self.answered.contains(port))
    }

    fn send(&mut self, port: u16, message: &[u8], cx: &mut Context<'_>) {
        let (source, destination) = (
            SocketAddr::new(self.inner_v4, port),
            SocketAddr::new(self.gateway, 53),
        );
        if packet::udp(&mut self.packet, source, destination, message) {
            cx.send(&self.packet);
        }
    }

    /// Takes a datagram to one of our ports; false if nobody here asked for it.
    pub(super) fn handle_answer(
        &mut self,
        from: SocketAddr,
        port: u16,
        payload: &[u8],
        now: Instant,
    ) -> bool {
        if from != SocketAddr::new(self.gateway, 53) {
            return false;
        }
        let Some(question) = self.questions.get(&port) else {
            return self.answered.contains(&port);
        };
        let Ok(message) = Message::from_vec(payload) else {
            return true;
        };
        if message.metadata.id != question.id || message.queries.first() != Some(&question.query) {
            return true;
        }
        let lookup = question.lookup;
        self.questions.remove(&port);
        self.answered.insert(port, Ending::Abrupt, now);
        let result = match message.metadata.response_code {
            ResponseCode::NoError => Ok(message
                .answers
                .iter()
                .filter_map(|record| address(&record.data))
                .collect()),
            ResponseCode::NXDomain => Ok(Vec::new()),
            ResponseCode::Refused => Err(Failure::Denied),
            _ => Err(Failure::Failed),
        };
        self.finish_one(lookup, result);
        true
    }

    fn finish_one(&mut self, id: u64, result: Result<Vec<IpAddr>, Failure>) {
        let Some(lookup) = self.lookups.get_mut(&id) else {
            return;
        };
        lookup.open -= 1;
        match result {
            Ok(addresses) => lookup.found.extend(addresses),
            Err(failure) => lookup.failure = Some(failure),
        }
        if lookup.open > 0 {
            return;
        }
        let Some(mut lookup) = self.lookups.remove(&id) else {
            return;
        };
        lookup.found.sort_by_key(IpAddr::is_ipv6);
        let result = if !lookup.found.is_empty() {
            Ok(lookup.found)
        } else {
            Err(match lookup.failure {
                Some(Failure::Denied) => ResolveError::Denied(lookup.host),
                Some(Failure::Failed) => ResolveError::Failed(lookup.host),
                None => ResolveError::NotFound(lookup.host),
            })
        };
        if let Some(reply) = lookup.reply {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(result);
        }
    }

    /// Sends an echo request to the gateway.
    pub(super) fn echo(&mut self, reply: oneshot::Sender<Duration>, cx: &mut Context<'_>) {
        self.next_echo = self.next_echo.wrapping_add(1);
        let sequence = self.next_echo;
        if packet::echo_request(
            &mut self.packet,
            self.inner_v4,
            self.gateway,
            self.echo_identifier,
            sequence,
            &[0; 16],
        ) {
            cx.send(&self.packet);
        }
        self.echoes.insert(sequence, (cx.now, reply));
    }

    /// Takes an echo reply; false if it answers no request of this tunnel.
    pub(super) fn handle_echo(
        &mut self,
        from: IpAddr,
        identifier: u16,
        sequence: u16,
        now: Instant,
    ) -> bool {
        if from != self.gateway || identifier != self.echo_identifier {
            return false;
        }
        if let Some((asked_at, reply)) = self.echoes.remove(&sequence) {
            let _ = reply.send(now.saturating_duration_since(asked_at));
        }
        true
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.answered.expire(cx.now);
        self.echoes
            .retain(|_, (asked_at, reply)| !reply.is_closed() && *asked_at + ECHO_MEMORY > cx.now);
        while let Some(port) = self.deadlines.pop_due(cx.now) {
            let Some(question) = self.questions.get_mut(&port) else {
                continue;
            };
            question.attempts += 1;
            let (attempts, asked_at, lookup) =
                (question.attempts, question.asked_at, question.lookup);
            let Some(&next) = ATTEMPTS.get(attempts) else {
                self.questions.remove(&port);
                self.answered.insert(port, Ending::Abrupt, cx.now);
                self.time_out(lookup);
                continue;
            };
            // A port used again within a second would be asked again early, which does no harm.
            self.deadlines.push(asked_at + next, port);
            let message = question.message.clone();
            self.send(port, &message, cx);
        }
    }

    fn time_out(&mut self, id: u64) {
        if let Some(lookup) = self.lookups.get_mut(&id)
            && lookup.found.is_empty()
            && lookup.open == 1
            && let Some(reply) = lookup.reply.take()
        {
            let _ = reply.send(Err(ResolveError::TimedOut(lookup.host.clone())));
        }
        self.finish_one(id, Err(Failure::Failed));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}
