//! What is wrong with a connection record, and by which numbers.

use std::net::SocketAddr;

use super::Transport;
use crate::{B256, UnixSeconds};

/// Why the payer signs nothing more: the record is not of its own connections.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionFault {
    /// A connection that this side did not make.
    #[error(
        "record {index} is the {recorded}. {transport} connection to {destination}, but this side opened {own} there"
    )]
    Unknown {
        /// The record's number.
        index: u64,
        /// What it is made of.
        transport: Transport,
        /// Where it goes.
        destination: SocketAddr,
        /// How many like it the record has, this one included.
        recorded: u64,
        /// How many this side may have opened.
        own: u64,
    },
    /// A connection at a time at which this side made none.
    #[error(
        "record {index} has a {transport} connection to {destination} at {at}, but this side used it between {first} and \
         {last} by the same clock"
    )]
    Time {
        /// The record's number.
        index: u64,
        /// What it is made of.
        transport: Transport,
        /// Where it goes.
        destination: SocketAddr,
        /// When, by the record.
        at: UnixSeconds,
        /// First use, by this side, on the provider's clock.
        first: UnixSeconds,
        /// Last use.
        last: UnixSeconds,
    },
    /// The end of a connection that has none to end, or comes before its beginning.
    #[error("record {index} ends a {transport} connection to {destination} that it does not have")]
    NotOpen {
        /// The record's number.
        index: u64,
        /// What it is made of.
        transport: Transport,
        /// Where it goes.
        destination: SocketAddr,
    },
    /// Bytes that did not pass.
    #[error(
        "record {index} brings the {transport} connections to {destination} to {up} bytes up and {down} down, but this side \
         sent {own_up} and received {own_down}, of which {payload_down} were payload"
    )]
    Bytes {
        /// The record's number.
        index: u64,
        /// What it is made of.
        transport: Transport,
        /// Where it goes.
        destination: SocketAddr,
        /// Bytes up of all ended connections like it.
        up: u64,
        /// Bytes down of them.
        down: u64,
        /// Inner IP bytes that this side sent there.
        own_up: u64,
        /// Inner IP bytes that it received from there.
        own_down: u64,
        /// What of these was payload.
        payload_down: u64,
    },
    /// A connection that was used is not there.
    #[error(
        "the record has {recorded} {transport} connections to {destination}, but this side has used {own} for longer than \
         {grace} s"
    )]
    Missing {
        /// What it is made of.
        transport: Transport,
        /// Where it goes.
        destination: SocketAddr,
        /// How many are under the root in the receipt.
        recorded: u64,
        /// How many there must be.
        own: u64,
        /// Seconds that the provider had to record them.
        grace: u64,
    },
    /// What was shown does not lead to the root in a receipt.
    #[error(
        "the {shown} records that were shown do not lead to the root {root} of receipt {seq}, after {waited} s"
    )]
    Unproven {
        /// The receipt's number.
        seq: u64,
        /// Its root.
        root: B256,
        /// How many records were shown.
        shown: u64,
        /// Seconds since the receipt.
        waited: u64,
    },
    /// No records of this lease.
    #[error("what was shown from record {first} on cannot be read")]
    Unreadable {
        /// Number of the first one.
        first: u64,
    },
}
