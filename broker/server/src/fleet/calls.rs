//! What one broker asks another: a request of the requesters' interface, or of the few that are only for brokers, whose
//! answer comes back. Who asks has been found out already.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, RequestErrorKind, Subscriber};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header};
use futures_util::StreamExt;
use ipsx_market::fleet::{Instance, ShardId};
use ipsx_metering::Address;
use serde::{Deserialize, Serialize};
use tower_service::Service;

use super::{Fleet, pack, unpack};
use crate::desk::Desk;
use crate::http::{Keyed, Peer, SignedIn};

/// A request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// Who asks.
    pub(crate) wallet: Option<Address>,
    /// From where, as the broker sees it that was asked first.
    pub(crate) seen: Option<SocketAddr>,
    /// The shard that the broker is asked for.
    pub(crate) shard: Option<ShardId>,
    /// The idempotency key that it came with.
    #[serde(default)]
    pub(crate) key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Answered {
    status: u16,
    /// The shard is not that broker's.
    moved: bool,
}

/// There is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nothing was done.
    #[error("the broker that has this part of the market has just changed")]
    Moved,
    /// Nobody knows what was done.
    #[error("the broker that has this part of the market does not answer")]
    Silent,
    /// It was too long.
    #[error("the answer is too long to be passed on; ask for less at once")]
    TooLong,
}

impl Fleet {
    /// Asks another broker; status and body.
    pub(crate) async fn ask(
        &self,
        owner: &Instance,
        asked: &Asked,
        body: &[u8],
        patience: Duration,
    ) -> Result<(u16, Bytes), Unanswered> {
        let request = async_nats::Request::new()
            .payload(pack(asked, body))
            .timeout(Some(patience));
        let subject = self.subject("call", Some(owner));
        let answer = self.client.send_request(subject, request).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Unanswered::Moved,
            RequestErrorKind::MaxPayloadExceeded => Unanswered::TooLong,
            _ => Unanswered::Silent,
        })?;
        let Some((head, body)) = unpack::<Answered>(&answer.payload) else {
            return Err(Unanswered::Silent);
        };
        if head.moved {
            return Err(Unanswered::Moved);
        }
        let body = answer.payload.slice_ref(body);
        match head.status {
            TOO_LONG => Err(Unanswered::TooLong),
            status => Ok((status, body)),
        }
    }

    /// Asks itself, the whole way round: whether others could.
    pub(super) async fn echo(&self) -> Result<(), String> {
        let answer = self
            .client
            .request(self.subject("call", Some(&self.me)), Bytes::new());
        answer.await.map(drop).map_err(|error| error.to_string())
    }
}

/// No status of HTTP.
const TOO_LONG: u16 = 0;

/// Answers what other brokers ask.
pub(super) async fn answer(
    fleet: Arc<Fleet>,
    desk: Arc<Desk>,
    router: Router,
    mut calls: Subscriber,
) {
    while let Some(message) = calls.next().await {
        let Some(reply) = message.reply else {
            continue;
        };
        let client = fleet.client.clone();
        let Some((asked, body)) = unpack::<Asked>(&message.payload) else {
            // An echo.
            post(&client, reply, Bytes::new()).await;
            continue;
        };
        let body = message.payload.slice_ref(body);
        let (desk, router) = (Arc::clone(&desk), router.clone());
        tokio::spawn(async move {
            let answer = respond(&desk, router, asked, body).await;
            let most = client.max_payload();
            let answer = if answer.len() > most {
                let head = Answered {
                    status: TOO_LONG,
                    moved: false,
                };
                pack(&head, &[])
            } else {
                answer
            };
            post(&client, reply, answer).await;
        });
    }
}

async fn post(client: &Client, reply: async_nats::Subject, answer: Bytes) {
    if let Err(error) = client.publish(reply, answer).await {
        tracing::warn!(%error, "an answer to another broker is lost");
    }
}

async fn owns(desk: &Desk, shard: Option<ShardId>) -> bool {
    match shard {
        None => true,
        Some(shard) => desk.owns(shard).await,
    }
}

async fn respond(desk: &Desk, mut router: Router, asked: Asked, body: Bytes) -> Bytes {
    let moved = || {
        let head = Answered {
            status: TOO_LONG,
            moved: true,
        };
        pack(&head, &[])
    };
    if !owns(desk, asked.shard).await {
        return moved();
    }
    let request = Request::builder()
        .method(asked.method.as_str())
        .uri(asked.path.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body));
    let Ok(mut request) = request else {
        return moved();
    };
    if let Some(wallet) = asked.wallet {
        request.extensions_mut().insert(SignedIn(wallet));
    }
    if let Some(key) = asked.key {
        request.extensions_mut().insert(Keyed { key, again: false });
    }
    if let Some(seen) = asked.seen {
        request.extensions_mut().insert(Peer(seen));
    }
    let Ok(response) = router.call(request).await;
    // What is refused may be so because the shard has just gone.
    if !response.status().is_success() && !owns(desk, asked.shard).await {
        return moved();
    }
    let head = Answered {
        status: response.status().as_u16(),
        moved: false,
    };
    let body = to_bytes(response.into_body(), usize::MAX).await;
    pack(&head, &body.unwrap_or_default())
}
