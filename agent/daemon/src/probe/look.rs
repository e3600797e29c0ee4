//! One probe: a lease like a customer's, and where it leaves from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipsx_agent_core::requester::Wishes;
use ipsx_market::echo::Echo;
use ipsx_market::proof::{ProbeOrder, ProbeOutcome, Timed};
use ipsx_market::request::{CounterSource, Filter};
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, Signed, Usage};
use ipsx_tunnel_os::ClientTunnel;
use rand::Rng;
use rand::rngs::OsRng;
use rand::seq::SliceRandom;

use super::accounts::Accounts;
use crate::connect::{self, ExitPage, News, Place, RunningLease, Use};
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::store::Slot;

/// A lease must serve within this time.
const SERVED_WITHIN: Duration = Duration::from_secs(40);
/// Times that the echo is asked: a packet may be lost.
const TRIES: u32 = 3;
/// Customers lease for all kinds of times; seconds.
const USUAL: std::ops::Range<u32> = 30..600;
/// Bytes that a probe may be asked to pay for.
const BYTES: u64 = 24 << 20;
/// Bytes of it that the rate of each direction is measured by.
const CARRIED: u64 = 8 << 20;
/// A customer stays a while after a look at the page; seconds.
const STAY: std::ops::Range<u64> = 1..5;

/// Where probes come from, and what they look at through their tunnels.
pub(super) struct Ways {
    /// Addresses of this host.
    pub(super) binds: Vec<IpAddr>,
    /// The network's echo, by one or more ways.
    pub(super) echoes: Vec<String>,
    /// A large file.
    pub(super) download: Option<ExitPage>,
    /// What takes one.
    pub(super) upload: Option<ExitPage>,
}

/// What one probe asks.
struct Question<'a> {
    page: ExitPage,
    order: &'a ProbeOrder,
    network: &'a Network,
    download: Option<&'a ExitPage>,
    upload: Option<&'a ExitPage>,
}

/// Leases from the offer, and asks the echo through the tunnel.
pub(super) async fn probe(
    accounts: &Accounts,
    order: &ProbeOrder,
    ways: &Ways,
    most: Amount,
) -> Result<ProbeOutcome, Failure> {
    let wishes = wishes(order, most)?;
    let page = ways.echoes.choose(&mut OsRng).cloned().unwrap_or_default();
    let page = ExitPage::parse(&format!("{page}?nonce={}", order.nonce))?;
    let (account, data) = accounts.unknown_to(order.provider, wishes.budget).await?;
    let account = Arc::new(account.probing(order.task));
    let slot = Slot::take(&data)?;
    let agreed = account.agree(slot, &wishes, None).await?;
    let usage = Use::Proxy {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        bind: ways.binds.choose(&mut OsRng).copied(),
        exit_page: None,
    };
    let (mut lease, place) = connect::begin(account, agreed, usage).await?;
    let outcome = match &place {
        Place::Proxy { tunnel, .. } => {
            let question = Question {
                page,
                order,
                network: accounts.network(),
                download: ways.download.as_ref(),
                upload: ways.upload.as_ref(),
            };
            look(&mut lease, tunnel, &question).await
        }
        _ => Err(Failure::internal("the probe's lease is no proxy")),
    };
    lease.stop();
    // How the lease ends changes nothing of what was seen.
    if let Err(failure) = lease.finished().await {
        tracing::info!(%failure, "the probe's lease did not end well");
    }
    place.close().await?;
    outcome
}

/// What a customer in that country might ask for.
fn wishes(order: &ProbeOrder, most: Amount) -> Result<Wishes, Failure> {
    let usual = OsRng.gen_range(USUAL);
    let seconds = usual.clamp(order.min_seconds, order.max_seconds);
    let usage = Usage {
        secs: seconds.into(),
        bytes_up: 0,
        bytes_down: BYTES,
    };
    let cost = order.prices.due(&usage).ok();
    let cost = cost.filter(|cost| *cost <= most).ok_or_else(|| {
        Failure::usage("the lease costs more than a probe may: raise --budget to probe it")
    })?;
    Ok(Wishes {
        filter: Filter {
            countries: order.country.into_iter().collect(),
            ..Filter::default()
        },
        max_prices: order.prices,
        // A budget of nothing can't be asked for.
        budget: cost.max(Amount(1)),
        seconds,
        expected_bytes: 0,
        counter_source: CounterSource::Both,
        start: StartWindow::NOW,
    })
}

async fn look(
    lease: &mut RunningLease,
    tunnel: &ClientTunnel,
    question: &Question<'_>,
) -> Result<ProbeOutcome, Failure> {
    let mut latency_ms = None;
    let served = async {
        while let Some(news) = lease.news.recv().await {
            match news {
                News::Connected { round_trip } => {
                    latency_ms = u16::try_from(round_trip.as_millis()).ok();
                }
                News::Serving => return true,
                _ => {}
            }
        }
        false
    };
    let served = tokio::time::timeout(SERVED_WITHIN, served).await;
    if served != Ok(true) {
        return Err(lease_failed("the lease did not serve"));
    }
    let mut echo = Err(lease_failed("the echo was not asked"));
    for _ in 0..TRIES {
        echo = ask(tunnel, question).await;
        if echo.is_ok() {
            break;
        }
    }
    let echo = Box::new(echo?);
    // What can't be measured is left open: the address is what counts.
    let mbit_down = match question.download {
        Some(page) => page.download_rate(tunnel, CARRIED).await.ok(),
        None => None,
    };
    let mbit_up = match question.upload {
        Some(page) => page.upload_rate(tunnel, CARRIED).await.ok(),
        None => None,
    };
    tokio::time::sleep(Duration::from_secs(OsRng.gen_range(STAY))).await;
    Ok(ProbeOutcome::Seen {
        echo,
        timed: Timed {
            latency_ms,
            mbit_up,
            mbit_down,
        },
    })
}

/// Asks the echo. Only the operator's word counts: the provider carries the question, and could answer it.
async fn ask(tunnel: &ClientTunnel, question: &Question<'_>) -> Result<Signed<Echo>, Failure> {
    let body = question.page.read(tunnel).await;
    let body = body.map_err(|error| lease_failed(&format!("no echo came: {error}")))?;
    let echo: Signed<Echo> = serde_json::from_slice(&body)
        .map_err(|_| lease_failed("what answered at the echo's address was no echo"))?;
    let info = &question.network.info;
    let genuine = echo.verify(&info.domain, info.operator).is_ok()
        && echo.message.network == info.network
        && echo.message.nonce == question.order.nonce;
    if genuine {
        Ok(echo)
    } else {
        Err(lease_failed(
            "the echo is not the operator's word on this question",
        ))
    }
}

fn lease_failed(reason: &str) -> Failure {
    Failure::new(ExitCode::LeaseFailed, reason)
}
