//! What the gateway answers.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{RData, Record, rdata::opt::EdnsOption},
};
use ipsx_tunnel_core::DropReason;

use super::{Way, upstream::Found};

/// Bytes of a datagram's answer that everybody takes (RFC 1035, section 4.2.1).
const PLAIN_SIZE: u16 = 512;

/// The same at most, for those who say that they take more: it crosses every network whole (RFC 9715, section 3.1).
const LARGE_SIZE: u16 = 1_232;

/// Extended DNS errors (RFC 8914): the option, and "blocked" in it.
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;

/// An answer, and the way it goes.
pub(in crate::exit) struct Answer {
    pub(in crate::exit) way: Way,
    /// What to count.
    pub(in crate::exit) dropped: Option<DropReason>,
    message: Message,
    /// Bytes that a datagram may have.
    size: u16,
}

impl Answer {
    /// An answer without any record.
    pub(super) fn empty(way: Way, question: &Message, code: ResponseCode) -> Self {
        let asked = question.metadata;
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(question.queries.iter().cloned());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGE_SIZE);
            message.set_edns(edns);
        }
        let takes = question.edns.as_ref().map_or(0, Edns::max_payload);
        Self {
            way,
            dropped: None,
            message,
            size: takes.clamp(PLAIN_SIZE, LARGE_SIZE),
        }
    }

    /// The policy's refusal, with its category for those who can read it.
    pub(super) fn denied(way: Way, question: &Message, category: &str) -> Self {
        let mut answer = Self::empty(way, question, ResponseCode::Refused);
        answer.dropped = Some(DropReason::DeniedName);
        if let Some(edns) = &mut answer.message.edns {
            let mut error = BLOCKED.to_be_bytes().to_vec();
            error.extend(category.bytes().take(usize::from(u8::MAX)));
            edns.options_mut()
                .insert(EdnsOption::Unknown(EXTENDED_ERROR, error));
        }
        answer
    }

    /// What the host's resolver found.
    pub(super) fn found(way: Way, question: &Message, found: &Found) -> Self {
        let mut answer = Self::empty(way, question, found.code);
        let Some(query) = question.queries.first() else {
            return answer;
        };
        for &address in &found.addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            let record = Record::from_rdata(query.name().clone(), found.ttl, data);
            answer.message.add_answer(record);
        }
        answer
    }

    /// The answer as it goes: a datagram that can't hold all addresses has as many as it can, and says so.
    pub(in crate::exit) fn encode(mut self) -> Option<Vec<u8>> {
        let limit = match self.way {
            Way::Datagram(_) => usize::from(self.size),
            Way::Connection(..) => usize::from(u16::MAX),
        };
        loop {
            let bytes = self.message.to_vec().ok()?;
            if bytes.len() <= limit {
                return Some(bytes);
            }
            let answers = &mut self.message.answers;
            let fit = answers.len() * limit / bytes.len();
            answers.truncate(fit.min(answers.len().checked_sub(1)?));
            self.message.metadata.truncation = true;
        }
    }
}
