//! Brings an agreed lease up: the tunnel and its proxy, or the file for another client.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_agent_core::requester::{Lease, LeaseSettings, PaymentPath};
use ipsx_market::http::RequesterEndpoint;
use ipsx_market::place::Reachability;
use ipsx_market::sealed::FrameSealer;
use ipsx_metering::SecretKey;
use ipsx_tunnel_core::PublicKey;
use ipsx_tunnel_os::{
    ClientConfig, ClientTunnel, Proxy, ProxyConfig, Punch, Relay, RelaySource, RelayToken,
    TunnelError,
};
use rand::RngCore;
use rand::rngs::OsRng;
use tokio::sync::{mpsc, watch};

use super::Use;
use super::exit_check::ExitPage;
use super::export::wg_quick;
use super::place::{Beside, NextTunnel, Place};
use super::requester::{Agreed, Requester};
use super::running::{Drive, RunningLease};
use super::transport::{Relay as FrameRelay, Transport};
use super::usage::port_in_use;
use crate::cli::duration;
use crate::exit_code::{ExitCode, Failure};
use crate::store::write_private;

/// How long the provider may take for its first answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// WireGuard's usual keepalive, which holds a NAT open.
const KEEPALIVE_SECS: u16 = 25;

/// Brings a lease up: tunnel and proxy, or the file; then it pays by itself until its end.
pub async fn begin(
    requester: Arc<Requester>,
    agreed: Agreed,
    usage: Use,
) -> Result<(RunningLease, Place), Failure> {
    let mut record = agreed.record.clone();
    match bring_up(&requester, agreed, usage).await {
        Ok(running) => Ok(running),
        Err(failure) => {
            requester.abandon(&mut record).await?;
            Err(failure)
        }
    }
}

async fn bring_up(
    requester: &Arc<Requester>,
    agreed: Agreed,
    usage: Use,
) -> Result<(RunningLease, Place), Failure> {
    let exit_page = usage.exit_page().cloned();
    let (transport, place) = match usage {
        Use::Proxy { listen, bind, .. } => {
            proxy(tunnel_config(requester, &agreed, bind), listen).await?
        }
        #[cfg(target_os = "linux")]
        Use::Host { mode, bind, .. } => {
            let (place, events) = mode.begin(tunnel_config(requester, &agreed, bind)).await?;
            let tunnel = place.tunnel().clone();
            (
                Transport::Host { tunnel, events },
                Place::Host(Box::new(place)),
            )
        }
        Use::Export { file } => export(requester, &agreed, file)?,
    };
    let path = match &place {
        Place::File(_) => PaymentPath::Broker,
        _ => PaymentPath::Tunnel,
    };
    let lease = match lease(requester, &agreed, path, exit_page.is_some()) {
        Ok(lease) => lease,
        Err(failure) => {
            place.close().await?;
            return Err(failure);
        }
    };
    let running = RunningLease::start(Drive {
        requester: requester.clone(),
        lease,
        record: agreed.record,
        transport,
        exit_page,
        slot: agreed.slot,
    });
    Ok((running, place))
}

/// Brings a lease up whose tunnel takes over from another one.
pub(super) async fn begin_beside(
    requester: Arc<Requester>,
    agreed: Agreed,
    beside: &Beside,
    bind: Option<IpAddr>,
    exit_page: Option<ExitPage>,
) -> Result<(RunningLease, NextTunnel), Failure> {
    let mut record = agreed.record.clone();
    let begun = async {
        let (transport, next) = beside
            .connect(tunnel_config(&requester, &agreed, bind))
            .await?;
        let checks = exit_page.is_some();
        match lease(&requester, &agreed, PaymentPath::Tunnel, checks) {
            Ok(lease) => Ok((transport, next, lease)),
            Err(failure) => {
                next.shutdown().await;
                Err(failure)
            }
        }
    };
    match begun.await {
        Ok((transport, next, lease)) => {
            let running = RunningLease::start(Drive {
                requester,
                lease,
                record: agreed.record,
                transport,
                exit_page,
                slot: agreed.slot,
            });
            Ok((running, next))
        }
        Err(failure) => {
            requester.abandon(&mut record).await?;
            Err(failure)
        }
    }
}

/// The tunnel, with a local proxy in front of it.
async fn proxy(config: ClientConfig, listen: SocketAddr) -> Result<(Transport, Place), Failure> {
    let connected = ClientTunnel::connect(config).await;
    let (tunnel, events) = connected.map_err(tunnel_failure)?;
    let proxy = Proxy::start(ProxyConfig::new(listen), tunnel.clone())
        .await
        .map_err(port_in_use)?;
    let transport = Transport::Tunnel {
        tunnel: tunnel.clone(),
        events,
    };
    Ok((transport, Place::Proxy { proxy, tunnel }))
}

/// The file for another client, and the way for payments beside it.
fn export(
    requester: &Arc<Requester>,
    agreed: &Agreed,
    file: PathBuf,
) -> Result<(Transport, Place), Failure> {
    let (deal, key) = (&agreed.record.deal, &agreed.tunnel_key);
    let until = format!(
        "{} after its start",
        duration::format(u64::from(deal.seconds))
    );
    let text = wg_quick(key, deal.provider_tunnel_key, &agreed.ready, &until);
    write_private(&file, text.as_bytes())?;
    let sealer = FrameSealer::new(*key.expose_bytes(), deal.provider_tunnel_key, deal.id());
    let relay = FrameRelay::start(requester.clone(), deal.id(), sealer);
    Ok((Transport::Broker(relay), Place::File(file)))
}

/// The machine that pays.
fn lease(
    requester: &Requester,
    agreed: &Agreed,
    path: PaymentPath,
    exit_check: bool,
) -> Result<Lease, Failure> {
    let deal = &agreed.record.deal;
    let session_key = agreed
        .slot
        .key(&requester.wallet, requester.network.info.network);
    let key = SecretKey::from_bytes(&session_key.secret())
        .ok_or_else(|| Failure::internal("the session key is no key"))?;
    let settings = LeaseSettings {
        network: requester.network.rules,
        deal: deal.clone(),
        channel: requester.store.channel(deal.channel().id())?,
        shown: agreed.ready.latest_voucher.clone(),
        key,
        path,
        exit_check,
        own_flows: path == PaymentPath::Tunnel,
        seed: OsRng.next_u64(),
        connect_within: CONNECT_WITHIN,
    };
    Lease::new(settings, Instant::now())
        .map_err(|error| Failure::new(ExitCode::Refused, error.to_string()))
}

fn tunnel_config(
    requester: &Arc<Requester>,
    agreed: &Agreed,
    bind: Option<IpAddr>,
) -> ClientConfig {
    let (deal, ready) = (&agreed.record.deal, &agreed.ready);
    let anywhere: IpAddr = match ready.endpoint {
        SocketAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    };
    ClientConfig {
        private_key: agreed.tunnel_key.clone(),
        peer_public_key: PublicKey::from_bytes(deal.provider_tunnel_key.0.0),
        preshared_key: None,
        endpoint: ready.endpoint,
        bind: SocketAddr::new(bind.unwrap_or(anywhere), 0),
        inner_v4: ready.address_v4,
        inner_v6: ready.address_v6,
        gateway_v4: ready.gateway,
        control_port: ready.control_port,
        keepalive: Some(KEEPALIVE_SECS),
        handshake_timeout: CONNECT_WITHIN,
        punch: punch(requester, agreed),
    }
}

/// How to come to a provider that not everybody reaches: what a NAT shows of this side is passed on by the broker.
fn punch(requester: &Arc<Requester>, agreed: &Agreed) -> Option<Punch> {
    let reachability = agreed.record.placement.measured.reachability;
    let reflector = requester.network.info.reflector?;
    let same_version = reflector.is_ipv4() == agreed.ready.endpoint.is_ipv4();
    if reachability == Some(Reachability::Direct) || !same_version {
        return None;
    }
    let (mapped, mut told) = mpsc::channel(1);
    let relay = relay(requester, agreed);
    let (requester, deal) = (requester.clone(), agreed.record.deal.id());
    // Until the tunnel is up, or given up.
    tokio::spawn(async move {
        while let Some(endpoint) = told.recv().await {
            let told = RequesterEndpoint { endpoint };
            if let Err(error) = requester.session.endpoint(deal, &told).await {
                tracing::info!(%endpoint, %error, "the provider was not told from where this side calls");
            }
        }
    });
    Some(Punch {
        reflector,
        mapped,
        relay,
    })
}

/// Who gives a relay if there is no other way, and another one if that is lost: the broker, if it has one and the request lets it.
fn relay(requester: &Arc<Requester>, agreed: &Agreed) -> Option<RelaySource> {
    let address = requester.network.info.relay?;
    if !requester.is_relayed() || address.is_ipv4() != agreed.ready.endpoint.is_ipv4() {
        return None;
    }
    let (wanted, mut asked) = mpsc::channel(1);
    let (giving, given) = watch::channel(None);
    let (requester, deal) = (requester.clone(), agreed.record.deal.id());
    // Until the tunnel is gone, or up by another way.
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            match requester.session.relay(deal).await {
                Ok(way) => {
                    tracing::info!(relay = %way.relay, "a relay carries the tunnel's packets");
                    giving.send_replace(Some(Ok(Relay {
                        address: way.relay,
                        token: RelayToken(way.token.0.0),
                    })));
                }
                Err(error) => {
                    tracing::info!(%error, "there is no relay");
                    giving.send_replace(Some(Err(error.to_string())));
                }
            }
        }
    });
    Some(RelaySource {
        address,
        wanted,
        given,
    })
}

/// A tunnel that did not come up.
pub(super) fn tunnel_failure(error: TunnelError) -> Failure {
    let code = match error {
        TunnelError::Bind { .. } => ExitCode::PortInUse,
        TunnelError::HandshakeTimeout { .. } | TunnelError::NotPunched { .. } => {
            ExitCode::LeaseFailed
        }
        _ => ExitCode::Internal,
    };
    let remedy = match error {
        TunnelError::NotPunched { .. } => {
            "; nothing was paid, take an offer that everybody reaches with --reachability direct"
        }
        _ => "",
    };
    Failure::new(code, format!("{error}{remedy}"))
}
