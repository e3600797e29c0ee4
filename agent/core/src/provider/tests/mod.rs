//! Scenarios in virtual time.

mod bad_days;
mod fixture;
mod histories;
mod judging;
mod leases;
mod reaching;
mod world;

pub(crate) use fixture::*;
