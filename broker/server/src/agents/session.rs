//! One agent's connection: handshake, then messages until either side ends it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::codec::{self, CodecError, LENGTH_BYTES};
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, PROTOCOL_VERSION,
    SESSION_LABEL,
};
use ipsx_metering::{Address, B256, TypedData, verify};
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::gate::{Gate, Pending, prefix};
use super::outbox::Outbox;
use super::registry::{Line, code};
use crate::desk::{Desk, DeskError};
use crate::fleet::Elsewhere;

/// The rest of a message comes within this time of its length; a slow line brings 64 KiB in it.
const MESSAGE: Duration = Duration::from_secs(20);
/// Room that is made for a message before its content has come.
const AT_FIRST: usize = 2 * 1024;

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

/// An agent that has proved its wallet.
struct Agent {
    provider: Address,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    _place: OwnedSemaphorePermit,
}

/// Serves one connection until it or the broker ends it.
pub(crate) fn run(
    incoming: Incoming,
    pending: Pending,
    desk: Arc<Desk>,
    gate: Arc<Gate>,
) -> impl Future<Output = ()> {
    // Each part on the heap, and gone when it is done: what is left waits for months and has to be small.
    let turn = Box::pin(wait(
        incoming,
        pending,
        Arc::clone(&desk),
        Arc::clone(&gate),
    ));
    async move {
        let Some(admitted) = turn.await else {
            return;
        };
        if let Some(agent) = admitted.await {
            Box::pin(serve(agent, desk, gate)).await;
        }
    }
}

type Admitted = Pin<Box<dyn Future<Output = Option<Agent>> + Send>>;

/// Waits for a handshake's turn. Thousands may, so what the handshake takes is made afterwards.
async fn wait(
    incoming: Incoming,
    pending: Pending,
    desk: Arc<Desk>,
    gate: Arc<Gate>,
) -> Option<Admitted> {
    let Some(turn) = gate.turn().await else {
        desk.metrics.refused("handshakes_full");
        incoming.refuse();
        return None;
    };
    Some(Box::pin(admit(incoming, pending, turn, desk, gate)))
}

async fn serve(agent: Agent, desk: Arc<Desk>, gate: Arc<Gate>) {
    let (provider, connection) = (agent.provider, agent.connection.clone());
    let remote = connection.remote_address();
    tracing::info!(%provider, %remote, "agent connected");
    let ended = converse(agent, &desk, &gate).await;
    tracing::info!(%provider, %remote, reason = %ended, "agent disconnected");
    Box::pin(say_goodbye(&connection, None, &ended, &desk)).await;
}

/// From the first packet to a proved wallet. What is not done in time is refused.
async fn admit(
    incoming: Incoming,
    mut pending: Pending,
    _turn: OwnedSemaphorePermit,
    desk: Arc<Desk>,
    gate: Arc<Gate>,
) -> Option<Agent> {
    let remote = incoming.remote_address();
    let until = Instant::now() + gate.limits.handshake;
    let connection = match timeout_at(until, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "no connection");
            desk.metrics.refused("handshake");
            return None;
        }
        Err(_) => {
            desk.metrics.refused("handshake_timeout");
            return None;
        }
    };
    if !pending.reached() {
        desk.metrics.refused("prefix_connect_rate");
        connection.close(code::REFUSED, b"too many connections from this network");
        return None;
    }
    let Ok(Ok((mut send, mut recv))) = timeout_at(until, connection.accept_bi()).await else {
        desk.metrics.refused("handshake_timeout");
        connection.close(code::REFUSED, b"no stream was opened in time");
        return None;
    };
    let shaken = handshake(&connection, &mut send, &mut recv, &desk);
    let shaken = match timeout_at(until, shaken).await {
        Ok(shaken) => shaken.and_then(|provider| Ok((provider, seat(provider, &gate)?))),
        Err(_) => Err(refused("handshake_timeout", "the handshake took too long")),
    };
    match shaken {
        Ok((provider, place)) => Some(Agent {
            provider,
            connection,
            send,
            recv,
            _place: place,
        }),
        Err(ended) => {
            say_goodbye(&connection, Some(&mut send), &ended, &desk).await;
            None
        }
    }
}

/// A place for a wallet that is proved.
fn seat(provider: Address, gate: &Gate) -> Result<OwnedSemaphorePermit, Ended> {
    if !gate.may_join(provider) {
        let reason =
            "this wallet connects again and again; if another machine uses it, stop one of them";
        return Err(refused("wallet_connect_rate", reason));
    }
    let full = "this broker has as many agents as it takes; try again later or use another";
    gate.place().ok_or_else(|| refused("agents_full", full))
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
    say(send, &welcome).await?;
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
async fn converse(agent: Agent, desk: &Arc<Desk>, gate: &Gate) -> Ended {
    let Agent {
        provider,
        connection,
        mut send,
        mut recv,
        _place,
    } = agent;
    if let Some(reason) = connection.close_reason() {
        // It has given up meanwhile, and must not push out the connection that it made since.
        return Ended::Lost(reason.to_string());
    }
    let outbox = Arc::new(Outbox::default());
    let observed = connection.remote_address().ip().to_canonical();
    let found = find_ear(desk, (provider, observed), &outbox, connection);
    let ear = match Box::pin(found).await {
        Ok(ear) => ear,
        Err(error) => return error.into(),
    };
    let writing = async {
        while let Some(frames) = outbox.take().await {
            for frame in frames {
                write(&mut send, &frame).await?;
            }
        }
        Ok::<(), Ended>(())
    };
    let reading = async {
        let mut allowance = Allowance::new(gate.limits.messages_per_second);
        loop {
            let length = read_length(&mut recv).await?;
            // On the heap for as long as there is a message.
            Box::pin(async {
                let message = read_content(&mut recv, length).await?;
                if !allowance.take() {
                    let most = gate.limits.messages_per_second;
                    let reason = format!("more than {most} messages a second");
                    return Err(refused("message_rate", reason));
                }
                gate.pace(prefix(observed)).await;
                match &ear {
                    Ear::Here(_) => desk.hear(provider, observed, message).await?,
                    Ear::Elsewhere(broker) => broker.say(&message),
                }
                Ok(())
            })
            .await?;
        }
    };
    let ended = tokio::select! {
        Err(ended) = writing => ended,
        Err::<(), _>(ended) = reading => ended,
        else => Ended::Lost("replaced".into()),
    };
    Box::pin(leave(provider, ear, &mut send, &ended, desk)).await;
    ended
}

/// Who hears an agent: this broker, under a number, or the owner of its shard, who is told when this is dropped.
enum Ear {
    Here(u64),
    Elsewhere(Elsewhere),
}

async fn find_ear(
    desk: &Desk,
    (provider, observed): (Address, IpAddr),
    outbox: &Arc<Outbox>,
    connection: Connection,
) -> Result<Ear, DeskError> {
    let outbox = Arc::clone(outbox);
    let mut shard = None;
    if let Some(fleet) = &desk.fleet {
        let own = desk.home(provider, observed).await?;
        let home = fleet.home(own).await.ok_or(DeskError::Moved)?;
        if home.owner != *fleet.me() {
            let agent = (provider, observed);
            let elsewhere = fleet.introduce(agent, (own, home), outbox, connection);
            return Ok(Ear::Elsewhere(elsewhere));
        }
        shard = Some(own);
    }
    let line = Line::Here(connection);
    let number = desk.join(provider, observed, outbox, line, shard).await?;
    Ok(Ear::Here(number))
}

async fn leave(provider: Address, ear: Ear, send: &mut SendStream, ended: &Ended, desk: &Desk) {
    if let Ear::Here(number) = ear
        && let Err(error) = desk.leave(provider, number).await
    {
        tracing::warn!(%provider, %error, "the agent's leaving was not noted");
    }
    if let Ended::Refused { reason, .. } = ended {
        // The connection may be gone already.
        let _ = say(send, &goodbye(reason)).await;
        linger(send).await;
    }
}

fn goodbye(reason: &str) -> BrokerMessage {
    BrokerMessage::Refused {
        reason: reason.into(),
    }
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
                // Whoever sends garbage may not be there to read the answer.
                let _ = say(send, &goodbye(reason)).await;
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
    let length = read_length(recv).await?;
    read_content(recv, length).await
}

async fn read_length(recv: &mut RecvStream) -> Result<usize, Ended> {
    let mut prefix = [0; LENGTH_BYTES];
    let read = recv.read_exact(&mut prefix).await;
    read.map_err(|error| Ended::Lost(error.to_string()))?;
    codec::frame_length(prefix).map_err(malformed)
}

/// Room is made as the content comes: a length alone would make the broker hold as much for each agent that names it.
async fn read_content(recv: &mut RecvStream, length: usize) -> Result<AgentMessage, Ended> {
    let content = async {
        let mut content = Vec::with_capacity(length.min(AT_FIRST));
        while content.len() < length {
            let chunk = recv.read_chunk(length - content.len()).await;
            match chunk.map_err(|error| Ended::Lost(error.to_string()))? {
                Some(chunk) => content.extend_from_slice(&chunk),
                None => return Err(Ended::Lost("the stream ended within a message".into())),
            }
        }
        Ok(content)
    };
    let content = timeout(MESSAGE, content).await.map_err(|_| {
        let reason = format!(
            "the rest of a message did not come within {} s",
            MESSAGE.as_secs()
        );
        refused("message_timeout", reason)
    })??;
    codec::decode(&content).map_err(malformed)
}

async fn say(send: &mut SendStream, message: &BrokerMessage) -> Result<(), Ended> {
    write(send, &codec::encode_frame(message).map_err(malformed)?).await
}

async fn write(send: &mut SendStream, frame: &[u8]) -> Result<(), Ended> {
    let written = send.write_all(frame).await;
    written.map_err(|error| Ended::Lost(error.to_string()))
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
