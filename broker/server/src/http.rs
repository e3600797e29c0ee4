//! Requesters over HTTP: JSON in, JSON out, problem details (RFC 9457) for everything that goes wrong.

mod admin;
mod app;
mod deals;
mod explorer;
mod extract;
mod idempotency;
mod limits;
mod offers;
mod problem;
mod server;
mod sessions;

pub(crate) use app::{App, admin_router, router};
pub(crate) use idempotency::InFlight;
pub(crate) use limits::{Limiter, Limits};
pub(crate) use server::HttpServer;
