//! `ipsx demo`: a whole market on this machine, and one lease in it from request to settlement.

mod books;
pub(crate) mod fetch;
mod keep;
mod places;
mod report;
mod web;
pub(crate) mod world;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipsx_agent_core::requester::{Progress, Wishes};
use ipsx_market::offer::{Country, Protocol};
use ipsx_market::request::{CounterSource, Filter};
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_settlement::Signer;
use tokio::task::JoinHandle;

use crate::amount;
use crate::cli::DemoArgs;
use crate::connect::{
    self, ExitPage, Finished, News, Place, RunningLease, Use, interrupted, price, second_line,
};
use crate::exit_code::{ExitCode, Failure};
use crate::measure::bytes;
use crate::output::{Output, Style};
use crate::provider::ProviderEvent;
use crate::store::Slot;
use books::Books;
use fetch::{Page, Way, fetch};
use report::Report;
use world::{DEPOSIT, MILLI, World};

/// The most that is paid for a second: two and a half thousandths of a token.
const MAX_PER_SECOND: Amount = Amount(MILLI * 5 / 2);
/// The most that is paid for a GiB.
const MAX_PER_GIB: Amount = Amount(20 * MILLI);
/// The larger download, in bytes.
const DOWNLOAD: u64 = 24 << 20;
/// The provider claims at the lease's end; this is how long the demo waits for it.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// Runs it; a failure or an interruption ends it cleanly.
pub(crate) async fn run(
    args: DemoArgs,
    data: Option<PathBuf>,
    output: &Output,
) -> Result<(), Failure> {
    let stage = Stage { output };
    output.line(output.paint(Style::Bold, "ipsx demo: a whole market on this machine"));
    output.line("");
    let mut world = unless_interrupted(World::start(data.as_deref())).await?;
    stage.world(&world);
    let outcome = unless_interrupted(play(&mut world, &args, &stage)).await;
    if args.keep && outcome.is_ok() {
        return keep::going(world, &args, &stage).await;
    }
    world.stop().await;
    outcome
}

async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = work => outcome,
        () = interrupted() => {
            Err(Failure::new(ExitCode::Interrupted, "interrupted; nothing is left running"))
        }
    }
}

/// The whole play; fails unless everything went as it should.
async fn play(world: &mut World, args: &DemoArgs, stage: &Stage<'_>) -> Result<(), Failure> {
    let before = Books::read(world).await?;
    let lease = lease(world, args, stage).await?;
    let claim = claimed(world, &lease).await?;
    stage.line(
        "settle",
        format!(
            "the provider claimed {}, {} of it the network's fee",
            amount::tokens(claim.amount),
            amount::tokens(claim.fee)
        ),
    );
    let after = Books::read(world).await?;
    let report = Report::new(world, &lease, &before, &after, args.seconds).await?;
    report.show(stage.output);
    report.verdict()
}

/// Prints one aligned line per fact.
struct Stage<'a> {
    output: &'a Output,
}

impl Stage<'_> {
    fn line(&self, name: &str, text: impl AsRef<str>) {
        self.output.line(format!(
            "{}  {}",
            self.output.paint(Style::Dim, format!("{name:<9}")),
            text.as_ref()
        ));
    }

    fn world(&self, world: &World) {
        let info = &world.network.info;
        self.line(
            "broker",
            format!(
                "{} for requesters, {} (QUIC) for agents",
                world.url(),
                info.agents
            ),
        );
        self.line(
            "chain",
            format!(
                "embedded EVM, chain id {}, contract {}",
                info.domain.chain_id, info.domain.contract
            ),
        );
        for provider in &world.providers {
            self.line(
                "provider",
                format!(
                    "{} {:<11} {}",
                    provider.country,
                    provider.address,
                    price(&provider.prices)
                ),
            );
        }
        self.line(
            "requester",
            format!(
                "{}, deposit {}",
                world.requester.wallet.address(),
                amount::tokens(DEPOSIT)
            ),
        );
        self.output.line("");
    }

    fn second(&self, progress: &Progress) {
        self.output.line(second_line(self.output, progress));
    }
}

/// A lease that is over, with what was seen through it.
struct Leased {
    finished: Finished,
    /// Addresses that the web server saw.
    seen: Vec<IpAddr>,
    /// Bytes of the pages and the download.
    fetched: u64,
}

/// What is asked for.
pub(crate) fn wishes(country: Country, seconds: u32) -> Wishes {
    Wishes {
        filter: Filter {
            countries: vec![country],
            protocols: [Protocol::Wireguard, Protocol::Socks5, Protocol::HttpConnect]
                .into_iter()
                .collect(),
            ..Filter::default()
        },
        max_prices: Prices {
            per_second: PricePerSecond(MAX_PER_SECOND),
            per_gib: PricePerGib(MAX_PER_GIB),
        },
        budget: Amount(MAX_PER_SECOND.0 * u128::from(seconds)),
        seconds,
        start: StartWindow::NOW,
        expected_bytes: 0,
        counter_source: CounterSource::Both,
    }
}

/// Leases an address and brings it up as a local proxy.
async fn begin(
    world: &World,
    wishes: &Wishes,
    stage: &Stage<'_>,
) -> Result<(RunningLease, Place), Failure> {
    let requester = world.requester.clone();
    requester.check_deposit(wishes.budget).await?;
    let slot = Slot::take(&world.folder.join("requester"))?;
    let agreed = requester.agree(slot, wishes, None).await?;
    let deal = &agreed.record.deal;
    let country = agreed
        .record
        .placement
        .country
        .map_or_else(String::new, |country| format!(" in {country}"));
    stage.line(
        "deal",
        format!("{}{country} at {}", deal.exit_address, price(&deal.prices)),
    );
    stage.line(
        "",
        format!("signed by both, bound by the network: {}", deal.id()),
    );
    stage.line(
        "tunnel",
        format!("WireGuard in userspace to {}", agreed.ready.endpoint),
    );
    let usage = Use::Proxy {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        bind: None,
        exit_page: Some(ExitPage::parse(&format!(
            "http://{}/",
            world.web.address()
        ))?),
    };
    connect::begin(requester, agreed, usage).await
}

async fn lease(world: &World, args: &DemoArgs, stage: &Stage<'_>) -> Result<Leased, Failure> {
    let wishes = wishes(args.country, args.seconds);
    stage.line(
        "ask",
        format!(
            "one address in {} for {} s, at most {} a second",
            args.country,
            args.seconds,
            amount::tokens(MAX_PER_SECOND)
        ),
    );
    let (mut lease, place) = begin(world, &wishes, stage).await?;
    let Place::Proxy { proxy, .. } = &place else {
        return Err(Failure::internal("the demo's lease is no proxy"));
    };
    let (proxy, server) = (proxy.local_addr(), world.web.address());
    let mut user = Browser::default();
    loop {
        tokio::select! {
            news = lease.news.recv() => match news {
                Some(News::Connected { round_trip }) => {
                    stage.line("", format!("the provider answers after {} µs", round_trip.as_micros()));
                }
                Some(News::ExitProven(address)) => {
                    stage.line("proxy", format!("{proxy} speaks SOCKS5 and HTTP; the web sees {address}"));
                    stage.output.line("");
                    user.start(proxy, server);
                }
                Some(News::Second(progress)) => stage.second(&progress),
                Some(News::Disputed(reason)) => stage.line("disputed", reason),
                Some(News::Relayed(_) | News::Serving | News::Settled) => {}
                None => break,
            },
            Some(fetched) = user.next() => fetched?.show(stage),
        }
    }
    let outcome = user.finish();
    let finished = lease.finished().await?;
    place.close().await?;
    stage.output.line("");
    stage.line("ended", finished.ending.reason.to_string());
    let (seen, fetched) = outcome?;
    Ok(Leased {
        finished,
        seen,
        fetched,
    })
}

/// A page or download that arrived.
struct Fetched {
    way: Way,
    path: String,
    page: Page,
    took: Duration,
}

impl Fetched {
    fn show(&self, stage: &Stage<'_>) {
        let what = match self.page.seen {
            Some(seen) => format!("the server saw {seen}"),
            None => format!("{} in {} ms", bytes(self.page.size), self.took.as_millis()),
        };
        stage.line(
            "fetched",
            format!("{:<16} by {:<8} {what}", self.path, self.way),
        );
    }
}

/// Uses the proxy as a browser would, in a task of its own.
#[derive(Default)]
struct Browser {
    task: Option<JoinHandle<()>>,
    fetched: Option<tokio::sync::mpsc::Receiver<Result<Fetched, Failure>>>,
    seen: Vec<IpAddr>,
    bytes: u64,
    failure: Option<Failure>,
    left: usize,
}

impl Browser {
    fn start(&mut self, proxy: SocketAddr, server: SocketAddr) {
        let plan = [
            (Way::Socks5, "/".to_string()),
            (Way::Http, "/".to_string()),
            (Way::Connect, "/".to_string()),
            (Way::Socks5, format!("/bytes/{DOWNLOAD}")),
            (Way::Http, "/bytes/1048576".to_string()),
            (Way::Socks5, "/again".to_string()),
        ];
        self.left = plan.len();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        self.fetched = Some(receiver);
        self.task = Some(tokio::spawn(async move {
            for (way, path) in plan {
                let started = std::time::Instant::now();
                let page = fetch(proxy, way, server, &path).await;
                let fetched = page.map(|page| Fetched {
                    way,
                    path,
                    page,
                    took: started.elapsed(),
                });
                if sender.send(fetched).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }));
    }

    /// The next page; never returns while there is none to come.
    async fn next(&mut self) -> Option<Result<Fetched, Failure>> {
        let fetched = match &mut self.fetched {
            Some(receiver) => receiver.recv().await,
            None => std::future::pending().await,
        };
        match fetched {
            Some(Ok(fetched)) => {
                self.left -= 1;
                self.bytes += fetched.page.size;
                self.seen.extend(fetched.page.seen);
                Some(Ok(fetched))
            }
            Some(Err(failure)) => Some(Err(failure)),
            None => {
                self.fetched = None;
                std::future::pending().await
            }
        }
    }

    /// What was seen, if everything arrived before the lease ended.
    fn finish(mut self) -> Result<(Vec<IpAddr>, u64), Failure> {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        match self.failure.take() {
            Some(failure) => Err(failure),
            None if self.left > 0 || self.seen.is_empty() => Err(Failure::new(
                ExitCode::LeaseFailed,
                format!(
                    "the lease ended with {} pages missing; try a longer one with --seconds",
                    self.left
                ),
            )),
            None => Ok((self.seen, self.bytes)),
        }
    }
}

/// What the provider claimed.
struct Claim {
    amount: Amount,
    fee: Amount,
}

/// Waits until the provider that served the lease has claimed its vouchers on the chain.
async fn claimed(world: &mut World, lease: &Leased) -> Result<Claim, Failure> {
    let provider = lease.finished.record.deal.provider;
    let served = world
        .providers
        .iter_mut()
        .find(|candidate| candidate.wallet.address() == provider);
    let served = served.ok_or_else(|| Failure::internal("the lease was served by a stranger"))?;
    let claim = async {
        while let Some(event) = served.running.event().await {
            match event {
                ProviderEvent::Claimed { amount, fee, .. } => return Ok(Claim { amount, fee }),
                ProviderEvent::ClaimFailed { reason, .. } => return Err(reason),
                other => tracing::info!(provider = served.country, "{other:?}"),
            }
        }
        Err("the provider ended".to_string())
    };
    let outcome = tokio::time::timeout(SETTLE_WITHIN, claim).await;
    let reason = match outcome {
        Ok(Ok(claim)) => return Ok(claim),
        Ok(Err(reason)) => reason,
        Err(_) => format!("nothing was claimed within {} s", SETTLE_WITHIN.as_secs()),
    };
    Err(Failure::new(
        ExitCode::Statement,
        format!("the vouchers were not settled: {reason}"),
    ))
}
