//! The TCP/IP stack of the userspace exit: smoltcp 0.14.0, cut down to one TCP connection over IP, with loss recovery.
//! What is left out and what is changed: `CHANGES.md`.
//!
//! - [`wire`] reads and writes headers of IP, TCP, UDP and ICMP.
//! - [`tcp`] is a TCP connection's state machine, its buffers, timers, loss recovery and congestion control.
//! - [`interface`] puts one connection behind one address: packets in, packets out.
//!
//! Time and the seed of random numbers are told by the caller.

#[macro_use]
mod macros;
mod rand;

pub mod interface;
pub mod tcp;
pub mod time;
pub mod wire;
