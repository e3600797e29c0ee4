//! The broker as a requester sees it: `GET` and `POST` of the market's JSON bodies.

mod admin;
mod events;
mod http;
mod query;
mod sign_in;

use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use ipsx_market::http::{
    BoundBundle, BoundDeal, Connected, DealView, EndDeal, Frames, NetworkInfo, OfferView,
    PostRequest, PostWithdrawal, Problem, ProblemKind, ProposedBundle, ProposedDeal, RelayedWay,
    RequestView, RequesterEndpoint, SignBundle, SignDeal, SignedWithdrawal, WantRelay,
};
use ipsx_market::proof::Appeal;
use ipsx_market::search::OfferQuery;
use ipsx_metering::{B256, DealId, RequestId, Signed};
use ipsx_settlement::{Connector, Wallet};
use serde::Deserialize;
use std::sync::Arc;

use crate::exit_code::{ExitCode, Failure};
pub(crate) use admin::Admin;
use http::{Ask, Http};
use sign_in::SignedIn;

/// The broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No answer.
    #[error(
        "the broker at {url} does not answer: {reason}; check --broker and that the broker runs"
    )]
    Unreachable {
        /// Its URL.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// It refused, and says why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Its answer makes no sense.
    #[error(
        "the broker's answer to {what} makes no sense: {reason}; is it a broker of this version?"
    )]
    Malformed {
        /// Path.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl BrokerError {
    /// The kind of a refusal.
    pub fn kind(&self) -> Option<ProblemKind> {
        match self {
            Self::Problem(problem) => Some(problem.kind),
            _ => None,
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        let code = match &error {
            BrokerError::Unreachable { .. } | BrokerError::Malformed { .. } => {
                ExitCode::Unreachable
            }
            BrokerError::Problem(problem) => match problem.kind {
                ProblemKind::NoMatch => ExitCode::NoMatch,
                ProblemKind::PriceTooLow => ExitCode::PriceTooLow,
                ProblemKind::SoldOut => ExitCode::SoldOut,
                ProblemKind::InsufficientDeposit => ExitCode::Balance,
                ProblemKind::Unavailable | ProblemKind::TooManyRequests | ProblemKind::Internal => {
                    ExitCode::Unreachable
                }
                ProblemKind::InvalidRequest
                | ProblemKind::Unauthorized
                | ProblemKind::Forbidden
                | ProblemKind::NotFound
                | ProblemKind::Conflict
                | ProblemKind::KeyReused => ExitCode::Refused,
            },
        };
        Self::new(code, error.to_string())
    }
}

/// A broker, spoken to without a session.
pub struct Broker {
    http: Http,
}

impl Broker {
    /// `url` is a checked `http://` URL without a slash at its end, or several of brokers that are one, parted by commas;
    /// nothing is connected yet.
    pub fn new(url: &str) -> Self {
        Self::via(url, Connector::default())
    }

    /// The same, with connections opened by `connector`.
    pub fn via(url: &str, connector: Connector) -> Self {
        Self {
            http: Http::new(url, connector),
        }
    }

    /// How connections to it, and to the chain that it names, are opened.
    pub fn connector(&self) -> &Connector {
        self.http.connector()
    }

    /// Where all brokers of a network take agents, as far as they answer now.
    pub async fn agents(&self, network: &NetworkInfo) -> Vec<SocketAddr> {
        let mut all = vec![network.agents];
        let bases = self.http.bases();
        for base in bases.iter().filter(|base| *base != self.url()) {
            let other = Self::via(base, self.connector().clone()).network().await;
            match other {
                Ok(other) if other.network == network.network => all.push(other.agents),
                Ok(_) => tracing::warn!(broker = base, "it runs another network, and is left out"),
                Err(error) => {
                    tracing::warn!(%error, "it is left out until this program starts again")
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        self.http.base()
    }

    /// The network that it runs.
    pub async fn network(&self) -> Result<NetworkInfo, BrokerError> {
        self.http.ask(Ask::get("/v1/network")).await
    }

    /// The offers that somebody looks for, the best first.
    pub async fn offers(&self, query: &OfferQuery) -> Result<Vec<OfferView>, BrokerError> {
        self.http
            .ask(Ask::get(&format!("/v1/offers{}", query::encode(query))))
            .await
    }

    /// Hands in what a provider says of its address.
    pub async fn appeal(&self, appeal: &Signed<Appeal>) -> Result<(), BrokerError> {
        let _: serde_json::Value = self.http.ask(Ask::post("/v1/appeals", appeal)?).await?;
        Ok(())
    }

    /// The broker as `wallet`: signs in when the first request needs it.
    pub fn signed_in(self, wallet: Arc<Wallet>, network: &NetworkInfo) -> Session {
        Session {
            signed_in: SignedIn::new(wallet, network.domain.chain_id),
            broker: self,
        }
    }
}

/// What comes of a request for one lease or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Requested<T> {
    /// It rests until offers fit it. Told by its status, which deals do not have.
    Rests(Box<RequestView>),
    /// What providers have signed.
    Proposed(Box<T>),
}

/// A broker, spoken to as one wallet.
pub struct Session {
    broker: Broker,
    signed_in: SignedIn,
}

impl Session {
    /// The broker without the session.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Asks for a deal, perhaps for a probe.
    pub async fn request(
        &self,
        request: &PostRequest,
        probe: Option<B256>,
    ) -> Result<Requested<ProposedDeal>, BrokerError> {
        let ask = Ask::post("/v1/requests", request)?;
        self.ask(Ask { probe, ..ask }).await
    }

    /// Asks for several deals at once.
    pub async fn request_bundle(
        &self,
        request: &PostRequest,
    ) -> Result<Requested<ProposedBundle>, BrokerError> {
        self.ask(Ask::post("/v1/bundles", request)?).await
    }

    /// Hands in the requester's signatures of deals of one request.
    pub async fn sign_bundle(
        &self,
        request: RequestId,
        signatures: &SignBundle,
    ) -> Result<BoundBundle, BrokerError> {
        let path = format!("/v1/bundles/{request}/signatures");
        self.ask(Ask::post(&path, signatures)?).await
    }

    /// Where a request stands that rests, once it does no longer or `wait` has passed.
    pub async fn resting(
        &self,
        request: RequestId,
        wait: Duration,
    ) -> Result<RequestView, BrokerError> {
        let path = format!("/v1/requests/{request}?wait={}", wait.as_secs());
        self.ask(Ask {
            wait,
            ..Ask::get(&path)
        })
        .await
    }

    /// Takes a request back that rests.
    pub async fn cancel(&self, request: RequestId) -> Result<RequestView, BrokerError> {
        self.ask(Ask::delete(&format!("/v1/requests/{request}")))
            .await
    }

    /// Hands in the requester's signature.
    pub async fn sign(&self, deal: DealId, signature: &SignDeal) -> Result<BoundDeal, BrokerError> {
        self.ask(Ask::post(
            &format!("/v1/deals/{deal}/signature"),
            signature,
        )?)
        .await
    }

    /// The network's word on a deal, once there is one.
    pub async fn outcome(&self, deal: DealId) -> Result<BoundDeal, BrokerError> {
        self.ask(Ask::get(&format!("/v1/deals/{deal}/outcome")))
            .await
    }

    /// The deal.
    pub async fn deal(&self, deal: DealId) -> Result<DealView, BrokerError> {
        self.ask(Ask::get(&format!("/v1/deals/{deal}"))).await
    }

    /// The wallet's deals.
    pub async fn deals(&self) -> Result<Vec<DealView>, BrokerError> {
        self.ask(Ask::get("/v1/deals")).await
    }

    /// The tunnel is up.
    pub async fn connected(&self, deal: DealId) -> Result<(), BrokerError> {
        self.ask_and_forget(Ask::post(
            &format!("/v1/deals/{deal}/connected"),
            &Connected {},
        )?)
        .await
    }

    /// The tunnel sends from here, as a NAT shows it.
    pub async fn endpoint(
        &self,
        deal: DealId,
        told: &RequesterEndpoint,
    ) -> Result<(), BrokerError> {
        self.ask_and_forget(Ask::post(&format!("/v1/deals/{deal}/endpoint"), told)?)
            .await
    }

    /// A way by the broker's relay, which the provider is told as well.
    pub async fn relay(&self, deal: DealId) -> Result<RelayedWay, BrokerError> {
        self.ask(Ask::post(
            &format!("/v1/deals/{deal}/relay"),
            &WantRelay {},
        )?)
        .await
    }

    /// The lease is over on this side.
    pub async fn end(&self, deal: DealId, end: &EndDeal) -> Result<(), BrokerError> {
        self.ask_and_forget(Ask::post(&format!("/v1/deals/{deal}/end"), end)?)
            .await
    }

    /// Sealed frames from the provider, waiting up to `wait` for the first.
    pub async fn frames(&self, deal: DealId, wait: Duration) -> Result<Frames, BrokerError> {
        let path = format!("/v1/deals/{deal}/frames?wait={}", wait.as_secs());
        self.ask(Ask {
            wait,
            ..Ask::get(&path)
        })
        .await
    }

    /// Sealed frames for the provider.
    pub async fn post_frames(&self, deal: DealId, frames: &Frames) -> Result<(), BrokerError> {
        self.ask_and_forget(Ask::post(&format!("/v1/deals/{deal}/frames"), frames)?)
            .await
    }

    /// Asks for the operator's consent to a withdrawal.
    pub async fn withdrawal(
        &self,
        wanted: &PostWithdrawal,
    ) -> Result<SignedWithdrawal, BrokerError> {
        self.ask(Ask::post("/v1/withdrawals", wanted)?).await
    }

    async fn ask_and_forget(&self, ask: Ask<'_>) -> Result<(), BrokerError> {
        let _: serde_json::Value = self.ask(ask).await?;
        Ok(())
    }

    /// Asks with a token; once more with a new one if the broker does not know it any longer.
    async fn ask<T: serde::de::DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, BrokerError> {
        let http = &self.broker.http;
        let token = self.signed_in.token(http).await?;
        let answer = http.ask(ask.with(&token)).await;
        if !is_unknown(&answer) {
            return answer;
        }
        let token = self.signed_in.renew(http, &token).await?;
        http.ask(ask.with(&token)).await
    }

    /// Opens a stream of events in the same way; `None` when nothing will come.
    async fn open(&self, ask: Ask<'_>) -> Result<Option<Incoming>, BrokerError> {
        let http = &self.broker.http;
        let token = self.signed_in.token(http).await?;
        let answer = http.open(ask.with(&token)).await;
        if !is_unknown(&answer) {
            return answer;
        }
        let token = self.signed_in.renew(http, &token).await?;
        http.open(ask.with(&token)).await
    }
}

/// Whether the broker does not know the token.
fn is_unknown<T>(answer: &Result<T, BrokerError>) -> bool {
    matches!(answer, Err(error) if error.kind() == Some(ProblemKind::Unauthorized))
}
