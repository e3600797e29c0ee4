//! The agent's two sides as pure state machines: [`provider`] lends an address, [`requester`] leases one.
//!
//! Nothing here touches a socket, a clock, a file or a source of randomness: time, messages and seeds are arguments.

pub mod provider;
pub mod requester;
