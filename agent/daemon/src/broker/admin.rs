//! The broker as its operator's programs see it.

use ipsx_market::proof::{ProbeOrder, ProbeOutcome, Verdict};
use ipsx_metering::B256;
use ipsx_settlement::Connector;

use super::BrokerError;
use super::http::{Ask, Http};

/// The operator's listener.
pub(crate) struct Admin {
    http: Http,
}

impl Admin {
    /// `url` is a checked `http://` URL without a slash at its end; nothing is connected yet.
    pub(crate) fn new(url: &str, connector: Connector) -> Self {
        Self {
            http: Http::new(url, connector),
        }
    }

    /// The next probe that is due, if any is.
    pub(crate) async fn next_probe(&self) -> Result<Option<ProbeOrder>, BrokerError> {
        self.http.ask(Ask::post("/probes", &())?).await
    }

    /// Tells what a probe found out.
    pub(crate) async fn probed(
        &self,
        task: B256,
        outcome: &ProbeOutcome,
    ) -> Result<Verdict, BrokerError> {
        let path = format!("/probes/{task}");
        self.http.ask(Ask::post(&path, outcome)?).await
    }
}
