//! The QUIC link to the broker: connects, proves both sides, carries messages, and comes back after every loss.
//!
//! The broker's certificate is its own and says nothing; who it is follows from the operator's signature over the
//! connection's TLS exporter, which the handshake checks before anything else is said.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::provider::{Network, authentication_hash, check_welcome};
use ipsx_market::codec::{self, LENGTH_BYTES};
use ipsx_market::messages::{
    ALPN, AgentMessage, BrokerMessage, CLOSED_REPLACED, PROTOCOL_VERSION, SESSION_LABEL,
};
use ipsx_metering::{B256, DealId};
use ipsx_settlement::{Signer, Wallet};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ApplicationClose, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt,
};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::any_certificate::AnyCertificate;
use super::error::ProviderError;

/// Messages that wait in either direction; a link that can't keep up is dropped, not buffered.
const QUEUE: usize = 256;
/// Connecting and proving both sides must be done in this time. A broker to which thousands come back at once lets them in one
/// after the other, and begins with nobody after 12 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// The broker has this long to read the last messages.
const FAREWELL: Duration = Duration::from_secs(3);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A link that lived this long starts the retries anew.
const SETTLED: Duration = Duration::from_secs(30);
/// Whoever is pushed out by another machine with the same wallet leaves it in peace for this long: each taking over from the
/// other at once would leave neither with an offer in the book.
const REPLACED_RETRY: Duration = Duration::from_secs(300);
/// The broker gives up who is silent for 15 s, and sends nothing by itself.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Whoever has another broker to go to finds out within 3 s that its own is gone.
const QUICK_KEEP_ALIVE: Duration = Duration::from_secs(1);
const QUICK_IDLE_LIMIT: Duration = Duration::from_secs(2);
/// And does not wait for long for one that may be gone as well.
const QUICK_PATIENCE: Duration = Duration::from_secs(8);
/// What the connection is closed with: the agent goes in peace.
const CLOSE_DONE: VarInt = VarInt::from_u32(0);

/// What the link tells the provider.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Both sides are proven.
    Up {
        /// Address that the broker sees.
        observed: IpAddr,
        /// Deals that the broker holds for unfinished.
        unfinished: Vec<DealId>,
        /// Who says what a NAT shows of the WireGuard socket.
        reflector: Option<SocketAddr>,
        /// Takes messages for this connection only: an answer must not reach a later one.
        outbox: mpsc::Sender<AgentMessage>,
    },
    /// The broker says something.
    Message(Box<BrokerMessage>),
    /// The connection is lost, or could not be made.
    Down {
        /// Why.
        reason: String,
        /// How long until the next attempt.
        retry_in: Duration,
    },
}

/// A task that keeps one connection to the broker.
#[derive(Debug)]
pub(super) struct BrokerLink {
    events: mpsc::Receiver<LinkEvent>,
    task: tokio::task::JoinHandle<()>,
}

/// What one link needs to know.
pub(super) struct LinkConfig {
    /// Where brokers of the network take agents; one at least.
    pub(super) brokers: Vec<SocketAddr>,
    pub(super) bind: Option<IpAddr>,
    pub(super) network: Network,
    pub(super) wallet: Arc<Wallet>,
}

impl BrokerLink {
    /// Opens the local socket and starts connecting.
    pub(super) fn open(config: LinkConfig) -> Result<Self, ProviderError> {
        let unspecified = match config.brokers.first().map(SocketAddr::ip) {
            Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let address = SocketAddr::new(config.bind.unwrap_or(unspecified), 0);
        let client = client_config(config.brokers.len() > 1)?;
        let mut endpoint = Endpoint::client(address).map_err(|source| ProviderError::Bind {
            address: address.ip(),
            source,
        })?;
        endpoint.set_default_client_config(client);
        let (sender, events) = mpsc::channel(QUEUE);
        let task = tokio::spawn(
            Dialer {
                config,
                endpoint,
                events: sender,
            }
            .run(),
        );
        Ok(Self { events, task })
    }

    /// The next thing that happens; `None` after the link has ended for good.
    pub(super) async fn next(&mut self) -> Option<LinkEvent> {
        self.events.recv().await
    }
}

impl Drop for BrokerLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Dialer {
    config: LinkConfig,
    endpoint: Endpoint,
    events: mpsc::Sender<LinkEvent>,
}

/// Why one connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("it does not answer at {0}")]
    Timeout(SocketAddr),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Write(#[from] quinn::WriteError),
    #[error("it closed the stream")]
    Closed(#[from] quinn::ReadExactError),
    #[error("{0}")]
    Codec(#[from] codec::CodecError),
    #[error("{0}")]
    NotTheBroker(#[from] ipsx_agent_core::provider::NotTheBroker),
    #[error("its TLS session has no exporter")]
    NoExporter,
    #[error("it ended the connection: {0}")]
    Refused(String),
    #[error(
        "another machine connected with this wallet: one wallet serves one machine, so stop one of them"
    )]
    Replaced,
    #[error("this side ended the connection")]
    Ended,
}

/// Waits between attempts.
struct Retries {
    wait: Duration,
}

impl Retries {
    fn new() -> Self {
        Self { wait: FIRST_RETRY }
    }

    /// How long to wait after a connection that lived this long, `part` of the whole wait: half to all of it, so that
    /// agents do not come back all at once. Waits grow with every `round` of all brokers.
    fn next(&mut self, error: &LinkError, lived: Duration, part: f64, round: bool) -> Duration {
        if matches!(error, LinkError::Replaced) {
            self.wait = FIRST_RETRY;
            return REPLACED_RETRY.mul_f64(part);
        }
        if lived > SETTLED {
            self.wait = FIRST_RETRY;
        }
        let wait = self.wait;
        if round {
            self.wait = (wait * 2).min(LONGEST_RETRY);
        }
        wait.mul_f64(part)
    }
}

impl Dialer {
    async fn run(self) {
        let mut retries = Retries::new();
        let brokers = &self.config.brokers;
        // Somewhere among them, so that agents are spread over all.
        let first = rand::rngs::OsRng.gen_range(0..brokers.len().max(1));
        for (tried, broker) in brokers.iter().cycle().skip(first).enumerate() {
            let started = Instant::now();
            let Err(error) = self.serve_once(*broker).await;
            let part = rand::rngs::OsRng.gen_range(0.5..1.0);
            let round = (tried + 1) % brokers.len() == 0;
            let retry_in = retries.next(&error, started.elapsed(), part, round);
            let reason = error.to_string();
            if self
                .events
                .send(LinkEvent::Down { reason, retry_in })
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(retry_in).await;
        }
    }

    /// One connection from dialling to its end.
    async fn serve_once(&self, broker: SocketAddr) -> Result<Infallible, LinkError> {
        let patience = match self.config.brokers.len() {
            1 => PATIENCE,
            _ => QUICK_PATIENCE,
        };
        let (connection, mut send, mut receive, up) = timeout(patience, self.connect(broker))
            .await
            .map_err(|_| LinkError::Timeout(broker))??;
        let (outbox, mut queue) = mpsc::channel(QUEUE);
        let BrokerMessage::Authenticated {
            observed,
            unfinished,
            reflector,
        } = up
        else {
            return Err(ipsx_agent_core::provider::NotTheBroker::Unexpected.into());
        };
        let announced = LinkEvent::Up {
            observed,
            unfinished,
            reflector,
            outbox,
        };
        if self.events.send(announced).await.is_err() {
            return Err(LinkError::Ended);
        }
        let outgoing = async {
            while let Some(message) = queue.recv().await {
                write(&mut send, &message).await?;
            }
            // The provider is done with it. The broker closes the connection when it has read everything; closing it
            // from here would throw away what has arrived but was not read.
            let _ = send.finish();
            let _ = timeout(FAREWELL, connection.closed()).await;
            Err(LinkError::Ended)
        };
        let incoming = async {
            loop {
                let message: BrokerMessage = read(&mut receive).await?;
                if let BrokerMessage::Refused { reason } = message {
                    return Err(LinkError::Refused(reason));
                }
                if self
                    .events
                    .send(LinkEvent::Message(Box::new(message)))
                    .await
                    .is_err()
                {
                    return Err(LinkError::Ended);
                }
            }
        };
        let result = tokio::select! {
            result = outgoing => result,
            result = incoming => result,
        };
        let replaced = connection
            .close_reason()
            .is_some_and(|reason| is_replaced(&reason));
        connection.close(CLOSE_DONE, b"done");
        self.endpoint.wait_idle().await;
        if replaced {
            return Err(LinkError::Replaced);
        }
        result
    }

    async fn connect(
        &self,
        broker: SocketAddr,
    ) -> Result<(Connection, SendStream, RecvStream, BrokerMessage), LinkError> {
        let connection = self.endpoint.connect(broker, "ipsx")?.await?;
        let mut session = [0; 32];
        connection
            .export_keying_material(&mut session, SESSION_LABEL, b"")
            .map_err(|_| LinkError::NoExporter)?;
        let session = B256::new(session);
        let (mut send, mut receive) = connection.open_bi().await?;
        let hello = AgentMessage::Hello {
            version: PROTOCOL_VERSION,
            software: concat!("ipsx/", env!("CARGO_PKG_VERSION")).into(),
        };
        write(&mut send, &hello).await?;
        check_welcome(&read(&mut receive).await?, &self.config.network, session)?;
        let provider = self.config.wallet.address();
        let hash = authentication_hash(&self.config.network, provider, session);
        let proof = AgentMessage::Authenticate {
            provider,
            signature: self.config.wallet.sign_hash(hash),
        };
        write(&mut send, &proof).await?;
        let answer: BrokerMessage = read(&mut receive).await?;
        match answer {
            BrokerMessage::Authenticated { .. } => Ok((connection, send, receive, answer)),
            BrokerMessage::Refused { reason } => Err(LinkError::Refused(reason)),
            _ => Err(ipsx_agent_core::provider::NotTheBroker::Unexpected.into()),
        }
    }
}

fn is_replaced(reason: &ConnectionError) -> bool {
    let replaced = VarInt::from_u32(CLOSED_REPLACED);
    matches!(reason, ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) if *error_code == replaced)
}

async fn write(stream: &mut SendStream, message: &AgentMessage) -> Result<(), LinkError> {
    stream.write_all(&codec::encode_frame(message)?).await?;
    Ok(())
}

async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, LinkError> {
    let mut prefix = [0; LENGTH_BYTES];
    stream.read_exact(&mut prefix).await?;
    let mut content = vec![0; codec::frame_length(prefix)?];
    stream.read_exact(&mut content).await?;
    Ok(codec::decode(&content)?)
}

fn client_config(several: bool) -> Result<quinn::ClientConfig, ProviderError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = |reason: String| ProviderError::Tls { reason };
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_no_client_auth();
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(crypto).map_err(|error| tls(error.to_string()))?;
    let (keep_alive, idle_limit) = match several {
        false => (KEEP_ALIVE, IDLE_LIMIT),
        true => (QUICK_KEEP_ALIVE, QUICK_IDLE_LIMIT),
    };
    let mut transport = quinn::TransportConfig::default();
    transport
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(idle_limit.try_into().ok())
        // Messages fit the packets that every path carries.
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into());
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> LinkError {
        LinkError::Connection(ConnectionError::Reset)
    }

    #[test]
    fn waits_grow_to_half_a_minute_and_begin_anew_after_a_link_that_lasted() {
        let mut retries = Retries::new();
        let waits: Vec<_> = (0..9)
            .map(|_| retries.next(&lost(), Duration::ZERO, 1.0, true).as_millis())
            .collect();
        assert_eq!(
            waits,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        );
        let after = retries.next(&lost(), SETTLED + Duration::from_secs(1), 0.5, false);
        assert_eq!(after.as_millis(), 125);
        let other = retries.next(&lost(), Duration::ZERO, 0.5, true);
        assert_eq!(other.as_millis(), 125, "the next broker may be well");
        assert_eq!(
            retries.next(&lost(), Duration::ZERO, 0.5, true).as_millis(),
            250
        );
    }

    #[test]
    fn who_was_pushed_out_leaves_the_other_in_peace() {
        let close = |code: u32| {
            ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: VarInt::from_u32(code),
                reason: Vec::new().into(),
            })
        };
        assert!(is_replaced(&close(CLOSED_REPLACED)));
        assert!(!is_replaced(&close(1)) && !is_replaced(&ConnectionError::Reset));
        let mut retries = Retries::new();
        let wait = retries.next(&LinkError::Replaced, Duration::ZERO, 0.5, true);
        assert!(wait >= Duration::from_secs(150), "{wait:?}");
    }
}
