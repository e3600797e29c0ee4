//! Deadlines, withdrawals and holds: who gets out when, and what stays claimable meanwhile.

use ipsx_metering::{Amount, UnixSeconds};
use ipsx_settlement::{ContractError, Refusal, RowOutcome, Signer, SkipReason};

use crate::lifecycle::assert_refused;
use crate::world::{DAY, DEPOSIT, HOUR, World, paid, skipped};

pub(crate) async fn reservations_lapse_a_day_after_they_end(world: World) {
    let until = world.now().await.after(HOUR);
    let rows = [1, 2].map(|number| world.row(&world.channel(number), 1_000, until));
    world.advance(HOUR + DAY - 60).await;
    let outcomes = world.settle(&rows[..1]).await;
    assert_eq!(paid(&outcomes[0]), 1_000);
    world.advance(120).await;
    let outcomes = world.settle(&rows).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Expired);
    assert_eq!(skipped(&outcomes[1]), SkipReason::Expired);
}

pub(crate) async fn a_pending_withdrawal_is_kept_from_later_reservations(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let early = now.after(DAY - HOUR);
    let late = now.after(DAY + HOUR);
    client
        .request_withdraw(&people.payer, world.network, Amount(DEPOSIT.0 - 10_000))
        .await
        .unwrap();
    let outcomes = world
        .settle(&[world.row(&world.channel(1), 50_000, late)])
        .await;
    let RowOutcome::Settled {
        paid: got, unpaid, ..
    } = outcomes[0]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!((got.0, unpaid.0), (10_000, 40_000));
    let outcomes = world
        .settle(&[world.row(&world.channel(1), 60_000, late)])
        .await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Unfunded);
    // What was reserved when the payer asked draws on all of it, until a day after it ends.
    world.advance(2 * DAY - 2 * HOUR).await;
    let too_soon = client
        .withdraw(&people.payer, world.network, people.payer.address())
        .await;
    assert!(matches!(
        too_soon,
        Err(ContractError::Refused {
            reason: Refusal::TooEarly(_),
            ..
        })
    ));
    let outcomes = world
        .settle(&[world.row(&world.channel(2), 300_000, early)])
        .await;
    assert_eq!(paid(&outcomes[0]), 300_000);
    world.advance(3 * HOUR).await;
    let before = world.tokens(people.payer.address()).await;
    client
        .withdraw(&people.payer, world.network, people.payer.address())
        .await
        .unwrap();
    let got = world.tokens(people.payer.address()).await - before;
    assert_eq!(got, DEPOSIT.0 - 310_000);
    world.check_books().await;
}

pub(crate) async fn a_withdrawal_can_not_be_hoarded(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let request = async |amount: u128| {
        client
            .request_withdraw(&people.payer, world.network, Amount(amount))
            .await
            .unwrap();
    };
    let withdraw = async || {
        let to = people.payer.address();
        client.withdraw(&people.payer, world.network, to).await
    };
    // A new request starts the time again.
    request(1).await;
    world.advance(DAY).await;
    request(DEPOSIT.0).await;
    world.advance(DAY + HOUR).await;
    assert!(matches!(
        withdraw().await,
        Err(ContractError::Refused {
            reason: Refusal::TooEarly(_),
            ..
        })
    ));
    world.advance(DAY).await;
    // Kept pending, it protects nothing that was reserved before it, and everything that was reserved after: the
    // claim that comes first is paid out of what is not pending only.
    let late = world.now().await.after(HOUR);
    let outcomes = world
        .settle(&[world.row(&world.channel(1), 1_000, late)])
        .await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Unfunded);
    // Cancelled, there is nothing to take.
    request(0).await;
    assert_refused(withdraw().await, Refusal::NothingPending);
    let outcomes = world
        .settle(&[world.row(&world.channel(1), 1_000, late)])
        .await;
    assert_eq!(paid(&outcomes[0]), 1_000);
}

pub(crate) async fn a_hold_is_the_channels_until_it_lapses(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let until = now.after(DAY - HOUR);
    let channel = world.channel(1);
    let mut row = world.row(&channel, 10, until);
    row.reservation = world.reserve(&channel, DEPOSIT.0 - 5_000, until);
    assert_refused(
        client.hold(&people.stranger, &row).await,
        Refusal::NotProvider,
    );
    let mut long = row.clone();
    long.reservation = world.reserve(&channel, 1_000, now.after(DAY + HOUR));
    assert_refused(
        client.hold(&people.provider, &long).await,
        Refusal::HoldTooLong,
    );
    let mut forged = row.clone();
    forged.voucher.message.cumulative = Amount(11);
    assert_refused(
        client.hold(&people.provider, &forged).await,
        Refusal::HoldRejected(SkipReason::NotPayerSigner),
    );
    client.hold(&people.provider, &row).await.unwrap();
    world.check_books().await;
    assert_refused(
        client.hold(&people.provider, &row).await,
        Refusal::HoldRejected(SkipReason::Unfunded),
    );
    let held = client.channel(channel.id()).await.unwrap();
    assert_eq!(held.held, Amount(DEPOSIT.0 - 5_000));
    assert_eq!(held.held_until, until.after(DAY));

    // Nobody else's claim reaches it; its own draws on it first.
    let other = world
        .settle(&[world.row(&world.channel(2), 8_000, until)])
        .await;
    let RowOutcome::Settled {
        paid: got, unpaid, ..
    } = other[0]
    else {
        panic!("{other:?}");
    };
    assert_eq!((got.0, unpaid.0), (5_000, 3_000));
    row.voucher = world.promise(&channel, 100_000);
    let outcomes = world.settle(&[row]).await;
    assert_eq!(paid(&outcomes[0]), 100_000);
    assert_refused_as_early(client.release_hold(&people.stranger, &channel).await);
    world.advance(2 * DAY).await;
    client
        .release_hold(&people.stranger, &channel)
        .await
        .unwrap();
    assert_eq!(world.account().await.balance.0, DEPOSIT.0 - 105_000);
    world.check_books().await;
}

pub(crate) async fn a_hold_is_not_kept_longer_against_a_payer_who_leaves(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let channel = world.channel(1);
    let hold = async |capacity: u128, until: UnixSeconds| {
        let mut row = world.row(&channel, 10, until);
        row.reservation = world.reserve(&channel, capacity, until);
        client.hold(&people.provider, &row).await
    };
    hold(400_000, now.after(20 * HOUR)).await.unwrap();
    client
        .request_withdraw(&people.payer, world.network, Amount::MAX)
        .await
        .unwrap();
    world.advance(10 * HOUR).await;
    let later = now.after(30 * HOUR);
    assert_refused(hold(500_000, later).await, Refusal::HoldDuringExit);
    // A reservation from before the request still may; it ends in time.
    hold(500_000, now.after(23 * HOUR)).await.unwrap();
    world.advance(2 * DAY - 10 * HOUR + 60).await;
    client.release_hold(&people.payer, &channel).await.unwrap();
    client
        .withdraw(&people.payer, world.network, people.payer.address())
        .await
        .unwrap();
    assert_eq!(world.account().await.balance, Amount::ZERO);
    world.check_books().await;

    // With nothing left, a hold finds nothing; a provider may give one back before its time.
    let until = world.now().await.after(HOUR);
    assert_refused(
        hold(600_000, until).await,
        Refusal::HoldRejected(SkipReason::Unfunded),
    );
    let payer = people.payer.address();
    client
        .deposit(&people.payer, world.network, payer, Amount(700))
        .await
        .unwrap();
    hold(600_000, until).await.unwrap();
    client
        .release_hold(&people.provider, &channel)
        .await
        .unwrap();
    assert_eq!(world.account().await.balance, Amount(700));
}

fn assert_refused_as_early<T: std::fmt::Debug>(result: Result<T, ContractError>) {
    assert!(
        matches!(
            result,
            Err(ContractError::Refused {
                reason: Refusal::TooEarly(_),
                ..
            })
        ),
        "{result:?}"
    );
}

pub(crate) async fn a_long_hold_takes_nothing_of_what_leaves(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let payer = people.payer.address();
    let now = world.now().await;
    let channel = world.channel(1);
    let hold = async |until: UnixSeconds| {
        let mut row = world.row(&channel, 10, until);
        row.reservation = world.reserve(&channel, u128::MAX, until);
        client.hold(&people.provider, &row).await
    };
    client
        .request_withdraw(&people.payer, world.network, DEPOSIT)
        .await
        .unwrap();
    // Somebody adds a little to the deposit, for a hold that lasts past the 48 hours.
    client
        .deposit(&people.founder, world.network, payer, Amount(5))
        .await
        .unwrap();
    world.advance(10 * HOUR).await;
    hold(now.after(30 * HOUR)).await.unwrap();
    // It is not enlarged by what the payer asked for, though this reservation itself could draw on it.
    assert_refused(
        hold(now.after(23 * HOUR)).await,
        Refusal::HoldRejected(SkipReason::Unfunded),
    );
    world.advance(2 * DAY - 10 * HOUR + 60).await;
    let before = world.tokens(payer).await;
    client
        .withdraw(&people.payer, world.network, payer)
        .await
        .unwrap();
    assert_eq!(world.tokens(payer).await - before, DEPOSIT.0);
    world.check_books().await;
}
