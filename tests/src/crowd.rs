//! Thousands of agents in one process: each with a wallet, a connection and an offer, sharing a few sockets.
//!
//! They do what a real agent does on its link: check who the broker is, prove their wallet, publish a signed offer, and
//! come back after every loss, waiting at first as long as `ipsx provide` waits.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipsx_market::codec::{self, LENGTH_BYTES};
use ipsx_market::messages::{
    ALPN, AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, PROTOCOL_VERSION,
    SESSION_LABEL,
};
use ipsx_market::offer::{Capacity, Offer, Protocols, Tier, WeeklyHours};
use ipsx_metering::{
    Amount, B256, PricePerGib, PricePerSecond, Prices, Signed, TypedData, UnixSeconds, verify,
};
use ipsx_settlement::{Signer, Wallet};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rand::Rng;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The agent's waits, as in `agent/daemon/src/provider/broker_link.rs`.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// Agents that stay until it is dropped.
pub struct Crowd {
    news: Arc<News>,
    _agents: JoinSet<()>,
}

/// What became of the agents so far.
#[derive(Debug, Default)]
struct News {
    placed: AtomicUsize,
    connects: AtomicUsize,
    losses: Mutex<BTreeMap<String, usize>>,
}

impl Crowd {
    /// Starts agents that connect to a broker all at once, `sockets` of them each from a /24 of its own. Call it within
    /// a runtime.
    pub fn gather(broker: SocketAddr, agents: usize, sockets: u16, keep_alive: Duration) -> Self {
        let client = client_config(keep_alive);
        let endpoints: Vec<_> = (0..sockets).map(|n| endpoint(n, &client)).collect();
        let news = Arc::new(News::default());
        let mut tasks = JoinSet::new();
        for number in 0..agents {
            let agent = Agent {
                broker,
                endpoint: endpoints[number % endpoints.len()].clone(),
                wallet: Wallet::random(),
                news: news.clone(),
            };
            tasks.spawn(agent.live());
        }
        Self {
            news,
            _agents: tasks,
        }
    }

    /// Agents whose offer is in the book now.
    pub fn placed(&self) -> usize {
        self.news.placed.load(Ordering::Relaxed)
    }

    /// Handshakes that were done since the start.
    pub fn connects(&self) -> usize {
        self.news.connects.load(Ordering::Relaxed)
    }

    /// Why connections were lost or not made, and how many.
    pub fn losses(&self) -> BTreeMap<String, usize> {
        self.news.losses.lock().unwrap().clone()
    }
}

struct Agent {
    broker: SocketAddr,
    endpoint: Endpoint,
    wallet: Wallet,
    news: Arc<News>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Agent {
    async fn live(self) {
        let mut wait = FIRST_RETRY;
        loop {
            let was_placed = match Box::pin(timeout(PATIENCE, self.join())).await {
                Ok(Ok((connection, _send, recv))) => {
                    self.news.placed.fetch_add(1, Ordering::Relaxed);
                    let lost = stay(connection, recv).await;
                    self.news.placed.fetch_sub(1, Ordering::Relaxed);
                    self.note(&lost.to_string());
                    true
                }
                Ok(Err(failed)) => {
                    self.note(&failed.to_string());
                    false
                }
                Err(_) => {
                    self.note("no answer in time");
                    false
                }
            };
            if was_placed {
                wait = FIRST_RETRY;
            }
            let part = rand::thread_rng().gen_range(0.5..1.0);
            sleep(wait.mul_f64(part)).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    fn note(&self, reason: &str) {
        let mut losses = self.news.losses.lock().unwrap();
        *losses.entry(reason.to_owned()).or_default() += 1;
    }

    /// From dialling until the offer is placed.
    async fn join(&self) -> Result<(Connection, SendStream, RecvStream), Failure> {
        let connection = self.endpoint.connect(self.broker, "ipsx")?.await?;
        let mut session = [0; 32];
        let exported = connection.export_keying_material(&mut session, SESSION_LABEL, b"");
        exported.map_err(|_| "no exporter")?;
        let session = B256::from(session);
        let (mut send, mut recv) = connection.open_bi().await?;
        let hello = AgentMessage::Hello {
            version: PROTOCOL_VERSION,
            software: "crowd".into(),
        };
        say(&mut send, &hello).await?;
        let BrokerMessage::Welcome {
            network,
            domain,
            operator,
            signature,
            ..
        } = hear(&mut recv).await?
        else {
            return Err("no welcome".into());
        };
        let proof = BrokerAuthentication { network, session };
        verify(proof.signing_hash(&domain), &signature, operator)?;
        let provider = self.wallet.address();
        let claim = AgentAuthentication {
            network,
            provider,
            session,
        };
        let signature = self.wallet.sign_hash(claim.signing_hash(&domain));
        let proof = AgentMessage::Authenticate {
            provider,
            signature,
        };
        say(&mut send, &proof).await?;
        match hear(&mut recv).await? {
            BrokerMessage::Authenticated { .. } => {}
            other => return Err(format!("{other:?}").into()),
        }
        self.news.connects.fetch_add(1, Ordering::Relaxed);
        let offer = Signed::sign(self.offer(network), &domain, self.wallet.key());
        say(&mut send, &AgentMessage::PublishOffer { offer }).await?;
        match hear(&mut recv).await? {
            BrokerMessage::OfferPlaced { .. } => Ok((connection, send, recv)),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn offer(&self, network: ipsx_metering::NetworkId) -> Offer {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let prices = Prices {
            per_second: PricePerSecond(Amount(1_000)),
            per_gib: PricePerGib(Amount(1_000)),
        };
        Offer {
            network,
            provider: self.wallet.address(),
            nonce: 1,
            prefixes: Vec::new(),
            protocols: Protocols::all(),
            policy_hash: B256::repeat_byte(7),
            tier: Tier::Web,
            ports: Tier::Web.ports(),
            services: Vec::new(),
            capacity: Capacity {
                leases: 1,
                mbit_up: 100,
                mbit_down: 100,
                bytes_per_month: u64::MAX,
            },
            prices,
            min_seconds: 5,
            max_seconds: 3_600,
            weekly_hours: WeeklyHours::always(),
            expires_at: UnixSeconds(now.unwrap().as_secs() + 7_200),
        }
    }
}

/// Listens until the connection is lost; says why it was.
async fn stay(connection: Connection, mut recv: RecvStream) -> quinn::ConnectionError {
    while hear(&mut recv).await.is_ok() {}
    connection.closed().await
}

async fn say(send: &mut SendStream, message: &AgentMessage) -> Result<(), Failure> {
    Ok(send.write_all(&codec::encode_frame(message)?).await?)
}

async fn hear(recv: &mut RecvStream) -> Result<BrokerMessage, Failure> {
    let mut prefix = [0; LENGTH_BYTES];
    recv.read_exact(&mut prefix).await?;
    let mut content = vec![0; codec::frame_length(prefix)?];
    recv.read_exact(&mut content).await?;
    Ok(codec::decode(&content)?)
}

/// The `n`-th socket, at 127.A.B.1.
fn endpoint(n: u16, client: &ClientConfig) -> Endpoint {
    let [high, low] = n.to_be_bytes();
    let address = Ipv4Addr::new(127, high + 1, low, 1);
    let mut endpoint = Endpoint::client(SocketAddr::from((address, 0))).unwrap();
    endpoint.set_default_client_config(client.clone());
    endpoint
}

fn client_config(keep_alive: Duration) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(IDLE_LIMIT.try_into().ok())
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into());
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

/// As agents do: the certificate says nothing, and the operator's signature everything.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
