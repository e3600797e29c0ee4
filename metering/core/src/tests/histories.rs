//! Random histories of honest peers: whatever the link and the machines do, nobody loses more than was agreed.

use proptest::prelude::*;

use super::fixtures::{Weather, domain, payer_key, terms};
use super::world::World;
use crate::*;

fn an_hour_at_most() -> u64 {
    3600 * 1000
}

#[test]
fn a_plain_lease_is_paid_exactly_and_ends_in_time() {
    let terms = terms(1, 1_000, 0, 60, 60_000);
    let mut world = World::new(terms, Weather::default());
    world.run(an_hour_at_most());
    assert_eq!(
        world.end_causes(),
        (Some(EndCause::TimeUp), Some(EndCause::TimeUp))
    );
    assert_eq!(world.provider.due(), Amount(60_000));
    assert_eq!(world.payer.paid(), Amount(60_000));
    assert_eq!(world.provider.paid(), Amount(60_000));
    let held = |event: &ProviderEvent| {
        matches!(
            event,
            ProviderEvent::Held { .. } | ProviderEvent::Warned { .. }
        )
    };
    assert!(!world.provider_log.iter().any(held));
    assert_eq!(world.provider_faults, []);
}

#[test]
fn traffic_is_prepaid_without_stopping() {
    // 12 Mbit/s for a minute is 90 MB; the budget leaves room for 128 MiB.
    let terms = terms(1, 1_000, 8_000_000, 60, 60_000 + 1_000_000);
    let weather = Weather {
        demand: (250_000, 1_250_000),
        ..Weather::default()
    };
    let mut world = World::new(terms, weather);
    world.run(an_hour_at_most());
    assert_eq!(world.end_causes().0, Some(EndCause::TimeUp));
    let usage = world.provider.usage();
    assert!(usage.bytes() > 88_000_000, "{usage:?}");
    assert!(world.provider.paid() >= world.provider.due());
    assert!(world.payer_loss() <= Amount(world.slice(world.payer.paid()).0 + world.tolerance().0));
}

#[test]
fn two_leases_share_a_channel_and_a_lost_last_voucher_is_made_good() {
    let mut first = World::new(terms(1, 1_000, 0, 20, 20_000), Weather::default());
    first.run(an_hour_at_most());
    let mut provider_disk = first.provider_disk.clone();
    let payer_disk = first.payer_disk.clone();
    assert_eq!(provider_disk.cumulative(), payer_disk.cumulative());
    // The provider never got the last voucher.
    if let Some(voucher) = &mut provider_disk.voucher {
        let message = Voucher {
            cumulative: Amount(voucher.message.cumulative.0 - 900),
            ..voucher.message.clone()
        };
        *voucher = Signed::sign(message, &domain(), &payer_key());
    }
    let mut second = World::continuing(
        terms(2, 1_000, 0, 30, 30_000),
        Weather::default(),
        provider_disk,
        payer_disk,
    );
    second.run(an_hour_at_most());
    assert_eq!(second.provider.paid(), Amount(30_000));
    assert_eq!(second.payer.cumulative(), Amount(50_000));
    assert_eq!(second.provider.state().cumulative(), Amount(50_000));
    let lowest = second.seqs.keys().next().copied().unwrap();
    assert!(first.seqs.keys().all(|seq| *seq < lowest));
}

#[test]
fn many_outages_over_a_long_lease_do_not_drive_the_clocks_apart() {
    let seconds = 4 * 3600;
    let mut weather = Weather {
        demand: (2_000, 0),
        ..Weather::default()
    };
    // An outage of 8 to 40 s every two minutes.
    weather.outages = (1..110)
        .map(|n| (n * 120_000, n * 120_000 + 8_000 + (n % 5) * 8_000))
        .collect();
    let mut world = World::new(
        terms(1, 1_000, 0, seconds, u128::from(seconds) * 1_000),
        weather,
    );
    world.run(6 * an_hour_at_most());
    let served = world.provider.usage().secs;
    let (provider, _) = world.end_causes();
    // Holds may add up to a tenth of the service and a minute; this weather is worse than that.
    assert_eq!(provider, Some(EndCause::PeerSilent), "after {served} s");
    assert!(world.provider_faults.is_empty());
    let due = world.provider.due();
    assert!(world.provider.paid() >= due, "{due}");
}

/// Five interruptions of `millis` in a lease of a minute: seconds that were charged and that were truly served.
fn interrupted_for(millis: u64) -> (u64, u64) {
    let outages = (1..=5).map(|n| (n * 10_000, n * 10_000 + millis));
    let weather = Weather {
        outages: outages.collect(),
        ..Weather::default()
    };
    let mut world = World::new(terms(1, 1_000, 0, 60, 60_000), weather);
    world.run(an_hour_at_most());
    assert_eq!(
        world.end_causes(),
        (Some(EndCause::TimeUp), Some(EndCause::TimeUp)),
        "{millis} ms"
    );
    assert_eq!(world.payer.paid(), world.provider.due());
    (world.provider.usage().secs, world.truly_served_ms / 1000)
}

#[test]
fn interruptions_shorter_than_a_slice_count_as_service_and_longer_ones_do_not() {
    assert_eq!(interrupted_for(1_500), (60, 52));
    let (charged, served) = interrupted_for(4_000);
    assert!(charged <= served, "{charged} s charged of {served}");
}

#[test]
fn interruptions_of_any_length_end_no_lease_in_dispute() {
    for (millis, seed) in (500..=4_500)
        .step_by(500)
        .flat_map(|millis| (1..=4).map(move |seed| (millis, seed)))
    {
        let outages = (1..20).map(|n| n * 20_000 + seed * 137);
        let weather = Weather {
            delay_ms: (20, 60),
            loss_percent: 2,
            duplicate_percent: 1,
            outages: outages.map(|at| (at, at + millis)).collect(),
            demand: if seed % 2 == 0 {
                (0, 0)
            } else {
                (20_000, 200_000)
            },
            seed,
            ..Weather::default()
        };
        let mut world = World::new(terms(1, 1_000, 0, 300, 300_000), weather);
        world.run(an_hour_at_most());
        assert_eq!(
            world.end_causes(),
            (Some(EndCause::TimeUp), Some(EndCause::TimeUp)),
            "{millis} ms, seed {seed}"
        );
    }
}

fn restarts() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(500u64..60_000, 0..4)
}

fn weather() -> impl Strategy<Value = Weather> {
    let link = (0u64..200, 0u64..400, 0u64..30, 0u64..30, 0u64..4);
    let outages = prop::collection::vec((1_000u64..60_000, 100u64..20_000), 0..3);
    let demand = (0u64..300_000, 0u64..3_000_000);
    (
        link,
        outages,
        restarts(),
        restarts(),
        demand,
        0u64..200,
        any::<u64>(),
    )
        .prop_map(
            |(link, outages, provider_restarts, payer_restarts, demand, store_ms, seed)| Weather {
                delay_ms: (link.0, link.0 + link.1),
                loss_percent: link.2,
                duplicate_percent: link.3,
                data_loss: link.4,
                outages: outages.iter().map(|(at, long)| (*at, at + long)).collect(),
                provider_restarts,
                payer_restarts,
                demand,
                store_ms,
                clock_ahead: 0,
                seed,
            },
        )
}

fn deals() -> impl Strategy<Value = Terms> {
    let prices = (0u128..5_000, prop_oneof![Just(0u128), 1u128..50_000_000]);
    (prices, 5u64..90, 1u128..200).prop_filter_map(
        "a slice buys a packet",
        |((per_second, per_gib), seconds, percent)| {
            let time = per_second * u128::from(seconds);
            let traffic = per_gib / 4;
            let budget = (time + traffic) * percent / 100 + 1;
            let terms = terms(1, per_second, per_gib, seconds, budget);
            terms.check().is_ok().then_some(terms)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn honest_peers_never_lose_more_than_agreed(terms in deals(), weather in weather()) {
        let restarts = weather.payer_restarts.len() as u64;
        let mut world = World::new(terms, weather);
        world.run(an_hour_at_most());
        let (provider, payer) = world.end_causes();
        prop_assert!(provider.is_some() && payer.is_some(), "{provider:?} {payer:?}");
        prop_assert!(world.payer_faults.is_empty(), "{:?}", world.payer_faults);
        for fault in &world.provider_faults {
            prop_assert!(
                matches!(fault, Misbehaved::Provider(ProviderFault::Overclaimed { .. })),
                "{fault}"
            );
        }
        // The highest voucher that was stored survives, and it is one that was signed.
        let stored = world.provider_disk.cumulative();
        prop_assert!(stored == Amount::ZERO || world.vouchers_signed.contains(&stored));
        prop_assert!(world.provider.paid() <= stored);
        prop_assert!(world.payer.paid() <= world.terms.budget);
        // A payer that restarts forgets the fraction of a second before, and no more.
        let forgotten = world.terms.due(&Usage { secs: restarts, ..Usage::default() });
        let most = world.slice(world.payer.paid()).0 + world.tolerance().0 + forgotten.0;
        prop_assert!(world.payer_loss().0 <= most, "lost {} of at most {most}", world.payer_loss());
    }

    /// Nothing that is paid or served hangs on a clock: an hour off, and another hour off after each restart, changes
    /// the times in the receipts alone.
    #[test]
    fn clocks_an_hour_off_change_no_money(
        terms in deals(),
        weather in weather(),
        clock_ahead in prop_oneof![Just(-3_600i64), Just(3_600)],
    ) {
        let outcome = |clock_ahead| {
            let weather = Weather { clock_ahead, ..weather.clone() };
            let mut world = World::new(terms.clone(), weather);
            world.run(an_hour_at_most());
            let receipts = world.seqs.values().map(|receipt| Receipt {
                observed_at: UnixSeconds(0),
                ..receipt.clone()
            });
            let receipts: Vec<_> = receipts.collect();
            let money = (world.provider.paid(), world.payer.paid(), world.truly_moved);
            (world.end_causes(), receipts, world.vouchers_signed, money)
        };
        prop_assert_eq!(outcome(clock_ahead), outcome(0));
    }

    /// On an ordinary bad link, with both machines restarted, a lease is served to its end without a dispute.
    #[test]
    fn ordinary_weather_ends_no_lease(
        loss_percent in 0u64..8,
        delay in 0u64..80,
        restart in 5_000u64..50_000,
        seed in any::<u64>(),
    ) {
        let weather = Weather {
            delay_ms: (delay, delay + 40),
            loss_percent,
            duplicate_percent: 5,
            data_loss: 2,
            outages: vec![(20_000, 32_000)],
            provider_restarts: vec![restart],
            payer_restarts: vec![restart / 2],
            seed,
            ..Weather::default()
        };
        let terms = terms(1, 1_000, 4_000_000, 60, 60_000 + 300_000);
        let mut world = World::new(terms, weather);
        world.run(an_hour_at_most());
        prop_assert_eq!(world.end_causes(), (Some(EndCause::TimeUp), Some(EndCause::TimeUp)));
        prop_assert_eq!(&world.provider_faults, &vec![]);
        prop_assert_eq!(world.provider.usage().secs, 60);
    }
}
