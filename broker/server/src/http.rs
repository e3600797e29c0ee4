//! Requesters over HTTP: JSON in, JSON out, problem details (RFC 9457) for everything that goes wrong.

mod admin;
mod app;
mod bundles;
mod deals;
mod echo;
mod elsewhere;
mod events;
mod explorer;
mod extract;
mod idempotency;
mod limits;
mod offers;
mod openapi;
mod patient;
mod places;
mod placing;
mod probes;
mod problem;
mod requests;
mod server;
mod sessions;

pub(crate) use app::{App, admin_router, brokers_router, router};
pub(crate) use events::Streams;
pub(crate) use extract::SignedIn;
pub(crate) use idempotency::{InFlight, Keyed};
pub(crate) use limits::{Limiter, Limits};
pub(crate) use openapi::text as openapi;
pub(crate) use server::{HttpServer, Peer};
