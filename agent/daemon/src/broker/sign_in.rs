//! The session at the broker: Sign-In with Ethereum (EIP-4361) for a short-lived token.

use std::sync::Arc;

use ipsx_market::http::{Session, SessionNonce};
use ipsx_market::sign_in;
use ipsx_settlement::{Signer, Wallet};
use tokio::sync::Mutex;

use super::BrokerError;
use super::http::{Ask, Http};
use crate::clock::unix_now;

/// A token is renewed this many seconds before it lapses.
const MARGIN: u64 = 30;

/// A wallet and the token that it has.
pub(super) struct SignedIn {
    wallet: Arc<Wallet>,
    chain_id: u64,
    session: Mutex<Option<Session>>,
}

impl SignedIn {
    pub(super) fn new(wallet: Arc<Wallet>, chain_id: u64) -> Self {
        Self {
            wallet,
            chain_id,
            session: Mutex::new(None),
        }
    }

    /// A token that counts, new if there is none.
    pub(super) async fn token(&self, http: &Http) -> Result<String, BrokerError> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session
            && session.expires_at.since(unix_now()) > MARGIN
        {
            return Ok(session.token.clone());
        }
        let new = self.sign_in(http).await?;
        Ok(session.insert(new).token.clone())
    }

    /// A token in place of `old`, which the broker does not know any longer.
    pub(super) async fn renew(&self, http: &Http, old: &str) -> Result<String, BrokerError> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| session.token != old) {
            return Ok(session.token.clone());
        }
        let new = self.sign_in(http).await?;
        Ok(session.insert(new).token.clone())
    }

    async fn sign_in(&self, http: &Http) -> Result<Session, BrokerError> {
        let nonce: SessionNonce = http.ask(Ask::post("/v1/session/nonce", &())?).await?;
        let message = sign_in::message(self.wallet.address(), &nonce, self.chain_id, unix_now());
        let message = message.map_err(|error| BrokerError::Malformed {
            what: "/v1/session/nonce".into(),
            reason: error.to_string(),
        })?;
        let signed = sign_in::sign(message, |hash| self.wallet.sign_hash(hash));
        http.ask(Ask::post("/v1/session", &signed)?).await
    }
}
