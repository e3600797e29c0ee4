//! A whole lease over real sockets on the loopback: client tunnel, provider, exit, proxy.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs
)]

mod control;
mod egress;
mod exit;
mod flows;
mod names;
mod proxy;
mod raw;
mod setup;
mod transfer;
