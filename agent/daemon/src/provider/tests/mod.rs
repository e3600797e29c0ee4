//! Against the real broker, tunnel and chain, on loopback.

#![allow(clippy::unwrap_used)]

mod market;
mod records;
mod requester;

use std::sync::Arc;
use std::time::Duration;

use ipsx_market::messages::EndCause;
use ipsx_market::payment::PayerMessage;
use ipsx_market::request::CounterSource;
use ipsx_market::status::{DealStatus, ProviderStatus};
use ipsx_metering::{Amount, PricePerGib};
use ipsx_settlement::{Signer, VoucherStore, Wallet};

use super::{
    ProviderError, ProviderEvent, Records, RunningProvider, accept_consent, consent_given,
    payout_wallet, start, vouchers_path,
};
use market::{Market, PRICE, origin, wait_for};
use requester::Requester;

fn ended(event: &ProviderEvent) -> bool {
    matches!(event, ProviderEvent::LeaseEnded { .. })
}

/// Waits for the end of a lease: its cause, its cost and what was paid.
async fn end(provider: &mut RunningProvider) -> (EndCause, Amount, Amount) {
    let events = wait_for(provider, ended).await;
    match events.last() {
        Some(ProviderEvent::LeaseEnded {
            cause,
            amount,
            paid,
            ..
        }) => (*cause, *amount, *paid),
        other => unreachable!("waited for an end, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_runs_to_its_end_and_is_claimed() {
    let market = Market::start().await;
    let origin = origin(100_000).await;
    let wallet = Arc::new(Wallet::random());
    market.grant(wallet.address(), 0).await;
    let config = market.provider_config(1, origin).await;
    let mut provider = market.provider(config.clone(), &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(6).await;
    assert_eq!(lease.ready.endpoint, provider.listen());
    lease.run(Duration::from_millis(500)).await;
    let page = lease.fetch(origin).await.unwrap();
    assert!(page.starts_with("127.0.1.1\n"), "{:?}", &page[..20]);
    lease.run(Duration::from_secs(20)).await;
    assert!(lease.ended);
    let (cause, amount, paid) = end(&mut provider).await;
    assert_eq!(cause, EndCause::Completed);
    assert_eq!(amount, Amount(6 * PRICE));
    assert!(paid >= amount);

    // Claimed by itself, fee to the treasury, the rest to an address of this requester's own.
    wait_for(&mut provider, |event| {
        matches!(event, ProviderEvent::Claimed { .. })
    })
    .await;
    let network = market.network().await;
    let claimed = network
        .contract
        .claimed(lease.deal.channel().id())
        .await
        .unwrap();
    assert_eq!(claimed, paid);
    let payout = payout_wallet(&wallet, network.info.network, lease.deal.payer);
    assert_eq!(payout.address(), lease.deal.payout);
    let credits = network.contract.credits(payout.address()).await.unwrap();
    let fee = claimed.basis_points(network.info.fee_bps);
    assert_eq!(credits.amount, claimed.saturating_sub(fee));
    assert!(network.contract.totals().await.unwrap().conserved());

    let view = requester
        .wait_until(lease.deal.id(), |view| {
            view.provider == ProviderStatus::Ended
        })
        .await;
    assert_eq!(view.amount, Some(amount));
    let usage = view.usage.unwrap();
    assert_eq!(usage.secs, 6);
    assert!(usage.bytes_down > 100_000, "{usage:?}");

    // The capacity is free again, and the channel goes on.
    let again = requester.lease(5).await;
    assert_eq!(again.deal.channel(), lease.deal.channel());
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_that_stops_or_replays_is_stopped() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(2, origin).await;
    config.claim_at_end = false;
    let mut provider = market.provider(config.clone(), &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(600).await;
    lease.run(Duration::from_secs(3)).await;
    assert!(lease.fetch(origin).await.unwrap().starts_with("127.0.1.2"));
    // On a busy machine a voucher may have been late before.
    while let Ok(Some(_)) = tokio::time::timeout(Duration::ZERO, provider.event()).await {}
    lease.pays = false;
    let replayed: Vec<_> = lease.vouchers.clone();
    assert!(!replayed.is_empty());
    let held = |event: &ProviderEvent| matches!(event, ProviderEvent::LeaseOnHold { .. });
    tokio::select! {
        _ = wait_for(&mut provider, held) => {}
        _ = async {
            loop {
                for voucher in &replayed {
                    lease.say(&PayerMessage::Voucher(voucher.clone()));
                }
                lease.run(Duration::from_millis(200)).await;
            }
        } => {}
    }
    // Nothing passes while it is on hold.
    let page = tokio::time::timeout(Duration::from_secs(2), lease.fetch(origin)).await;
    assert!(!matches!(page, Ok(Some(_))), "{page:?}");
    // Paying again opens it again.
    lease.pays = true;
    lease.run(Duration::from_secs(3)).await;
    assert!(lease.fetch(origin).await.unwrap().starts_with("127.0.1.2"));
    // The requester leaves.
    lease.say(&PayerMessage::End(EndCause::RequesterEnded));
    let (cause, amount, paid) = end(&mut provider).await;
    assert_eq!(cause, EndCause::RequesterEnded);
    assert!(
        amount.0 <= paid.0 + 3 * PRICE,
        "{amount} served, {paid} paid"
    );
    // Not claimed, but kept.
    let kept = provider.status().unclaimed;
    assert_eq!(kept, lease.vouchers.last().unwrap().message.cumulative);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_is_found_again() {
    let mut market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(3, origin).await;
    config.claim_at_end = false;
    let mut provider = market.provider(config, &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(60).await;
    lease.run(Duration::from_secs(2)).await;
    market.kill_broker();
    lease.run(Duration::from_secs(3)).await;
    assert!(
        lease.fetch(origin).await.unwrap().starts_with("127.0.1.3"),
        "service goes on"
    );
    market.restart_broker().await;
    let back = |event: &ProviderEvent| matches!(event, ProviderEvent::OfferPlaced { .. });
    tokio::select! {
        _ = wait_for(&mut provider, back) => {}
        _ = lease.run(Duration::from_secs(60)) => panic!("the lease ended: {:?}", provider.status()),
    }
    lease.say(&PayerMessage::End(EndCause::RequesterEnded));
    assert_eq!(end(&mut provider).await.0, EndCause::RequesterEnded);
    requester
        .wait_until(lease.deal.id(), |view| {
            view.provider == ProviderStatus::Ended
        })
        .await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_provider_keeps_its_vouchers_and_gives_the_lease_back() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    market.grant(wallet.address(), 0).await;
    let config = market.provider_config(4, origin).await;
    let mut provider = market.provider(config.clone(), &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(600).await;
    lease.run(Duration::from_secs(3)).await;
    wait_for(
        &mut provider,
        |event| matches!(event, ProviderEvent::LeaseSecond { usage, .. } if usage.secs >= 2),
    )
    .await;
    drop(provider);

    // What was accepted is on disk, and the file can be opened again.
    let domain = config.network.info.domain;
    let path = vouchers_path(&config.data, domain);
    let stored = until_free(&path, domain).await;
    let kept = stored.channels().await.unwrap()[0].voucher.clone().unwrap();
    stored.close().await;
    assert!(lease.vouchers.contains(&kept));
    assert!(kept.message.cumulative >= Amount(2 * PRICE));

    let mut provider = market.provider(config.clone(), &wallet).await;
    let records = Records::read(&config.data).await.unwrap().unwrap();
    let leases = records.leases().await.unwrap();
    assert_eq!(
        leases[0].report.as_ref().unwrap().cause,
        EndCause::Restarted
    );
    assert_eq!(
        leases[0].report.as_ref().unwrap().voucher,
        Some(kept.clone())
    );
    let view = requester
        .wait_until(lease.deal.id(), |view| {
            view.status == DealStatus::ProviderFailed || view.ended_at.is_some()
        })
        .await;
    assert_eq!(view.cause, Some(EndCause::Restarted));
    // The next lease of the same requester goes through the same channel and claims both.
    let mut again = requester.lease(5).await;
    assert_eq!(again.ready.latest_voucher, Some(kept.clone()));
    again.run(Duration::from_secs(20)).await;
    assert_eq!(end(&mut provider).await.0, EndCause::Completed);
    wait_for(&mut provider, |event| {
        matches!(event, ProviderEvent::Claimed { .. })
    })
    .await;
    let network = market.network().await;
    let claimed = network
        .contract
        .claimed(again.deal.channel().id())
        .await
        .unwrap();
    assert!(
        claimed.0 >= kept.message.cumulative.0 + 5 * PRICE,
        "{claimed}"
    );
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_told_to_stop_ends_its_leases() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    market.grant(wallet.address(), 0).await;
    let config = market.provider_config(5, origin).await;
    let provider = market.provider(config.clone(), &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(600).await;
    lease.run(Duration::from_secs(2)).await;
    let (events, ()) = tokio::join!(provider.shutdown(), lease.run(Duration::from_secs(10)));
    assert!(lease.ended);
    assert!(events.iter().any(ended));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, ProviderEvent::Claimed { .. })),
        "{events:#?}"
    );
    let view = requester
        .wait_until(lease.deal.id(), |view| view.ended_at.is_some())
        .await;
    assert_eq!(view.cause, Some(EndCause::ProviderEnded));
    assert_eq!(view.provider, ProviderStatus::Failed);
    // Nobody else can be sent there now.
    let offers = requester
        .session
        .broker()
        .offers(&Default::default())
        .await
        .unwrap();
    assert!(offers.is_empty(), "{offers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_can_go_sealed_through_the_broker() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(8, origin).await;
    config.claim_at_end = false;
    let mut provider = market.provider(config, &wallet).await;
    let mut requester = Requester::new(&market).await;
    requester.counter_source = CounterSource::Provider;
    let mut lease = requester.lease(5).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while !lease.ended {
        assert!(tokio::time::Instant::now() < until);
        lease.exchange(&requester.session).await;
    }
    let (cause, amount, paid) = end(&mut provider).await;
    assert_eq!((cause, amount), (EndCause::Completed, Amount(5 * PRICE)));
    assert_eq!(paid, amount);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_is_paid_as_well_as_time() {
    let market = Market::start().await;
    let origin = origin(100_000).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(9, origin).await;
    config.claim_at_end = false;
    // 10 kB cost as much as a second.
    config.terms.prices.per_gib = PricePerGib(Amount(PRICE * (1 << 30) / 10_000));
    let prices = config.terms.prices;
    let mut provider = market.provider(config, &wallet).await;
    let mut requester = Requester::new(&market).await;
    requester.prices = prices;
    let mut lease = requester.lease(600).await;
    let page = lease.fetch(origin).await.unwrap();
    assert_eq!(page.len(), "127.0.1.9\n".len() + 100_000);
    lease.run(Duration::from_secs(1)).await;
    lease.say(&PayerMessage::End(EndCause::RequesterEnded));
    let (cause, amount, paid) = end(&mut provider).await;
    assert_eq!(cause, EndCause::RequesterEnded);
    assert!(amount >= Amount(10 * PRICE), "{amount}");
    assert!(
        amount.0 <= paid.0 + 2 * PRICE,
        "{amount} served, {paid} paid"
    );
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_are_renewed() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(11, origin).await;
    config.claim_at_end = false;
    let provider = market.provider(config, &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(600).await;
    // The first reservation covers a minute; it is renewed when half of that is used up.
    let until = tokio::time::Instant::now() + Duration::from_secs(45);
    while lease.renewed.is_none() {
        assert!(!lease.ended && tokio::time::Instant::now() < until);
        lease.run(Duration::from_millis(500)).await;
    }
    assert!(
        lease.renewed.unwrap() > Amount(62 * PRICE),
        "{:?}",
        lease.renewed
    );
    tokio::join!(provider.shutdown(), lease.run(Duration::from_secs(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_fails_is_made_later() {
    let mut market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let config = market.provider_config(12, origin).await;
    let mut provider = market.provider(config, &wallet).await;
    let mut requester = Requester::new(&market).await;
    let mut lease = requester.lease(5).await;
    lease.run(Duration::from_secs(2)).await;
    // The embedded chain goes away with its broker.
    market.kill_broker();
    lease.run(Duration::from_secs(20)).await;
    assert_eq!(end(&mut provider).await.0, EndCause::Completed);
    let failed = |event: &ProviderEvent| matches!(event, ProviderEvent::ClaimFailed { .. });
    wait_for(&mut provider, failed).await;
    market.restart_broker().await;
    let claimed = |event: &ProviderEvent| matches!(event, ProviderEvent::Claimed { .. });
    wait_for(&mut provider, claimed).await;
    let network = market.network().await;
    let paid = network.contract.claimed(lease.deal.channel().id()).await;
    assert_eq!(paid.unwrap(), Amount(5 * PRICE));
    // The broker is told of the end that it missed.
    requester
        .wait_until(lease.deal.id(), |view| {
            view.amount == Some(Amount(5 * PRICE))
        })
        .await;
    let left = provider.shutdown().await;
    assert!(!left.iter().any(claimed), "claimed twice: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_operator_is_not_spoken_to() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let mut config = market.provider_config(10, origin).await;
    config.network.rules.operator = Wallet::random().address();
    accept_consent(&config, wallet.address()).await.unwrap();
    let mut provider = start(config, wallet).await.unwrap();
    let refused = |event: &ProviderEvent| matches!(event, ProviderEvent::Disconnected { reason, .. } if reason.contains("operator"));
    wait_for(&mut provider, refused).await;
    // It is tried again, with the same result, and nothing is offered.
    let seen = wait_for(&mut provider, refused).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(!provider.status().connected);
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_before_anything_starts() {
    let market = Market::start().await;
    let origin = origin(0).await;
    let wallet = Arc::new(Wallet::random());
    let config = market.provider_config(6, origin).await;
    let refused = start(config.clone(), wallet.clone()).await;
    assert!(matches!(refused, Err(ProviderError::ConsentMissing)));
    assert!(!consent_given(&config, wallet.address()).await.unwrap());
    accept_consent(&config, wallet.address()).await.unwrap();
    assert!(consent_given(&config, wallet.address()).await.unwrap());

    let mut open = config.clone();
    open.policy.tier = ipsx_tunnel_core::Tier::Open;
    assert!(matches!(
        start(open, wallet.clone()).await,
        Err(ProviderError::ConsentMissing)
    ));
    let mut never = config.clone();
    never.terms.max_seconds = 4;
    assert!(matches!(
        start(never, wallet.clone()).await,
        Err(ProviderError::Terms(_))
    ));
    let mut elsewhere = config.clone();
    elsewhere.terms.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    assert!(matches!(
        start(elsewhere, wallet.clone()).await,
        Err(ProviderError::Prefixes)
    ));
    let other = start(config.clone(), Arc::new(Wallet::random())).await;
    assert!(matches!(other, Err(ProviderError::OtherWallet { .. })));

    let first = start(config.clone(), wallet.clone()).await.unwrap();
    let mut taken = market.provider_config(7, origin).await;
    taken.listen = first.listen();
    accept_consent(&taken, wallet.address()).await.unwrap();
    assert!(matches!(
        start(taken, wallet.clone()).await,
        Err(ProviderError::Tunnel(_))
    ));
    let second = start(config, wallet.clone()).await;
    assert!(matches!(second, Err(ProviderError::Vouchers(_))));
    first.shutdown().await;
}

/// The store of a killed provider, when its tasks are gone.
async fn until_free(path: &std::path::Path, domain: ipsx_metering::Domain) -> VoucherStore {
    for _ in 0..100 {
        if let Ok(store) = VoucherStore::open(path, domain).await {
            return store;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} stays locked", path.display());
}
