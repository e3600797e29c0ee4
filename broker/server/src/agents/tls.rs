//! TLS that keeps little after its handshake: the secrets of the next keys, and the export that both sides sign. What
//! rustls holds of a session beyond that (3 kB: the keys of records that QUIC does not send, buffers) is for tickets and
//! exports that are not made here.

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use ipsx_market::messages::SESSION_LABEL;
use quinn::ConnectionId;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{Side, TransportError, TransportErrorCode};
use rustls::quic::{Connection, KeyChange, Secrets, ServerConnection, Suite, Version};

/// The only version that is spoken; whoever configures the endpoint says so, too.
pub(super) const QUIC_VERSION: u32 = 1;

/// What rustls lacks for QUIC.
#[derive(Debug, thiserror::Error)]
#[error("the TLS library has no cipher that QUIC begins with")]
pub(super) struct NoInitialCipher;

/// The endpoint's TLS.
pub(super) struct LeanTls {
    /// For what needs no session.
    quic: QuicServerConfig,
    tls: Arc<rustls::ServerConfig>,
    initial: Suite,
}

impl LeanTls {
    /// Takes a configuration for TLS 1.3.
    pub(super) fn new(
        tls: rustls::ServerConfig,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let tls = Arc::new(tls);
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let initial = suite.tls13().and_then(|suite| suite.quic_suite());
        Ok(Self {
            quic: QuicServerConfig::try_from(Arc::clone(&tls))?,
            tls,
            initial: initial.ok_or(NoInitialCipher)?,
        })
    }
}

impl ServerConfig for LeanTls {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.quic.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.quic.retry_tag(version, id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        _: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        // Without a session the first message is refused.
        let handshake = ServerConnection::new(Arc::clone(&self.tls), Version::V1, encoded).ok();
        Box::new(LeanSession {
            handshake: handshake.map(|made| Box::new(made.into())),
            initial: self.initial,
            announced: false,
            next: None,
            exported: None,
        })
    }
}

struct LeanSession {
    /// Until the handshake is done.
    handshake: Option<Box<Connection>>,
    initial: Suite,
    /// Whether it was said that the first message is there.
    announced: bool,
    next: Option<Secrets>,
    /// What [`SESSION_LABEL`] names, once the handshake is done.
    exported: Option<[u8; 32]>,
}

impl Session for LeanSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        let side = match side {
            Side::Client => rustls::Side::Client,
            Side::Server => rustls::Side::Server,
        };
        packed(self.initial.keys(id, side, Version::V1))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.exported.is_none()
    }

    fn read_handshake(&mut self, message: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = self.handshake.as_mut() else {
            let reason = "nothing is said after the handshake";
            return Err(failed(TransportErrorCode::PROTOCOL_VIOLATION, reason));
        };
        tls.read_hs(message).map_err(|error| {
            let violation = TransportErrorCode::PROTOCOL_VIOLATION;
            let alert = tls.alert();
            let code = alert.map_or(violation, |alert| TransportErrorCode::crypto(alert.into()));
            failed(code, error)
        })?;
        if !tls.is_handshaking() {
            let exported = tls.export_keying_material([0; 32], SESSION_LABEL, Some(b""));
            let internal = |error| failed(TransportErrorCode::INTERNAL_ERROR, error);
            self.exported = Some(exported.map_err(internal)?);
        }
        let first = !self.announced && tls.alpn_protocol().is_some();
        self.announced |= first;
        Ok(first)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let tls = self.handshake.as_ref();
        let Some(encoded) = tls.and_then(|tls| tls.quic_transport_parameters()) else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(
            Side::Server,
            &mut Cursor::new(encoded),
        )?))
    }

    fn write_handshake(&mut self, into: &mut Vec<u8>) -> Option<Keys> {
        let before = into.len();
        let change = self.handshake.as_mut()?.write_hs(into);
        if change.is_none() && into.len() == before && self.exported.is_some() {
            self.handshake = None;
        }
        match change? {
            KeyChange::Handshake { keys } => Some(packed(keys)),
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                Some(packed(keys))
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: Box::new(keys.local),
            remote: Box::new(keys.remote),
        })
    }

    /// Only clients are sent a Retry packet.
    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        match self.exported {
            Some(exported)
                if label == SESSION_LABEL
                    && context.is_empty()
                    && output.len() == exported.len() =>
            {
                output.copy_from_slice(&exported);
                Ok(())
            }
            _ => Err(ExportKeyingMaterialError),
        }
    }
}

fn failed(code: TransportErrorCode, reason: impl ToString) -> TransportError {
    TransportError {
        code,
        frame: None,
        reason: reason.to_string(),
    }
}

fn packed(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(keys.remote.packet),
        },
    }
}
