//! DNS at the gateway: questions for addresses, answered with what the host's own resolver says.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender, SyncSender, TrySendError},
    },
    thread,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};
use ipsx_tunnel_core::{DropReason, Matcher, PeerId, packet};

use super::{Context, FlowKey};
use crate::{
    error::TunnelError,
    sys::{self, LookupFailure},
};

/// Threads that wait for the host's resolver.
const THREADS: usize = 4;

/// Questions that wait for a thread.
const QUEUE: usize = 256;

/// Questions of one peer under way.
const PER_PEER: usize = 32;

/// Addresses in one answer: more would not fit 512 bytes.
const MAX_ANSWERS: usize = 12;

/// Seconds that an answer may be kept: the host's resolver does not tell how long it holds.
const TTL: u32 = 30;

struct Question {
    key: FlowKey,
    message: Message,
    name: String,
    v6: bool,
}

struct Answer {
    key: FlowKey,
    message: Message,
    addresses: Result<Vec<IpAddr>, LookupFailure>,
}

/// Answers A and AAAA questions; every other type exists with no data.
pub(super) struct Forwarder {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
    under_way: HashMap<PeerId, usize>,
    packet: Vec<u8>,
}

impl Forwarder {
    /// Starts the threads; they end when the forwarder is dropped. `waker` is woken for each answer.
    pub(super) fn new(waker: Arc<mio::Waker>) -> Result<Self, TunnelError> {
        let (questions, queue) = mpsc::sync_channel(QUEUE);
        let (found, answers) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let (queue, found, waker) = (Arc::clone(&queue), found.clone(), Arc::clone(&waker));
            thread::Builder::new()
                .name("ipsx-dns".to_owned())
                .spawn(move || resolve_all(&queue, &found, &waker))
                .map_err(TunnelError::Start)?;
        }
        Ok(Self {
            questions,
            answers,
            under_way: HashMap::new(),
            packet: Vec::new(),
        })
    }

    /// Takes a question. `Ok` means that it will be answered, or was.
    pub(super) fn handle_question(
        &mut self,
        key: FlowKey,
        payload: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let message = Message::from_vec(payload).map_err(|_| DropReason::BadDns)?;
        if message.metadata.message_type != MessageType::Query {
            return Err(DropReason::BadDns);
        }
        let [query] = message.queries.as_slice() else {
            return Err(DropReason::BadDns);
        };
        if message.metadata.op_code != OpCode::Query {
            self.reply(key, refuse(&message, ResponseCode::NotImp), cx);
            return Ok(());
        }
        let v6 = match (query.query_class(), query.query_type()) {
            (DNSClass::IN, RecordType::A) => false,
            (DNSClass::IN, RecordType::AAAA) => true,
            _ => {
                self.reply(key, refuse(&message, ResponseCode::NoError), cx);
                return Ok(());
            }
        };
        let under_way = self.under_way.entry(key.peer).or_default();
        if *under_way >= PER_PEER {
            return Err(DropReason::DnsBusy);
        }
        let name = host_name(query);
        match self.questions.try_send(Question {
            key,
            message,
            name,
            v6,
        }) {
            Ok(()) => {
                *under_way += 1;
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(DropReason::DnsBusy),
        }
    }

    /// Sends the answers that have been found. Addresses that the policy refuses are left out, so that no name can
    /// lead a peer into the exit's own network.
    pub(super) fn service(&mut self, matcher: &Matcher, cx: &mut Context<'_>) {
        while let Ok(Answer {
            key,
            message,
            addresses,
        }) = self.answers.try_recv()
        {
            if let Some(under_way) = self.under_way.get_mut(&key.peer) {
                *under_way = under_way.saturating_sub(1);
            }
            let reply = match addresses {
                Ok(mut addresses) => {
                    addresses.retain(|&address| matcher.check_address(address).is_ok());
                    answer(&message, &addresses)
                }
                Err(LookupFailure::NoName) => refuse(&message, ResponseCode::NXDomain),
                Err(LookupFailure::Unavailable) => refuse(&message, ResponseCode::ServFail),
            };
            self.reply(key, reply, cx);
        }
    }

    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.under_way.remove(&peer);
    }

    fn reply(&mut self, key: FlowKey, message: Message, cx: &mut Context<'_>) {
        let Ok(bytes) = message.to_vec() else { return };
        if packet::udp(&mut self.packet, key.destination, key.source, &bytes) {
            cx.send(&self.packet);
        }
    }
}

fn resolve_all(queue: &Mutex<Receiver<Question>>, found: &Sender<Answer>, waker: &mio::Waker) {
    loop {
        let question = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(Question {
            key,
            message,
            name,
            v6,
        }) = question
        else {
            return;
        };
        let addresses = sys::lookup(&name, v6);
        if found
            .send(Answer {
                key,
                message,
                addresses,
            })
            .is_err()
            || waker.wake().is_err()
        {
            return;
        }
    }
}

fn host_name(query: &Query) -> String {
    let name = query.name().to_ascii();
    name.strip_suffix('.').unwrap_or(&name).to_owned()
}

fn refuse(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.iter().cloned());
    reply
}

fn answer(question: &Message, addresses: &[IpAddr]) -> Message {
    let mut reply = refuse(question, ResponseCode::NoError);
    let Some(query) = question.queries.first() else {
        return reply;
    };
    for &address in addresses.iter().take(MAX_ANSWERS) {
        let data = match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    reply
}
