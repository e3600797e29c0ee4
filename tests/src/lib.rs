//! What the end-to-end tests stand on: the real programs as processes, a network of them, a web server to reach
//! through a lease, and network namespaces.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests act: they start processes, open sockets and wait"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a harness that cannot go on has failed the test"
)]

pub mod crowd;
pub mod customers;
pub mod end;
pub mod flood;
pub mod geography;
pub mod link;
pub mod market;
pub mod namespace;
pub mod nats;
pub mod node;
pub mod origin;
pub mod port;
pub mod postgres;
pub mod program;
pub mod refused;
pub mod relay;
pub mod requester;
pub mod rush;
pub mod soak;
pub mod stock_client;
pub mod told;
pub mod web;
