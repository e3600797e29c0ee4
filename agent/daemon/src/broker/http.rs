//! One JSON request over HTTP/1.1 to the broker, with limits on time and size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use ipsx_market::http::Problem;
use ipsx_market::proof::PROBE_HEADER;
use ipsx_metering::B256;
use ipsx_settlement::Connector;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::BrokerError;

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// How long an answer may take, besides what the request itself asks to wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of one server.
pub(super) struct Http {
    client: Client<Connector, Full<Bytes>>,
    base: String,
    connector: Connector,
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: &'a str,
    /// Bearer token.
    pub(super) token: Option<&'a str>,
    /// JSON, or nothing.
    pub(super) body: Option<Vec<u8>>,
    /// How long the server was asked to wait for something to happen.
    pub(super) wait: Duration,
    /// The probe that it is for.
    pub(super) probe: Option<B256>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            token: None,
            body: None,
            wait: Duration::ZERO,
            probe: None,
        }
    }

    pub(super) fn post(path: &'a str, body: &impl Serialize) -> Result<Self, BrokerError> {
        let body = serde_json::to_vec(body).map_err(|error| BrokerError::Malformed {
            what: path.into(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            method: Method::POST,
            path,
            token: None,
            body: Some(body),
            wait: Duration::ZERO,
            probe: None,
        })
    }
}

impl Http {
    /// `base` is a checked `http://` URL without a slash at its end.
    pub(super) fn new(base: &str, connector: Connector) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector.clone()),
            base: base.into(),
            connector,
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The answer's body, when the server did what was asked.
    pub(super) async fn ask<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, BrokerError> {
        let path = ask.path.to_string();
        let (status, body) = self.exchange(ask).await?;
        let malformed = |reason: String| BrokerError::Malformed {
            what: path.clone(),
            reason,
        };
        if status.is_success() {
            // An answer without content stands for `null`.
            let content: &[u8] = if body.is_empty() { b"null" } else { &body };
            return serde_json::from_slice(content).map_err(|error| malformed(error.to_string()));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(BrokerError::Problem(Box::new(problem))),
            Err(_) => Err(malformed(format!("HTTP status {status}"))),
        }
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<(StatusCode, Bytes), BrokerError> {
        let unreachable = |reason: String| BrokerError::Unreachable {
            url: self.base.clone(),
            reason,
        };
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.base, ask.path));
        if let Some(token) = ask.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(task) = ask.probe {
            request = request.header(PROBE_HEADER, task.to_string());
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(ask.body.unwrap_or_default())))
            .map_err(|error| unreachable(error.to_string()))?;
        let exchange = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| root_cause(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        match tokio::time::timeout(PATIENCE + ask.wait, exchange).await {
            Ok(outcome) => outcome.map_err(unreachable),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                (PATIENCE + ask.wait).as_secs()
            ))),
        }
    }
}

/// The innermost error: "Connection refused" says more than "client error (Connect)".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
