//! WireGuard implementations side by side: who they are, the network they are measured in, what is measured, and the
//! table that comes out.
//!
//! ```text
//! requester 10.70.1.2 ──── 10.70.1.1 exit 10.70.2.1 ──── 10.70.2.2 web       inside the tunnel: 10.70.9.2, 10.70.9.1
//! ```

mod accounting;
mod catalogue;
mod echo;
mod interrupt;
mod ladder;
mod metrics;
mod network;
mod process;
mod report;
mod round;
mod series;
mod traffic;

pub use accounting::Machine;
pub use catalogue::{Catalogue, Implementation, NONE, Pair, default_folder};
pub use echo::{answer, probe};
pub use interrupt::watch as watch_for_interrupt;
pub use report::Report;
pub use round::What;
pub use series::{Settings, measure};

/// Why a measurement ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// A program, or the machine, did not do what it should; says which and what it said.
    #[error("{0}")]
    Said(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Failure {
    /// For `map_err`: the system's error, with what was tried.
    fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
