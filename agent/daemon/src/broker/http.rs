//! One JSON request over HTTP/1.1 to the broker, with limits on time and size.

use std::sync::atomic::{AtomicUsize, Ordering};
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

/// A client of one broker, or of several that are one: it asks the same one until that does not answer.
pub(super) struct Http {
    client: Client<Connector, Full<Bytes>>,
    bases: Vec<String>,
    /// How often the next one was taken.
    moves: AtomicUsize,
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

    pub(super) fn delete(path: &'a str) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
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
    /// `bases` are checked `http://` URLs without a slash at their end, parted by commas.
    pub(super) fn new(bases: &str, connector: Connector) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector.clone()),
            bases: bases.split(',').map(str::to_owned).collect(),
            moves: AtomicUsize::new(0),
            connector,
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The broker that is asked.
    pub(super) fn base(&self) -> &str {
        // There is one at least.
        &self.bases[self.moves.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// All brokers.
    pub(super) fn bases(&self) -> &[String] {
        &self.bases
    }

    /// The answer's body, when the server did what was asked.
    pub(super) async fn ask<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, BrokerError> {
        let path = ask.path.to_string();
        let (status, body) = self.exchange_anywhere(ask).await?;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Another one may do better when it is asked again.
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
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

    /// Asks the next broker when one does not answer, unless it may have done what it was asked.
    async fn exchange_anywhere(&self, ask: Ask<'_>) -> Result<(StatusCode, Bytes), BrokerError> {
        let mut left = self.bases.len();
        loop {
            let base = self.base().to_owned();
            let failed = match self.exchange(&base, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            self.moves.fetch_add(1, Ordering::Relaxed);
            left -= 1;
            let again = failed.nothing_was_asked || ask.method == Method::GET;
            if left == 0 || !again {
                return Err(BrokerError::Unreachable {
                    url: base,
                    reason: failed.reason,
                });
            }
        }
    }

    async fn exchange(&self, base: &str, ask: &Ask<'_>) -> Result<(StatusCode, Bytes), Unanswered> {
        let unasked = |reason: String| Unanswered {
            nothing_was_asked: true,
            reason,
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{base}{}", ask.path));
        if let Some(token) = ask.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(task) = ask.probe {
            request = request.header(PROBE_HEADER, task.to_string());
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = ask.body.clone().unwrap_or_default();
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unasked(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|error| Unanswered {
                nothing_was_asked: error.is_connect(),
                reason: root_cause(&error),
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| Unanswered {
                nothing_was_asked: false,
                reason: error.to_string(),
            })?;
            Ok((status, body.to_bytes()))
        };
        let limit = PATIENCE + ask.wait;
        let late = || Unanswered {
            nothing_was_asked: false,
            reason: format!("no answer within {} s", limit.as_secs()),
        };
        let answer = tokio::time::timeout(limit, exchange).await;
        answer.unwrap_or_else(|_| Err(late()))
    }
}

/// A broker did not answer.
struct Unanswered {
    /// It did not even hear the question.
    nothing_was_asked: bool,
    reason: String,
}

/// The innermost error: "Connection refused" says more than "client error (Connect)".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
