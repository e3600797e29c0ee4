//! The provider: decides what is offered, which deals are signed, when a lease's traffic passes and what it has
//! cost. The shell beside it sends, stores and asks the chain.

mod event;
mod settings;

pub use event::{ProviderEvent, cause_in_words};
pub use settings::{EndpointHint, ExposureLimits, Network, Now, OfferTerms, Settings, TermsError};
