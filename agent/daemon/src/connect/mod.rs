//! `ipsx connect`: leases an address and uses it.

mod exit_check;
mod explain;
mod export;
mod recover;
mod requester;
mod running;
mod show;
#[cfg(all(test, feature = "demo"))]
mod tests;
mod transport;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::requester::{Lease, LeaseSettings, PaymentPath, Wishes};
use ipsx_market::request::CounterSource;
use ipsx_market::sealed::FrameSealer;
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_tunnel_core::PublicKey;
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, Proxy, ProxyConfig, ProxyError};
use rand::RngCore;
use rand::rngs::OsRng;

use crate::broker::Broker;
use crate::cli::{ConnectArgs, PriceArgs, duration};
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::output::Output;
use crate::store::{Slot, write_private};
use crate::wallet;

pub use exit_check::ExitPage;
pub use explain::price;
pub use recover::end_unfinished;
pub use requester::{Agreed, Requester, is_over};
pub use running::{Finished, News, RunningLease};
pub use show::{Shown, second_line};

/// How long the provider may take for its first answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// WireGuard's usual keepalive, which holds a NAT open.
const KEEPALIVE_SECS: u16 = 25;

/// Runs `ipsx connect`.
pub async fn run(args: ConnectArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    let usage = Use::from_args(&args)?;
    // Whatever can be found out without the network is found out first.
    usage.check()?;
    let requester = Arc::new(open(settings, output).await?);
    requester.check_deposit(args.budget).await?;
    let slot = Slot::take(&settings.data)?;
    let agreed = requester.agree(slot, &wishes(&args)).await?;
    let checked = usage.is_checked();
    let shown = Shown::new(output);
    shown.agreed(&agreed.record);
    let mut wishes_to_end = interrupts();
    let (mut lease, place) = begin(requester, agreed, usage).await?;
    shown.file(&place);
    loop {
        tokio::select! {
            news = lease.news.recv() => match news {
                Some(news) => {
                    let usable = if checked { matches!(news, News::ExitProven(_)) } else { news == News::Serving };
                    shown.news(&news);
                    if usable {
                        shown.proxy(&place);
                    }
                }
                None => break,
            },
            Some(wish) = wishes_to_end.recv() => match wish {
                1 => lease.stop(),
                // What was promised is on disk: nothing is lost but the last word.
                _ => return Err(Failure::new(
                    ExitCode::Interrupted,
                    "ended without the last word to the provider; the next ipsx command tells the broker",
                )),
            },
        }
    }
    let finished = lease.finished().await?;
    place.close().await;
    shown.finished(&finished)
}

/// Opens the wallet, joins the network and ends what a crash left open.
pub async fn open(settings: &Settings, output: &Output) -> Result<Requester, Failure> {
    let broker = Broker::new(&settings.broker);
    let network = Network::join(settings, &broker).await?;
    let wallet = wallet::open(settings).await?;
    let requester = Requester::new(wallet, network, broker, &settings.data);
    end_unfinished(&requester, &settings.data, output).await?;
    Ok(requester)
}

/// How a lease is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// This program runs the tunnel and offers it as a proxy.
    Proxy {
        /// Where the proxy listens.
        listen: SocketAddr,
        /// Source address of the tunnel.
        bind: Option<IpAddr>,
        /// Page that tells the exit's address.
        exit_page: Option<ExitPage>,
    },
    /// Another client runs the tunnel.
    Export {
        /// Where its configuration is written.
        file: PathBuf,
    },
}

impl Use {
    fn from_args(args: &ConnectArgs) -> Result<Self, Failure> {
        match args.export.as_deref() {
            None => Ok(Self::Proxy {
                listen: args.proxy,
                bind: args.bind,
                exit_page: args
                    .exit_check
                    .as_deref()
                    .map(ExitPage::parse)
                    .transpose()?,
            }),
            Some([format, file]) if format == "wg" => Ok(Self::Export { file: file.into() }),
            Some(other) => Err(Failure::usage(format!(
                "--export {} is not known; write --export wg FILE",
                other.first().map_or("", String::as_str)
            ))),
        }
    }

    /// Whether the exit's address is looked at.
    fn is_checked(&self) -> bool {
        matches!(
            self,
            Self::Proxy {
                exit_page: Some(_),
                ..
            }
        )
    }

    /// Whether it can work on this machine, before anything is signed.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Proxy { listen, .. } => {
                if !listen.ip().is_loopback() {
                    return Err(Failure::usage(ProxyError::NotLoopback(*listen)));
                }
                let free = std::net::TcpListener::bind(listen);
                free.map(drop).map_err(|source| {
                    port_in_use(ProxyError::Listen {
                        address: *listen,
                        source,
                    })
                })
            }
            Self::Export { file } => check_writable(file),
        }
    }
}

/// Where a lease can be used, as long as this is kept.
pub enum Place {
    /// A local proxy in front of the tunnel.
    Proxy {
        /// The proxy.
        proxy: Proxy,
        /// The tunnel behind it.
        tunnel: ClientTunnel,
    },
    /// A file for another client.
    File(PathBuf),
}

impl Place {
    /// Ends the proxy and the tunnel. A file stays: it is of no use any more, but it is the user's.
    pub async fn close(self) {
        if let Self::Proxy { proxy, tunnel } = self {
            proxy.shutdown().await;
            tunnel.shutdown().await;
        }
    }
}

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
    let deal = &agreed.record.deal;
    let (transport, place, path, exit_page) = match usage {
        Use::Proxy {
            listen,
            bind,
            exit_page,
        } => {
            let (tunnel, events) = tunnel(&agreed, bind).await?;
            let proxy = Proxy::start(ProxyConfig::new(listen), tunnel.clone())
                .await
                .map_err(port_in_use)?;
            let transport = transport::Transport::Tunnel {
                tunnel: tunnel.clone(),
                events,
            };
            (
                transport,
                Place::Proxy { proxy, tunnel },
                PaymentPath::Tunnel,
                exit_page,
            )
        }
        Use::Export { file } => {
            let until = format!(
                "{} after its start",
                duration::format(u64::from(deal.seconds))
            );
            let text = export::wg_quick(
                &agreed.tunnel_key,
                deal.provider_tunnel_key,
                &agreed.ready,
                &until,
            );
            write_private(&file, text.as_bytes())?;
            let sealer = FrameSealer::new(
                *agreed.tunnel_key.expose_bytes(),
                deal.provider_tunnel_key,
                deal.id(),
            );
            let relay = transport::Relay::start(requester.clone(), deal.id(), sealer);
            (
                transport::Transport::Broker(relay),
                Place::File(file),
                PaymentPath::Broker,
                None,
            )
        }
    };
    let session_key = agreed
        .slot
        .key(&requester.wallet, requester.network.info.network);
    let key = ipsx_metering::SecretKey::from_bytes(&session_key.secret())
        .ok_or_else(|| Failure::internal("the session key is no key"))?;
    let settings = LeaseSettings {
        network: requester.network.rules,
        deal: deal.clone(),
        channel: requester.store.channel(deal.channel().id())?,
        shown: agreed.ready.latest_voucher.clone(),
        key,
        path,
        exit_check: exit_page.is_some(),
        seed: OsRng.next_u64(),
        connect_within: CONNECT_WITHIN,
    };
    let lease = Lease::new(settings, std::time::Instant::now())
        .map_err(|error| Failure::new(ExitCode::Refused, error.to_string()))?;
    let running = RunningLease::start(running::Drive {
        requester: requester.clone(),
        lease,
        record: agreed.record,
        transport,
        exit_page,
        slot: agreed.slot,
    });
    Ok((running, place))
}

async fn tunnel(
    agreed: &Agreed,
    bind: Option<IpAddr>,
) -> Result<
    (
        ClientTunnel,
        tokio::sync::mpsc::Receiver<ipsx_tunnel_os::ClientEvent>,
    ),
    Failure,
> {
    let (deal, ready) = (&agreed.record.deal, &agreed.ready);
    let anywhere: IpAddr = match ready.endpoint {
        SocketAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    };
    let config = ClientConfig {
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
    };
    ClientTunnel::connect(config).await.map_err(|error| {
        let code = match error {
            ipsx_tunnel_os::TunnelError::Bind { .. } => ExitCode::PortInUse,
            ipsx_tunnel_os::TunnelError::HandshakeTimeout { .. } => ExitCode::LeaseFailed,
            _ => ExitCode::Internal,
        };
        Failure::new(code, error.to_string())
    })
}

/// What the arguments ask for.
fn wishes(args: &ConnectArgs) -> Wishes {
    let exported = args.export.is_some();
    let mut max_prices = limits(&args.price, args.budget, args.duration);
    if exported && !args.trust_provider_bytes {
        max_prices.per_gib = PricePerGib(Amount::ZERO);
    }
    Wishes {
        filter: args.filter.filter(),
        max_prices,
        budget: args.budget,
        seconds: args.duration,
        counter_source: if exported {
            CounterSource::Provider
        } else {
            CounterSource::Both
        },
    }
}

/// The highest prices: as asked for, else what lets the budget last the whole time, and one GiB.
pub fn limits(asked: &PriceArgs, budget: Amount, seconds: u32) -> Prices {
    let affordable = Amount(budget.0 / u128::from(seconds.max(1)));
    Prices {
        per_second: PricePerSecond(asked.max_price_per_second.unwrap_or(affordable)),
        per_gib: PricePerGib(asked.max_price_per_gib.unwrap_or(budget)),
    }
}

fn port_in_use(error: ProxyError) -> Failure {
    let code = match &error {
        ProxyError::Listen { .. } => ExitCode::PortInUse,
        _ => ExitCode::Usage,
    };
    Failure::new(code, error.to_string())
}

fn check_writable(file: &Path) -> Result<(), Failure> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if folder.is_dir() && !file.is_dir() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--export wg {} cannot be written; name a file in a folder that exists",
        file.display()
    )))
}

/// The user's wishes to end, numbered from 1: Ctrl-C, or a polite signal.
fn interrupts() -> tokio::sync::mpsc::Receiver<u32> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        for number in 1.. {
            interrupted().await;
            if sender.send(number).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns at Ctrl-C, or when a service manager asks the program to end.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
