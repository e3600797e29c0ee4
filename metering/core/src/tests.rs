//! Both meters against each other, against a slow model and against cheats, in virtual time.
#![allow(clippy::unwrap_used)]

mod amounts;
mod cheats;
mod fixtures;
mod golden;
mod histories;
mod ledger;
mod ledger_histories;
mod month;
mod provider_rules;
mod world;
