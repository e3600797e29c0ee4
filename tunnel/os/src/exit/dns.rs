//! DNS at the gateway: questions for addresses, answered with what the host's own resolver says and the policy lets
//! through.

mod answer;
mod connections;
mod upstream;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender, SyncSender, TrySendError},
    },
    thread,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use ipsx_tunnel_core::{DropReason, Matcher, PeerId};

use super::FlowKey;
use crate::error::TunnelError;

pub(super) use answer::Answer;
pub(super) use connections::Connections;
use upstream::Found;

/// The port of DNS.
pub(super) const PORT: u16 = 53;

/// Threads that wait for the host's resolver.
const THREADS: usize = 8;

/// Questions that wait for a thread.
const QUEUE: usize = 256;

/// Questions of one peer under way.
const PER_PEER: usize = 32;

/// How a question came, and its answer goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// In a datagram of this flow.
    Datagram(FlowKey),
    /// Over a connection with this number in [`Connections`].
    Connection(FlowKey, u64),
}

impl Way {
    pub(super) fn peer(self) -> PeerId {
        match self {
            Self::Datagram(key) | Self::Connection(key, _) => key.peer,
        }
    }
}

struct Question {
    way: Way,
    message: Message,
    name: Name,
    kind: RecordType,
}

/// Answers A and AAAA questions; every other type exists with no data.
pub(super) struct Forwarder {
    questions: SyncSender<Question>,
    found: Receiver<(Question, Result<Found, ResponseCode>)>,
    under_way: HashMap<PeerId, usize>,
}

impl Forwarder {
    /// Starts the threads; they end when the forwarder is dropped. `waker` is woken for each answer.
    pub(super) fn new(waker: Arc<mio::Waker>) -> Result<Self, TunnelError> {
        let (questions, queue) = mpsc::sync_channel(QUEUE);
        let (sender, found) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let (queue, sender, waker) = (Arc::clone(&queue), sender.clone(), Arc::clone(&waker));
            thread::Builder::new()
                .name("ipsx-dns".to_owned())
                .spawn(move || look_up_all(&queue, &sender, &waker))
                .map_err(TunnelError::Start)?;
        }
        Ok(Self {
            questions,
            found,
            under_way: HashMap::new(),
        })
    }

    /// Takes a question. Without an answer, it comes later from [`Forwarder::poll_answer`].
    pub(super) fn ask(
        &mut self,
        way: Way,
        payload: &[u8],
        matcher: &Matcher,
    ) -> Result<Option<Answer>, DropReason> {
        let message = Message::from_vec(payload).map_err(|_| DropReason::BadDns)?;
        if message.metadata.message_type != MessageType::Query {
            return Err(DropReason::BadDns);
        }
        let [query] = message.queries.as_slice() else {
            return Err(DropReason::BadDns);
        };
        if message.metadata.op_code != OpCode::Query {
            return Ok(Some(Answer::empty(way, &message, ResponseCode::NotImp)));
        }
        let (name, kind) = (query.name().clone(), query.query_type());
        if let Some(category) = matcher.denied_category(&name.to_ascii()) {
            return Ok(Some(Answer::denied(way, &message, category)));
        }
        if query.query_class() != DNSClass::IN || !matches!(kind, RecordType::A | RecordType::AAAA)
        {
            return Ok(Some(Answer::empty(way, &message, ResponseCode::NoError)));
        }
        let under_way = self.under_way.entry(way.peer()).or_default();
        if *under_way >= PER_PEER {
            return Err(DropReason::DnsBusy);
        }
        let question = Question {
            way,
            message,
            name,
            kind,
        };
        match self.questions.try_send(question) {
            Ok(()) => {
                *under_way += 1;
                Ok(None)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(DropReason::DnsBusy),
        }
    }

    /// An answer that has been found, as far as the peer's policy lets it through: no name on the way to the addresses
    /// may be denied, and none of these may lead into the exit's own network.
    pub(super) fn poll_answer<'a>(
        &mut self,
        matcher_of: impl FnOnce(PeerId) -> &'a Matcher,
    ) -> Option<Answer> {
        let (Question { way, message, .. }, found) = self.found.try_recv().ok()?;
        if let Some(under_way) = self.under_way.get_mut(&way.peer()) {
            *under_way = under_way.saturating_sub(1);
        }
        let matcher = matcher_of(way.peer());
        let mut found = match found {
            Ok(found) => found,
            Err(code) => return Some(Answer::empty(way, &message, code)),
        };
        let denied = |name: &Name| matcher.denied_category(&name.to_ascii());
        if let Some(category) = found.names.iter().find_map(denied) {
            return Some(Answer::denied(way, &message, category));
        }
        found
            .addresses
            .retain(|&address| matcher.check_address(address).is_ok());
        Some(Answer::found(way, &message, &found))
    }

    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.under_way.remove(&peer);
    }
}

fn look_up_all(
    queue: &Mutex<Receiver<Question>>,
    found: &Sender<(Question, Result<Found, ResponseCode>)>,
    waker: &mio::Waker,
) {
    loop {
        let question = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(question) = question else {
            return;
        };
        let answer = upstream::look_up(&question.name, question.kind);
        if found.send((question, answer)).is_err() || waker.wake().is_err() {
            return;
        }
    }
}
