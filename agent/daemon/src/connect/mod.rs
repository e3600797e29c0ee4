//! `ipsx connect`: leases an address and uses it.

mod bring_up;
mod budget;
mod bundle;
#[cfg(target_os = "linux")]
mod dialer;
mod exit_check;
mod explain;
mod export;
mod place;
mod recover;
mod requester;
mod rotation;
mod running;
mod several;
mod show;
#[cfg(all(test, feature = "demo"))]
mod tests;
mod transport;
#[cfg(target_os = "linux")]
mod tun;
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_agent_core::requester::Wishes;
use ipsx_market::request::CounterSource;
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_settlement::Connector;
use ipsx_tunnel_os::ProxyError;

use crate::amount;
use crate::broker::Broker;
use crate::cli::{ConnectArgs, PriceArgs};
use crate::clock::unix_now;
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::output::Output;
use crate::store::{LeaseRecord, Slot};
use crate::wallet;
use rotation::Rotation;
use several::Several;

pub use bring_up::begin;
pub use exit_check::ExitPage;
pub use explain::price;
pub use place::Place;
pub use recover::end_unfinished;
pub use requester::{Agreed, Requester, is_over};
pub use running::{Finished, News, RunningLease};
pub use show::{Shown, second_line};
pub use waiting::Patience;

/// Runs `ipsx connect`.
pub async fn run(args: ConnectArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    if args.host.restore {
        return restore(settings, output).await;
    }
    // Whatever can be found out without the network is found out first.
    let usage = Use::from_args(&args, settings, output)?;
    usage.check(args.rotate.is_some())?;
    let requester = open_via(settings, output, usage.connector()).await?;
    let requester = Arc::new(requester.paying_from(args.payer));
    requester.check_deposit(args.budget).await?;
    let slot = Slot::take(&settings.data)?;
    let mut wishes = wishes(&args);
    if let (Some(count), Use::Proxy { listen, .. }) = (args.count, &usage) {
        let several = Several {
            count,
            distinct: args.distinct,
            listen: *listen,
            bind: args.bind,
            exit_page: usage.exit_page().cloned(),
        };
        return several.run(requester, slot, wishes, output).await;
    }
    if args.rotate.is_some() {
        args.distinct.prepare(&mut wishes.filter.avoid);
    }
    wishes.budget = budget::needed(requester.session.broker(), &wishes).await;
    let shown = Shown::new(output);
    // Who waits may give up; without that, an interrupt ends the program until the lease begins.
    let mut early = args.wait.map(|_| interrupts());
    let patience = early.as_mut().zip(args.wait);
    let patience = patience.map(|(interrupts, seconds)| Patience {
        seconds,
        interrupts,
        shown: &shown,
    });
    let bound = requester.sign(slot, &wishes, patience).await?;
    let checked = usage.exit_page().is_some();
    shown.agreed(&bound.record);
    let mut wishes_to_end = early.unwrap_or_else(interrupts);
    let mut record = bound.record.clone();
    let agreed = tokio::select! {
        agreed = requester.open(bound) => agreed?,
        _ = wishes_to_end.recv() => {
            requester.abandon(&mut record).await?;
            return Err(not_wanted(&record));
        }
    };
    let rotation = args.rotate.map(|every| Rotation {
        every: Duration::from_secs(every.into()),
        distinct: args.distinct,
        budget: args.budget,
        wishes,
        bind: args.bind,
        exit_page: usage.exit_page().cloned(),
        data: settings.data.clone(),
    });
    let began = Instant::now();
    let record = agreed.record.clone();
    let (mut lease, place) = begin(requester.clone(), agreed, usage).await?;
    shown.file(&place);
    if let Some(rotation) = rotation {
        let first = rotation::Leased::new(lease, record);
        let rotating = rotation.begin(requester, place, first, began, &shown);
        return rotating.run(&mut wishes_to_end, output).await;
    }
    loop {
        tokio::select! {
            news = lease.news.recv() => match news {
                Some(news) => {
                    let usable = if checked { matches!(news, News::ExitProven(_)) } else { news == News::Serving };
                    shown.news(&news);
                    if usable {
                        shown.ready(&place);
                    }
                }
                None => break,
            },
            Some(wish) = wishes_to_end.recv() => match wish {
                1 => lease.stop(),
                // What was promised is on disk: nothing is lost but the last word.
                _ => {
                    place.close().await?;
                    return Err(unfinished());
                }
            },
        }
    }
    let outcome = match lease.finished().await {
        Ok(finished) => shown.finished(&finished),
        Err(failure) => Err(failure),
    };
    leave(place, outcome, output).await
}

fn not_wanted(record: &LeaseRecord) -> Failure {
    let lost = match record.deal.is_prepaid() {
        true => format!(
            "{} was prepaid and is lost",
            amount::tokens(budget::ahead(&record.deal))
        ),
        false => "nothing was paid".into(),
    };
    Failure::new(
        ExitCode::Interrupted,
        format!("the lease was given up before it began; {lost}"),
    )
}

fn unfinished() -> Failure {
    Failure::new(
        ExitCode::Interrupted,
        "ended without the last word to the provider; the next ipsx command tells the broker",
    )
}

/// Changes back what the last lease changed on this machine.
async fn leave(
    place: Place,
    mut outcome: Result<(), Failure>,
    output: &Output,
) -> Result<(), Failure> {
    if outcome.is_ok() && place.is_gone() {
        outcome = Err(Failure::new(
            ExitCode::Interrupted,
            "another program deleted the lease's interface, which ended the lease",
        ));
    }
    match outcome {
        Ok(()) => place.close().await,
        Err(failure) => {
            place.fail(output).await?;
            Err(failure)
        }
    }
}

#[cfg(target_os = "linux")]
async fn restore(settings: &Settings, output: &Output) -> Result<(), Failure> {
    tun::restore(settings, output).await
}

#[cfg(not(target_os = "linux"))]
async fn restore(_: &Settings, _: &Output) -> Result<(), Failure> {
    Err(Failure::usage(ONLY_ON_LINUX))
}

#[cfg(not(target_os = "linux"))]
const ONLY_ON_LINUX: &str =
    "--tun and --restore work on Linux only; leave them out: the proxy works everywhere";

/// Opens the wallet, joins the network and ends what a crash left open.
pub async fn open(settings: &Settings, output: &Output) -> Result<Requester, Failure> {
    open_via(settings, output, Connector::default()).await
}

/// The same, with connections opened by `connector`.
async fn open_via(
    settings: &Settings,
    output: &Output,
    connector: Connector,
) -> Result<Requester, Failure> {
    let broker = Broker::via(&settings.broker, connector);
    let network = Network::join(settings, &broker).await?;
    let wallet = wallet::open(settings).await?;
    let requester = Requester::new(wallet, network, broker, &settings.data);
    end_unfinished(&requester, &settings.data, output).await?;
    Ok(requester)
}

/// How a lease is to be used.
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
    /// This program runs the tunnel and leads the host's own traffic into it.
    #[cfg(target_os = "linux")]
    Host {
        /// What of it, and the right to it.
        mode: Box<tun::TunMode>,
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
    fn from_args(
        args: &ConnectArgs,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        let (bind, page) = (args.bind, args.exit_check.as_deref());
        let exit_page = page.map(ExitPage::parse).transpose()?;
        if let Some(interface) = &args.host.tun {
            return Self::host(interface, args, exit_page, settings, output);
        }
        match args.export.as_deref() {
            None => Ok(Self::Proxy {
                listen: args.proxy,
                bind,
                exit_page,
            }),
            Some([format, file]) if format == "wg" => Ok(Self::Export { file: file.into() }),
            Some(other) => Err(Failure::usage(format!(
                "--export {} is not known; write --export wg FILE",
                other.first().map_or("", String::as_str)
            ))),
        }
    }

    #[cfg(target_os = "linux")]
    fn host(
        interface: &str,
        args: &ConnectArgs,
        exit_page: Option<ExitPage>,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self, Failure> {
        let mode = tun::TunMode::prepare(interface, &args.host, settings, output)?;
        Ok(Self::Host {
            mode: Box::new(mode),
            bind: args.bind,
            exit_page,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn host(
        _: &str,
        _: &ConnectArgs,
        _: Option<ExitPage>,
        _: &Settings,
        _: &Output,
    ) -> Result<Self, Failure> {
        Err(Failure::usage(ONLY_ON_LINUX))
    }

    /// How broker and chain are reached.
    fn connector(&self) -> Connector {
        match self {
            #[cfg(target_os = "linux")]
            Self::Host { mode, .. } => mode.connector(),
            _ => Connector::default(),
        }
    }

    /// The page that tells the exit's address, if there is one.
    fn exit_page(&self) -> Option<&ExitPage> {
        match self {
            Self::Proxy { exit_page, .. } => exit_page.as_ref(),
            #[cfg(target_os = "linux")]
            Self::Host { exit_page, .. } => exit_page.as_ref(),
            Self::Export { .. } => None,
        }
    }

    /// Whether it can work on this machine, with one lease or with one after the other, before anything is signed.
    fn check(&self, rotates: bool) -> Result<(), Failure> {
        match self {
            Self::Proxy { listen, .. } => {
                if !listen.ip().is_loopback() {
                    return Err(Failure::usage(format!(
                        "the proxy has no password, so it does not listen on {listen}, which others can reach; name an address of this machine's loopback, such as 127.0.0.1:1080"
                    )));
                }
                let free = std::net::TcpListener::bind(listen);
                free.map(drop).map_err(|source| {
                    port_in_use(ProxyError::Listen {
                        address: *listen,
                        source,
                    })
                })
            }
            // Its own preparation has looked at the rest.
            #[cfg(target_os = "linux")]
            Self::Host { mode, .. } if rotates => mode.check_beside(),
            #[cfg(target_os = "linux")]
            Self::Host { .. } => Ok(()),
            Self::Export { file } => check_writable(file),
        }
    }
}

/// What the arguments ask for.
fn wishes(args: &ConnectArgs) -> Wishes {
    let exported = args.export.is_some();
    let each = Amount(args.budget.0 / u128::from(args.count.unwrap_or(1)));
    let mut max_prices = limits(&args.price, each, args.duration);
    if exported && !args.trust_provider_bytes {
        max_prices.per_gib = PricePerGib(Amount::ZERO);
    }
    Wishes {
        filter: args.filter.filter(),
        max_prices,
        budget: each,
        seconds: args.duration,
        start: start(args),
        expected_bytes: args.price.expected_traffic,
        counter_source: if exported {
            CounterSource::Provider
        } else {
            CounterSource::Both
        },
    }
}

/// When the lease may start.
fn start(args: &ConnectArgs) -> StartWindow {
    let Some(ahead) = args.start_in else {
        return StartWindow::NOW;
    };
    let earliest = unix_now().after(ahead.into());
    StartWindow {
        earliest,
        latest: earliest.after(args.start_within.into()),
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
