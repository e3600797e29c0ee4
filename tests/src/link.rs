//! An agent's connection to a broker: who proves what to whom at its beginning, and messages as frames.

use std::net::IpAddr;
use std::sync::Arc;

use ipsx_market::codec::{self, LENGTH_BYTES};
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, PROTOCOL_VERSION,
    SESSION_LABEL,
};
use ipsx_metering::{B256, DealId, Domain, NetworkId, TypedData, verify};
use ipsx_settlement::{Signer, Wallet};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, RecvStream, SendStream, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// Why there is no link, or no longer.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection on which both have proved who they are.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// What the agent says.
    pub send: SendStream,
    /// What the broker says.
    pub recv: RecvStream,
    /// The broker's network.
    pub network: NetworkId,
    /// What is signed, is signed for this contract.
    pub domain: Domain,
    /// Where the broker sees the agent.
    pub observed: IpAddr,
    /// Deals that the broker holds for unfinished.
    pub unfinished: Vec<DealId>,
}

impl Link {
    /// Checks who the broker is, and proves the wallet.
    pub async fn shake_hands(connection: Connection, wallet: &Wallet) -> Result<Self, Failure> {
        let session = exporter(&connection)?;
        let (mut send, mut recv) = connection.open_bi().await?;
        say(&mut send, &hello()).await?;
        let (network, domain, operator, signature) = match hear(&mut recv).await? {
            BrokerMessage::Welcome {
                network,
                domain,
                operator,
                signature,
                ..
            } => (network, domain, operator, signature),
            other => return Err(format!("{other:?}").into()),
        };
        let proof = BrokerAuthentication { network, session };
        verify(proof.signing_hash(&domain), &signature, operator)?;
        let provider = wallet.address();
        let claim = AgentAuthentication {
            network,
            provider,
            session,
        };
        let signature = wallet.sign_hash(claim.signing_hash(&domain));
        let proof = AgentMessage::Authenticate {
            provider,
            signature,
        };
        say(&mut send, &proof).await?;
        match hear(&mut recv).await? {
            BrokerMessage::Authenticated {
                observed,
                unfinished,
                ..
            } => Ok(Self {
                connection,
                send,
                recv,
                network,
                domain,
                observed,
                unfinished,
            }),
            other => Err(format!("{other:?}").into()),
        }
    }
}

/// What both sides sign of a connection.
pub fn exporter(connection: &Connection) -> Result<B256, Failure> {
    let mut session = [0; 32];
    let exported = connection.export_keying_material(&mut session, SESSION_LABEL, b"");
    exported.map_err(|_| "the TLS session has no exporter")?;
    Ok(B256::from(session))
}

/// The first message.
pub fn hello() -> AgentMessage {
    AgentMessage::Hello {
        version: PROTOCOL_VERSION,
        software: "test".into(),
    }
}

/// Says something to the broker.
pub async fn say(send: &mut SendStream, message: &AgentMessage) -> Result<(), Failure> {
    Ok(send.write_all(&codec::encode_frame(message)?).await?)
}

/// The next thing that the broker says.
pub async fn hear(recv: &mut RecvStream) -> Result<BrokerMessage, Failure> {
    let mut prefix = [0; LENGTH_BYTES];
    recv.read_exact(&mut prefix).await?;
    let mut content = vec![0; codec::frame_length(prefix)?];
    recv.read_exact(&mut content).await?;
    Ok(codec::decode(&content)?)
}

/// TLS 1.3 with any certificate, and this protocol above it.
pub fn client_config(alpn: &[u8], transport: TransportConfig) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

/// The certificate says nothing, and the operator's signature above it everything. Agents see to it that whoever has the
/// certificate has its key; a test knows whom it talks to.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

type Signature = Result<HandshakeSignatureValid, rustls::Error>;

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
    ) -> Signature {
        self.verify_tls13_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Signature {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
