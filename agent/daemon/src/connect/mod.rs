//! `ipsx connect`: leases an address and uses it.

mod bring_up;
mod budget;
mod bundle;
#[cfg(target_os = "linux")]
mod dialer;
mod exit_check;
mod explain;
mod export;
mod interrupt;
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
mod usage;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipsx_agent_core::requester::Wishes;
use ipsx_market::place::Reachability;
use ipsx_market::request::CounterSource;
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_settlement::Connector;

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
use interrupt::interrupts;
use rotation::Rotation;
use several::Several;

pub use bring_up::begin;
pub use exit_check::ExitPage;
pub use explain::price;
pub use interrupt::interrupted;
pub use place::Place;
pub use recover::end_unfinished;
pub use requester::{Agreed, Requester, is_over};
pub use running::{Finished, News, Relayed, RunningLease};
pub use show::{Shown, second_line};
pub use usage::Use;
pub use waiting::Patience;

/// Runs `ipsx connect`.
pub async fn run(args: ConnectArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    if args.host.restore {
        return restore(settings, output).await;
    }
    // Whatever can be found out without the network is found out first.
    args.check_count()?;
    let usage = Use::from_args(&args, settings, output)?;
    usage.check(args.rotate.is_some())?;
    let requester = open_via(settings, output, usage.connector()).await?;
    let requester = requester.paying_from(args.payer);
    let requester = Arc::new(requester.relayed_unless(args.filter.reachability));
    requester.check_deposit(args.budget).await?;
    let slot = Slot::take(&settings.data)?;
    let mut wishes = wishes(&args);
    if let (2.., Use::Proxy { listen, .. }) = (args.count, &usage) {
        let several = Several {
            count: args.count,
            distinct: args.distinct,
            wait: args.wait,
            listen: *listen,
            bind: args.bind,
            exit_page: usage.exit_page().cloned(),
        };
        return several.run(requester, slot, wishes, output).await;
    }
    if args.rotate.is_some() {
        args.distinct.prepare(&mut wishes.filter.avoid);
    }
    wishes.budget = budget::needed(requester.session.broker(), &wishes, args.wait.is_some()).await;
    let shown = Shown::new(output);
    let mut early = None;
    let patience = Patience::of(args.wait, args.count, &mut early, &shown);
    let bound = requester.sign(slot, &wishes, patience).await?;
    let checked = usage.exit_page().is_some();
    shown.agreed(&bound.record);
    let mut wishes_to_end = early.unwrap_or_else(interrupts);
    let mut record = bound.record.clone();
    let agreed = tokio::select! {
        agreed = requester.open(bound) => agreed?,
        _ = wishes_to_end.recv() => {
            requester.abandon(&mut record).await?;
            return Err(not_wanted(&[record]));
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

fn not_wanted(records: &[LeaseRecord]) -> Failure {
    let prepaid = records.iter().filter(|record| record.deal.is_prepaid());
    let prepaid: Amount = prepaid.map(|record| budget::ahead(&record.deal)).sum();
    let lost = match prepaid {
        Amount::ZERO => "nothing was paid".into(),
        prepaid => format!("{} was prepaid and is lost", amount::tokens(prepaid)),
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
    Err(Failure::usage(usage::ONLY_ON_LINUX))
}

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

/// What the arguments ask for.
fn wishes(args: &ConnectArgs) -> Wishes {
    let exported = args.export.is_some();
    let each = Amount(args.budget.0 / u128::from(args.count));
    let mut max_prices = limits(&args.price, each, args.duration);
    if exported && !args.trust_provider_bytes {
        max_prices.per_gib = PricePerGib(Amount::ZERO);
    }
    let mut filter = args.filter.filter();
    if exported {
        // Other clients know nothing of NATs.
        filter.reachability = Some(Reachability::Direct);
    }
    Wishes {
        filter,
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
