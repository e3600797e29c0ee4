//! Sign-In with Ethereum for a short-lived token.
//!
//! A nonce proves itself by a keyed hash, so that giving one out costs no storage; only used ones are kept, until
//! they would have expired anyway. Tokens are kept as hashes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ipsx_market::http::{Session, SessionNonce, SignIn};
use ipsx_market::sign_in::{self, Expected, MAX_VALIDITY};
use ipsx_metering::{Address, UnixSeconds, keccak256};

use super::App;
use super::extract::Body;
use super::problem::{Answer, ProblemResponse};
use crate::clock;
use crate::desk::DeskError;
use crate::operator::random;
use crate::store::OpenSession;

const TIME: usize = 8;
const RANDOM: usize = 8;
const MAC: usize = 16;

/// `POST /v1/session/nonce`
#[utoipa::path(
    post,
    path = "/v1/session/nonce",
    operation_id = "newNonce",
    summary = "A nonce for Sign-In with Ethereum (EIP-4361).",
    responses((status = 200, description = "The nonce, and what the message must say.", body = SessionNonce)),
)]
pub(super) async fn nonce(State(app): State<Arc<App>>) -> Json<SessionNonce> {
    let mut bytes = clock::now().0.to_be_bytes().to_vec();
    bytes.extend(random::<RANDOM>());
    let mac = mac(&app, &bytes);
    bytes.extend(mac);
    Json(SessionNonce {
        nonce: hex::encode(bytes),
        domain: app.domain().into(),
        uri: app.uri.clone(),
    })
}

/// `POST /v1/session`
#[utoipa::path(
    post,
    path = "/v1/session",
    operation_id = "signIn",
    summary = "Opens a session.",
    request_body = SignIn,
    responses((status = 200, description = "The session.", body = Session)),
)]
pub(super) async fn open(State(app): State<Arc<App>>, Body(body): Body<SignIn>) -> Answer<Session> {
    let now = clock::now();
    let expected = Expected {
        domain: app.domain(),
        uri: &app.uri,
        chain_id: app.desk.operator.domain().chain_id,
        now,
    };
    let signed_in = sign_in::check(&body, &expected)
        .map_err(|error| ProblemResponse::unauthorized(error.to_string()))?;
    let expires = nonce_end(&app, &signed_in.nonce)
        .filter(|end| *end >= now)
        .ok_or_else(|| {
            ProblemResponse::unauthorized(
                "the sign-in's nonce is not of this broker or too old: get a new one",
            )
        })?;
    let token = hex::encode(random::<32>());
    let expires_at = now.after(app.session_seconds);
    // Never closed, so there is always a place in time.
    let _place = app.sign_ins.acquire().await;
    let session = OpenSession {
        nonce: (signed_in.nonce, expires),
        token_hash: token_hash(&token),
        wallet: signed_in.wallet,
        expires_at,
    };
    let opened = app.desk.store.write(session).await;
    let opened = opened.map_err(DeskError::from)?;
    if !opened {
        return Err(ProblemResponse::unauthorized(
            "the sign-in's nonce was used before: get a new one",
        ));
    }
    tracing::debug!(wallet = %signed_in.wallet, "signed in");
    Ok(Json(Session { token, expires_at }))
}

/// Whose session a token opens.
pub(super) async fn wallet(app: &App, token: &str) -> Result<Option<Address>, ProblemResponse> {
    if token.len() != 64 {
        return Ok(None);
    }
    let found = app
        .desk
        .store
        .session(&token_hash(token), clock::now())
        .await;
    Ok(found.map_err(DeskError::from)?)
}

fn token_hash(token: &str) -> String {
    hex::encode(keccak256(token))
}

/// Until when a nonce of this broker counts; `None` for any other text.
fn nonce_end(app: &App, nonce: &str) -> Option<UnixSeconds> {
    let bytes = hex::decode(nonce).ok()?;
    if bytes.len() != TIME + RANDOM + MAC {
        return None;
    }
    let (signed, given) = bytes.split_at(TIME + RANDOM);
    let made = mac(app, signed);
    // Compared without an early exit, so that the time tells nothing of the key.
    let differs = made.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    let issued = signed
        .first_chunk::<TIME>()
        .map(|time| u64::from_be_bytes(*time))?;
    (differs == 0).then(|| UnixSeconds(issued).after(MAX_VALIDITY))
}

/// The sponge of keccak has no length extension, so a hash that starts with the key is a sound MAC.
fn mac(app: &App, bytes: &[u8]) -> [u8; MAC] {
    let hash = keccak256([app.nonce_key.as_slice(), bytes].concat());
    let mut mac = [0; MAC];
    mac.copy_from_slice(&hash[..MAC]);
    mac
}
