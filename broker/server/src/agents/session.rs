//! One agent's connection: handshake, then messages until either side ends it.

use std::sync::Arc;
use std::time::Duration;

use ipsx_market::codec::{self, CodecError, LENGTH_BYTES};
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, PROTOCOL_VERSION,
    SESSION_LABEL,
};
use ipsx_metering::{Address, B256, TypedData, verify};
use quinn::{Connection, ReadExactError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::registry::{QUEUE, code};
use crate::desk::{Desk, DeskError};

/// What an agent may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Time for the whole handshake.
    pub(crate) handshake: Duration,
    /// Messages a second, on average; ten times as many at once.
    pub(crate) messages_per_second: u32,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The agent broke the protocol; it is told so.
    #[error("{reason}")]
    Refused {
        /// The metric's label.
        label: &'static str,
        /// For people.
        reason: String,
    },
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The broker can't go on.
    #[error(transparent)]
    Desk(#[from] DeskError),
}

fn refused(label: &'static str, reason: impl Into<String>) -> Ended {
    Ended::Refused {
        label,
        reason: reason.into(),
    }
}

/// Serves one agent until it or the broker ends the connection.
pub(crate) async fn run(connection: Connection, desk: &Arc<Desk>, limits: Limits) {
    let remote = connection.remote_address();
    let accepted = timeout(limits.handshake, connection.accept_bi()).await;
    let Ok(Ok((send, recv))) = accepted else {
        desk.metrics.refused("handshake_timeout");
        connection.close(code::REFUSED, b"no stream was opened in time");
        return;
    };
    let (mut send, mut recv) = (send, recv);
    let shaken = timeout(
        limits.handshake,
        handshake(&connection, &mut send, &mut recv, desk),
    )
    .await;
    let provider = match shaken {
        Ok(Ok(provider)) => provider,
        Ok(Err(ended)) => return say_goodbye(&connection, Some(&mut send), &ended, desk).await,
        Err(_) => {
            let ended = refused("handshake_timeout", "the handshake took too long");
            return say_goodbye(&connection, Some(&mut send), &ended, desk).await;
        }
    };
    tracing::info!(%provider, %remote, "agent connected");
    let ended = converse(provider, &connection, send, recv, desk, limits).await;
    tracing::info!(%provider, %remote, reason = %ended, "agent disconnected");
    say_goodbye(&connection, None, &ended, desk).await;
}

async fn handshake(
    connection: &Connection,
    send: &mut SendStream,
    recv: &mut RecvStream,
    desk: &Desk,
) -> Result<Address, Ended> {
    let AgentMessage::Hello { version, software } = read(recv).await? else {
        return Err(refused("handshake", "the first message must be Hello"));
    };
    if version != PROTOCOL_VERSION {
        let reason = format!(
            "this broker speaks version {PROTOCOL_VERSION} and the agent version {version}; use a matching version of ipsx"
        );
        return Err(refused("version", reason));
    }
    let mut session = [0; 32];
    connection
        .export_keying_material(&mut session, SESSION_LABEL, b"")
        .map_err(|_| refused("handshake", "the TLS session has no exporter"))?;
    let (session, operator) = (B256::from(session), &desk.operator);
    let network = operator.network();
    let proof = operator.sign(BrokerAuthentication { network, session });
    let welcome = BrokerMessage::Welcome {
        version: PROTOCOL_VERSION,
        software: concat!("ipsx-broker/", env!("CARGO_PKG_VERSION")).into(),
        network,
        domain: operator.domain(),
        operator: operator.wallet().key().address(),
        signature: proof.signature,
    };
    write(send, &welcome).await?;
    let AgentMessage::Authenticate {
        provider,
        signature,
    } = read(recv).await?
    else {
        return Err(refused(
            "handshake",
            "the second message must be Authenticate",
        ));
    };
    let claim = AgentAuthentication {
        network,
        provider,
        session,
    };
    verify(claim.signing_hash(&operator.domain()), &signature, provider).map_err(|error| {
        refused(
            "authentication",
            format!("the wallet is not proved: {error}"),
        )
    })?;
    tracing::debug!(%provider, software = %software.chars().take(80).collect::<String>(), "handshake done");
    Ok(provider)
}

/// Both directions, until one ends.
async fn converse(
    provider: Address,
    connection: &Connection,
    mut send: SendStream,
    mut recv: RecvStream,
    desk: &Arc<Desk>,
    limits: Limits,
) -> Ended {
    let (queue, mut waiting) = mpsc::channel(QUEUE);
    let observed = connection.remote_address().ip().to_canonical();
    let joined = desk
        .join(provider, observed, queue, connection.clone())
        .await;
    let number = match joined {
        Ok(number) => number,
        Err(error) => return error.into(),
    };
    let writing = async {
        while let Some(message) = waiting.recv().await {
            write(&mut send, &message).await?;
        }
        Ok::<(), Ended>(())
    };
    let reading = async {
        let mut allowance = Allowance::new(limits.messages_per_second);
        loop {
            let message = read(&mut recv).await?;
            if !allowance.take() {
                let reason = format!("more than {} messages a second", limits.messages_per_second);
                return Err(refused("message_rate", reason));
            }
            desk.hear(provider, observed, message).await?;
        }
    };
    let ended = tokio::select! {
        Err(ended) = writing => ended,
        Err::<(), _>(ended) = reading => ended,
        lost = connection.closed() => Ended::Lost(lost.to_string()),
        else => Ended::Lost("replaced".into()),
    };
    if let Err(error) = desk.leave(provider, number).await {
        tracing::warn!(%provider, %error, "the agent's leaving was not noted");
    }
    if let Ended::Refused { reason, .. } = &ended {
        let goodbye = BrokerMessage::Refused {
            reason: reason.clone(),
        };
        // The connection may be gone already.
        let _ = write(&mut send, &goodbye).await;
        linger(&mut send).await;
    }
    ended
}

async fn say_goodbye(
    connection: &Connection,
    send: Option<&mut SendStream>,
    ended: &Ended,
    desk: &Desk,
) {
    let remote = connection.remote_address();
    match ended {
        Ended::Refused { label, reason } => {
            tracing::info!(%remote, label, reason, "agent refused");
            desk.metrics.refused(label);
            if let Some(send) = send {
                let goodbye = BrokerMessage::Refused {
                    reason: reason.clone(),
                };
                // Whoever sends garbage may not be there to read the answer.
                let _ = write(send, &goodbye).await;
                linger(send).await;
            }
            connection.close(code::REFUSED, reason.as_bytes());
        }
        Ended::Lost(reason) => tracing::debug!(%remote, reason, "agent gone"),
        Ended::Desk(error) => {
            tracing::warn!(%remote, %error, "agent dropped");
            connection.close(code::STOPPING, b"the broker is stopping");
        }
    }
}

/// Gives the last message a moment to arrive before the connection is closed.
async fn linger(send: &mut SendStream) {
    if send.finish().is_ok() {
        let _ = timeout(Duration::from_secs(1), send.stopped()).await;
    }
}

async fn read(recv: &mut RecvStream) -> Result<AgentMessage, Ended> {
    let mut prefix = [0; LENGTH_BYTES];
    recv.read_exact(&mut prefix).await.map_err(lost)?;
    let length = codec::frame_length(prefix).map_err(malformed)?;
    let mut content = vec![0; length];
    recv.read_exact(&mut content).await.map_err(lost)?;
    codec::decode(&content).map_err(malformed)
}

async fn write(send: &mut SendStream, message: &BrokerMessage) -> Result<(), Ended> {
    let frame = codec::encode_frame(message).map_err(malformed)?;
    let written = send.write_all(&frame).await;
    written.map_err(|error| Ended::Lost(error.to_string()))
}

fn lost(error: ReadExactError) -> Ended {
    Ended::Lost(error.to_string())
}

fn malformed(error: CodecError) -> Ended {
    let label = match error {
        CodecError::TooLong(_) => "message_too_long",
        _ => "message_malformed",
    };
    refused(label, error.to_string())
}

/// A token bucket that holds ten seconds' worth of messages, counted in thousandths.
struct Allowance {
    per_second: u64,
    left: u64,
    since: Instant,
}

impl Allowance {
    const ONE: u64 = 1_000;

    fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self {
            per_second,
            left: per_second * 10 * Self::ONE,
            since: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let millis = self.since.elapsed().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.since += Duration::from_millis(millis);
        let earned = millis.saturating_mul(self.per_second);
        self.left = self
            .left
            .saturating_add(earned)
            .min(self.per_second * 10 * Self::ONE);
        let enough = self.left >= Self::ONE;
        self.left -= if enough { Self::ONE } else { 0 };
        enough
    }
}
