//! The provider: lends this host's address on one network.
//!
//! [`start`] takes a [`ProviderConfig`], a wallet and a chain and gives a [`RunningProvider`]: what happens comes
//! out of its events, and its `shutdown` ends leases, tells the broker and claims what is due. The decisions are
//! those of [`ipsx_agent_core::provider::Provider`]; this module owns every socket, file and timer.
//!
//! ```ignore
//! pub fn consent_text(policy: &ExitPolicy, terms: &OfferTerms) -> String;
//! pub fn consent_given(config: &ProviderConfig) -> Result<bool, ProviderError>;
//! pub fn accept_consent(config: &ProviderConfig) -> Result<(), ProviderError>;
//! pub async fn start(config: ProviderConfig, wallet: Arc<Wallet>, chain: Arc<dyn Chain>) -> Result<RunningProvider, ProviderError>;
//! impl RunningProvider {
//!     pub fn listen(&self) -> SocketAddr;                    // the WireGuard endpoint's bound address
//!     pub fn tunnel_key(&self) -> PublicKey;
//!     pub fn events(&mut self) -> &mut mpsc::Receiver<ProviderEvent>;   // recv().await
//!     pub fn status(&self) -> ProviderStatus;
//!     pub async fn shutdown(self) -> Result<(), ProviderError>;
//! }
//! ```

pub mod args;
mod config;
mod error;
pub mod schedule;

pub use args::ProvideArgs;
pub use config::ProviderConfig;
pub use error::ProviderError;
pub use ipsx_agent_core::provider::{ExposureLimits, OfferTerms, ProviderEvent};
