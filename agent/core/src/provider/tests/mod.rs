//! Scenarios in virtual time.

mod fixture;
mod histories;
mod judging;
mod leases;
mod world;

pub(crate) use fixture::*;
