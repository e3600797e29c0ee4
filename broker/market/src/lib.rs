//! What is traded and how a deal lives: pure types, matching and the messages of agents, broker and requesters.
//!
//! Nothing here touches a socket, a clock, a file or a source of randomness.

pub mod avoid;
pub mod book;
pub mod bundle;
pub mod check;
pub mod codec;
pub mod deal;
pub mod echo;
pub mod evidence;
pub mod fleet;
pub mod geo;
pub mod http;
pub mod market;
pub mod matching;
pub mod messages;
pub mod offer;
#[cfg(feature = "openapi")]
mod openapi;
pub mod payment;
pub mod place;
pub mod ports;
pub mod proof;
mod reach;
pub mod record;
pub mod request;
pub mod resting;
pub mod sealed;
pub mod search;
pub mod services;
pub mod sign_in;
mod sold;
pub mod start;
pub mod status;
mod typed_data;

pub use ipnet::IpNet;
