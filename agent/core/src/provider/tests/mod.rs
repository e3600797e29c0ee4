//! Scenarios in virtual time.

mod fixture;

pub(crate) use fixture::*;
