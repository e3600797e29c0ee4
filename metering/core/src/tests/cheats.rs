//! Peers that cheat: what they gain is bounded, and they are named.

use proptest::prelude::*;

use super::fixtures::{PayerCheat, ProviderCheat, Weather, terms};
use super::world::World;
use crate::*;

const HOUR: u64 = 3600 * 1000;

fn lease() -> Terms {
    terms(1, 1_000, 4_000_000, 120, 120_000 + 600_000)
}

fn with_payer(cheat: PayerCheat, weather: Weather) -> World {
    let mut world = World::with(lease(), weather, cheat, ProviderCheat::Honest);
    world.run(HOUR);
    world
}

fn with_provider(cheat: ProviderCheat, weather: Weather) -> World {
    let mut world = World::with(lease(), weather, PayerCheat::Honest, cheat);
    world.run(HOUR);
    world
}

#[test]
fn a_payer_that_never_pays_gets_nothing() {
    let world = with_payer(PayerCheat::NeverPays, Weather::default());
    assert_eq!(world.end_causes().0, Some(EndCause::NotPaid));
    assert_eq!(world.truly_served_ms, 0);
    assert_eq!(world.provider.usage(), Usage::default());
}

#[test]
fn a_payer_that_stops_gets_what_it_paid_and_the_credit() {
    let world = with_payer(PayerCheat::StopsAfter(40), Weather::default());
    assert_eq!(world.end_causes().0, Some(EndCause::Unpaid));
    let unpaid = world.provider.due().saturating_sub(world.provider.paid());
    assert!(unpaid <= world.slice(world.provider.paid()));
    let steps: Vec<_> = world
        .provider_log
        .iter()
        .filter_map(|event| match event {
            ProviderEvent::Warned { .. } => Some("warned"),
            ProviderEvent::Held { .. } => Some("held"),
            ProviderEvent::Ended { .. } => Some("ended"),
            _ => None,
        })
        .collect();
    assert_eq!(steps, ["warned", "held", "ended"]);
}

#[test]
fn replayed_vouchers_and_those_of_another_channel_pay_nothing() {
    let replay = with_payer(PayerCheat::ReplaysTheFirst, Weather::default());
    assert_eq!(replay.end_causes().0, Some(EndCause::Unpaid));
    assert!(replay.provider.due() <= replay.provider.paid());
    let other = with_payer(PayerCheat::OtherChannel, Weather::default());
    assert_eq!(other.end_causes().0, Some(EndCause::NotPaid));
    assert!(matches!(
        other.payer_faults[0],
        Misbehaved::Payer(PayerFault::WrongChannel { .. })
    ));
    assert_eq!(other.truly_served_ms, 0);
}

#[test]
fn a_payer_that_underpays_is_held_and_ended() {
    let world = with_payer(PayerCheat::PaysOneUnitMore, Weather::default());
    assert_eq!(world.end_causes().0, Some(EndCause::Unpaid));
    let unpaid = world.provider.due().saturating_sub(world.provider.paid());
    assert!(unpaid <= world.slice(world.provider.paid()));
}

#[test]
fn over_reported_bytes_and_seconds_are_not_paid() {
    for cheat in [
        ProviderCheat::Bytes(300),
        ProviderCheat::Seconds(200),
        ProviderCheat::Seconds(1_000),
    ] {
        let world = with_provider(cheat, Weather::default());
        assert_eq!(world.end_causes().1, Some(EndCause::Disputed), "{cheat:?}");
        assert!(matches!(
            world.provider_faults[0],
            Misbehaved::Provider(ProviderFault::Overclaimed { .. })
        ));
        let most = world.slice(world.payer.paid()).0 + world.tolerance().0;
        assert!(
            world.payer_loss().0 <= most,
            "{cheat:?} {}",
            world.payer_loss()
        );
    }
}

#[test]
fn a_provider_that_answers_but_carries_nothing_gets_a_slice() {
    let world = with_provider(ProviderCheat::DropsDataAt(60), Weather::default());
    let (_, payer) = world.end_causes();
    assert!(
        matches!(payer, Some(EndCause::NoService | EndCause::Disputed)),
        "{payer:?}"
    );
    let most = world.slice(world.payer.paid()).0 + world.tolerance().0;
    assert!(
        world.payer_loss().0 <= most,
        "{} > {most}",
        world.payer_loss()
    );
}

#[test]
fn outages_are_not_paid_whoever_counts_them() {
    let weather = Weather {
        outages: vec![(30_000, 55_000), (80_000, 105_000)],
        ..Weather::default()
    };
    let world = with_provider(ProviderCheat::CountsOutages, weather.clone());
    assert_eq!(world.end_causes().1, Some(EndCause::Disputed));
    let most = world.slice(world.payer.paid()).0 + world.tolerance().0;
    assert!(
        world.payer_loss().0 <= most,
        "{} > {most}",
        world.payer_loss()
    );
    // An honest one loses nothing by them: the lease goes on to its end.
    let world = with_provider(ProviderCheat::Honest, weather);
    assert_eq!(
        world.end_causes(),
        (Some(EndCause::TimeUp), Some(EndCause::TimeUp))
    );
}

#[test]
fn a_repeated_number_is_proof() {
    let world = with_provider(ProviderCheat::RepeatsSeq, Weather::default());
    assert!(world.provider_faults.iter().any(|fault| matches!(
        fault,
        Misbehaved::Provider(ProviderFault::RepeatedSeq { seq: 10 })
    )));
    assert!(world.payer.is_ended() && world.provider.is_ended());
}

#[test]
fn a_voucher_that_answers_no_receipt_counts_for_nothing() {
    let nothing = with_payer(PayerCheat::AnswersNothing, Weather::default());
    // The opening voucher answers none.
    assert_eq!(nothing.end_causes().0, Some(EndCause::Unpaid));
    assert!(nothing.provider.paid() > Amount::ZERO);
    assert_eq!(nothing.payer_faults[0].name(), "receipt");
    let unknown = PayerFault::UnknownReceipt {
        cumulative: nothing.vouchers_signed[1],
        found: B256::ZERO,
    };
    assert_eq!(nothing.payer_faults[0], Misbehaved::Payer(unknown));
    let another = with_payer(PayerCheat::AnswersAnother, Weather::default());
    assert_eq!(another.end_causes().0, Some(EndCause::Unpaid));
}

fn payer_cheats() -> impl Strategy<Value = PayerCheat> {
    prop_oneof![
        Just(PayerCheat::NeverPays),
        (1u64..100).prop_map(PayerCheat::StopsAfter),
        Just(PayerCheat::ReplaysTheFirst),
        Just(PayerCheat::OtherChannel),
        Just(PayerCheat::PaysOneUnitMore),
        Just(PayerCheat::AnswersNothing),
        Just(PayerCheat::AnswersAnother),
    ]
}

fn provider_cheats() -> impl Strategy<Value = ProviderCheat> {
    prop_oneof![
        (101u64..1_000).prop_map(ProviderCheat::Bytes),
        (101u64..1_000).prop_map(ProviderCheat::Seconds),
        (0u64..110).prop_map(ProviderCheat::DropsDataAt),
        Just(ProviderCheat::RepeatsSeq),
        Just(ProviderCheat::CountsOutages),
    ]
}

fn weather() -> impl Strategy<Value = Weather> {
    (0u64..150, 0u64..20, 0u64..20, 0u64..2_000_000, any::<u64>()).prop_map(
        |(delay, loss_percent, duplicate_percent, down, seed)| Weather {
            delay_ms: (delay / 2, delay),
            loss_percent,
            duplicate_percent,
            demand: (down / 10, down),
            seed,
            ..Weather::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    // That unpaid service stays within the credit is checked at every step of the world.
    #[test]
    fn no_payer_gets_more_than_the_credit(cheat in payer_cheats(), weather in weather()) {
        let world = with_payer(cheat, weather);
        prop_assert!(world.provider.is_ended() && world.payer.is_ended());
    }

    #[test]
    fn no_provider_gets_more_than_a_slice(cheat in provider_cheats(), weather in weather()) {
        let world = with_provider(cheat, weather);
        prop_assert!(world.provider.is_ended() && world.payer.is_ended());
        let most = world.slice(world.payer.paid()).0 + world.tolerance().0;
        prop_assert!(world.payer_loss().0 <= most, "lost {} of at most {most}", world.payer_loss());
    }
}
