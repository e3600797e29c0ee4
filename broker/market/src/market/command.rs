//! What the market has its caller do.

use std::net::SocketAddr;

use ipsx_metering::{Address, Channel, DealId, Signed, Voucher};

use super::RequestFailure;
use crate::http::{ProposedDeal, RequestView};
use crate::messages::BrokerMessage;
use crate::proof::{Proof, Subject};
use crate::record::{DealRecord, Transition};
use crate::resting::RequestRecord;

/// Names the caller of [`Market::request`](super::Market::request) in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the caller must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send to the agent of this provider, if it is connected.
    Send {
        /// The provider.
        provider: Address,
        /// What.
        message: Box<BrokerMessage>,
    },
    /// Write down, durably, before the next command.
    Store {
        /// The deal as it is now.
        record: Box<DealRecord>,
        /// What changed it, in order.
        transitions: Vec<Transition>,
    },
    /// Write down a request that rests, or what became of it, in the same way.
    StoreRequest {
        /// The request as it is now.
        record: Box<RequestRecord>,
    },
    /// Keep a voucher as one that its provider is owed, durably, before the next command.
    Forfeit {
        /// The provider's channel.
        channel: Box<Channel>,
        /// What was prepaid through it.
        voucher: Box<Signed<Voucher>>,
    },
    /// Write down what is known of an address, in the same way.
    StoreProof {
        /// The address.
        subject: Subject,
        /// What is known of it now.
        proof: Box<Proof>,
    },
    /// Send a token, if there is from where; a lost one does no harm.
    Try {
        /// A provider's endpoint.
        to: SocketAddr,
        /// The token.
        token: u64,
    },
    /// Answer a request.
    Answer {
        /// The ticket it was posted with.
        ticket: Ticket,
        /// What came of it, or why nothing did.
        answer: Result<Answered, RequestFailure>,
    },
    /// Sign `Outcome(aborted)`, write it down unless there is an outcome already, then tell the provider.
    Abort {
        /// The provider that signed the deal.
        provider: Address,
        /// The deal.
        deal_id: DealId,
    },
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A deal to sign.
    Deal(Box<ProposedDeal>),
    /// Several, of a request for several addresses.
    Bundle(Vec<ProposedDeal>),
    /// It waits for an offer.
    Rests(Box<RequestView>),
}
