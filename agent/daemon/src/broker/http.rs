//! Requests over HTTP/1.1 to the broker: JSON with limits on time and size, or a stream of events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
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
#[derive(Clone)]
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
    /// The last event that was read, of a stream that is opened again.
    pub(super) last_event: Option<u64>,
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
            last_event: None,
        }
    }

    pub(super) fn delete(path: &'a str) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }

    pub(super) fn post(path: &'a str, body: &impl Serialize) -> Result<Self, BrokerError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| malformed(path, error.to_string()))?;
        Ok(Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(path)
        })
    }
}

impl Ask<'_> {
    /// The same with a token.
    pub(super) fn with<'t>(&'t self, token: &'t str) -> Ask<'t> {
        Ask {
            token: Some(token),
            ..self.clone()
        }
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
        let path = ask.path;
        let (status, body) = self.exchange_anywhere(&ask).await?;
        if !status.is_success() {
            return Err(self.refused(path, status, &body));
        }
        // An answer without content stands for `null`.
        let content: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(content).map_err(|error| malformed(path, error.to_string()))
    }

    /// The body of a stream of events as it comes; `None` when nothing will.
    pub(super) async fn open(&self, ask: Ask<'_>) -> Result<Option<Incoming>, BrokerError> {
        let base = self.base().to_owned();
        let begun = async {
            let response = self.begin(&base, &ask).await?;
            match response.status() {
                StatusCode::OK => Ok(Ok(response.into_body())),
                _ => finish(response).await.map(Err),
            }
        };
        match within(PATIENCE, begun).await {
            Ok(Ok(body)) => Ok(Some(body)),
            Ok(Err((StatusCode::NO_CONTENT, _))) => Ok(None),
            Ok(Err((status, body))) => Err(self.refused(ask.path, status, &body)),
            Err(Unanswered { reason, .. }) => {
                self.move_on();
                Err(BrokerError::Unreachable { url: base, reason })
            }
        }
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> BrokerError {
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Another one may do better when it is asked again.
            self.move_on();
        }
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => BrokerError::Problem(Box::new(problem)),
            Err(_) => malformed(path, format!("HTTP status {status}")),
        }
    }

    /// The next one is asked from now on.
    fn move_on(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the next broker when one does not answer, unless it may have done what it was asked.
    async fn exchange_anywhere(&self, ask: &Ask<'_>) -> Result<(StatusCode, Bytes), BrokerError> {
        let mut left = self.bases.len();
        loop {
            let base = self.base().to_owned();
            let exchange = async { finish(self.begin(&base, ask).await?).await };
            let failed = match within(PATIENCE + ask.wait, exchange).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            self.move_on();
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

    /// Asks; the answer's body is still to come.
    async fn begin(&self, base: &str, ask: &Ask<'_>) -> Result<Response<Incoming>, Unanswered> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{base}{}", ask.path));
        if let Some(token) = ask.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(task) = ask.probe {
            request = request.header(PROBE_HEADER, task.to_string());
        }
        if let Some(id) = ask.last_event {
            request = request.header("last-event-id", id);
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = ask.body.clone().unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| Unanswered {
            nothing_was_asked: true,
            reason: error.to_string(),
        })?;
        let response = self.client.request(request).await;
        response.map_err(|error| Unanswered {
            nothing_was_asked: error.is_connect(),
            reason: root_cause(&error),
        })
    }
}

/// Reads an answer to its end.
async fn finish(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Unanswered> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|error| Unanswered {
        nothing_was_asked: false,
        reason: error.to_string(),
    })?;
    Ok((status, body.to_bytes()))
}

async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, Unanswered>>,
) -> Result<T, Unanswered> {
    let late = |_| Unanswered {
        nothing_was_asked: false,
        reason: format!("no answer within {} s", limit.as_secs()),
    };
    let answer = tokio::time::timeout(limit, exchange).await;
    answer.map_err(late)?
}

fn malformed(what: &str, reason: String) -> BrokerError {
    BrokerError::Malformed {
        what: what.into(),
        reason,
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
