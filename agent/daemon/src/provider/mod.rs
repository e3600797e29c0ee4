//! The provider: lends this host's address on one network.
//!
//! [`start`] takes a [`ProviderConfig`] and a wallet and gives a [`RunningProvider`]: what happens comes out of its
//! events, and its `shutdown` ends leases, tells the broker and claims what is due. The decisions are those of
//! [`ipsx_agent_core::provider::Provider`]; this module owns every socket, file and timer.
//!
//! Before it starts, a person has to accept [`consent_text`], once for each data folder and exit policy.

mod address_pool;
mod agent;
mod any_certificate;
pub mod args;
mod broker_link;
mod claimer;
mod command;
mod config;
mod domains;
mod error;
mod exit_args;
mod io;
mod keeper;
mod keys;
mod lines;
mod policies;
mod records;
mod running;
pub mod schedule;

pub use agent::ProviderStatus;
pub use args::ProvideArgs;
pub use command::run;
pub use config::{ProviderConfig, records_path, vouchers_path};
pub use domains::{DomainFile, DomainFileError, DomainFiles};
pub use error::ProviderError;
pub use exit_args::{ExitArgs, ExitKind};
pub use ipsx_agent_core::provider::{ExposureLimits, OfferTerms, ProviderEvent};
pub use keys::{payout_wallet, payout_wallets};
pub use lines::line;
pub use records::{KeptLease, LastReceipts, Records, Served};
pub use running::{RunningProvider, accept_consent, consent_given, consent_text, start};

#[cfg(test)]
mod tests;
