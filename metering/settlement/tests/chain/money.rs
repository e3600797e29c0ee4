//! Amounts: fees, splits, capacity, deposits, bonds.

use alloy_primitives::B256;
use ipsx_metering::{Amount, Signature};
use ipsx_settlement::{Refusal, RowOutcome, Signer, SkipReason};

use crate::lifecycle::assert_refused;
use crate::world::{DAY, DEPOSIT, HOUR, World, fee, paid, skipped};

pub(crate) async fn fees_are_exact_however_claims_are_split(world: World) {
    let until = world.now().await.after(HOUR);
    let split = world.channel(1);
    let whole = world.channel(2);
    // Steps too small for a fee of their own.
    let rows: Vec<_> = (1..=40)
        .map(|step| world.row(&split, step * 33 + 1, until))
        .collect();
    let outcomes = world.settle(&rows).await;
    let (mut moved, mut taken) = (0, 0);
    for outcome in &outcomes {
        let RowOutcome::Settled { paid, fee, .. } = outcome else {
            panic!("{outcome:?}");
        };
        moved += paid.0;
        taken += fee.0;
    }
    assert_eq!((moved, taken), (1_321, fee(1_321)));
    world.settle(&[world.row(&whole, 1_321, until)]).await;
    assert_eq!(world.credits(&world.people.treasury).await, 2 * fee(1_321));
    assert_eq!(
        world.credits(&world.people.provider).await,
        2 * (1_321 - fee(1_321))
    );
}

pub(crate) async fn duplicates_and_older_vouchers_change_nothing(world: World) {
    let until = world.now().await.after(HOUR);
    let channel = world.channel(1);
    let newer = world.row(&channel, 500, until);
    let older = world.row(&channel, 300, until);
    let batch = [newer.clone(), older.clone(), newer.clone()];
    let outcomes = world.settle(&batch).await;
    assert_eq!(paid(&outcomes[0]), 500);
    assert_eq!(skipped(&outcomes[1]), SkipReason::NothingDue);
    assert_eq!(skipped(&outcomes[2]), SkipReason::NothingDue);
    for row in [older, newer] {
        let outcomes = world.settle(&[row]).await;
        assert_eq!(skipped(&outcomes[0]), SkipReason::NothingDue);
    }
    let claimed = world.centralizer.claimed(channel.id()).await.unwrap();
    assert_eq!(claimed, Amount(500));
}

pub(crate) async fn a_claim_ends_at_the_capacity_and_at_the_deposit(world: World) {
    let until = world.now().await.after(HOUR);
    let channel = world.channel(1);
    let mut row = world.row(&channel, 900, until);
    row.reservation = world.reserve(&channel, 600, until);
    let outcomes = world.settle(std::slice::from_ref(&row)).await;
    assert_eq!(paid(&outcomes[0]), 600);
    let outcomes = world.settle(std::slice::from_ref(&row)).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::NothingDue);
    // A later reservation lets the same voucher claim the rest.
    row.reservation = world.reserve(&channel, 2_000, until.after(60));
    let outcomes = world.settle(&[row]).await;
    assert_eq!(paid(&outcomes[0]), 300);

    // More than the deposit: what is there is paid, the rest stays due.
    let everything = DEPOSIT.0 + 5_000;
    let greedy = world.row(&channel, everything, until);
    let outcomes = world.settle(std::slice::from_ref(&greedy)).await;
    let RowOutcome::Settled { paid, unpaid, .. } = outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert_eq!((paid.0, unpaid.0), (DEPOSIT.0 - 900, 5_000));
    let outcomes = world.settle(std::slice::from_ref(&greedy)).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Unfunded);
    let people = &world.people;
    let payer = people.payer.address();
    world
        .centralizer
        .deposit(&people.payer, world.network, payer, Amount(6_000))
        .await
        .unwrap();
    let outcomes = world.settle(&[greedy]).await;
    assert_eq!(crate::world::paid(&outcomes[0]), 5_000);
    assert_eq!(world.account().await.balance, Amount(1_000));
}

pub(crate) async fn the_bond_pays_and_the_next_deposit_repays_it(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let until = world.now().await.after(HOUR);
    client
        .add_bond(&people.founder, world.network, Amount(3_000))
        .await
        .unwrap();
    let row = world.row(&world.channel(1), DEPOSIT.0 + 2_000, until);
    let outcomes = world.settle(&[row]).await;
    let RowOutcome::Settled {
        paid, from_bond, ..
    } = outcomes[0]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!((paid.0, from_bond.0), (DEPOSIT.0 + 2_000, 2_000));
    assert_eq!(world.account().await.debt, Amount(2_000));
    let bond = async || client.network(world.network).await.unwrap().bond.0;
    assert_eq!(bond().await, 1_000);

    let payer = people.payer.address();
    for (deposited, debt, balance, bonded) in [(500, 1_500, 0, 1_500), (2_000, 0, 500, 3_000)] {
        client
            .deposit(&people.payer, world.network, payer, Amount(deposited))
            .await
            .unwrap();
        let account = world.account().await;
        assert_eq!((account.debt.0, account.balance.0), (debt, balance));
        assert_eq!(bond().await, bonded);
        world.check_books().await;
    }
}

pub(crate) async fn a_poisoned_row_never_stops_a_batch(world: World) {
    let now = world.now().await;
    let until = now.after(HOUR);
    let good = |number: u8| world.row(&world.channel(number), 1_000, until);
    let garbage = Signature([0xff; 65]);
    let mut unsigned = good(10);
    unsigned.voucher.signature = garbage;
    let mut unreserved = good(11);
    unreserved.reservation.signature = garbage;
    let mut nowhere = good(12);
    nowhere.channel.network = B256::repeat_byte(0xee).into();
    let mut endless = world.row(
        &world.channel(13),
        u128::MAX,
        ipsx_metering::UnixSeconds::MAX,
    );
    endless.channel.salt = B256::ZERO;
    let mut lapsed = good(14);
    lapsed.reservation = world.reserve(&lapsed.channel, 1_000, ipsx_metering::UnixSeconds(0));
    let zero = world.row(&world.channel(15), 0, until);
    let huge = world.row(&world.channel(16), u128::MAX, until);
    let batch = [
        good(1),
        unsigned,
        good(2),
        unreserved,
        nowhere,
        endless,
        good(1),
        lapsed,
        zero,
        good(3),
        huge,
        good(4),
    ];
    let outcomes = world.settle(&batch).await;
    for index in [0, 2, 9] {
        assert_eq!(paid(&outcomes[index]), 1_000);
    }
    for (index, reason) in [
        (1, SkipReason::NotPayerSigner),
        (3, SkipReason::NotOperator),
        (4, SkipReason::SignerExpired),
        (5, SkipReason::SignerExpired),
        (6, SkipReason::NothingDue),
        (7, SkipReason::Expired),
        (8, SkipReason::NothingDue),
        // The huge one took the whole deposit.
        (11, SkipReason::Unfunded),
    ] {
        assert_eq!(skipped(&outcomes[index]), reason, "row {index}");
    }
    assert_eq!(paid(&outcomes[10]), DEPOSIT.0 - 3_000);
    let empty = world.settle(&[]).await;
    assert!(empty.is_empty());
}

pub(crate) async fn a_bond_leaves_after_seven_days(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let network = world.network;
    client
        .add_bond(&people.founder, network, Amount(5_000))
        .await
        .unwrap();
    let to = people.treasury.address();
    assert_refused(
        client
            .request_bond(&people.stranger, network, Amount(1))
            .await,
        Refusal::NotAdmin,
    );
    client
        .request_bond(&people.admin, network, Amount(9_000))
        .await
        .unwrap();
    world.advance(7 * DAY - 60).await;
    let early = client.withdraw_bond(&people.admin, network, to).await;
    assert!(matches!(
        early,
        Err(ipsx_settlement::ContractError::Refused {
            reason: Refusal::TooEarly(_),
            ..
        })
    ));
    // Until it leaves, it pays.
    let until = world.now().await.after(HOUR);
    let row = world.row(&world.channel(1), DEPOSIT.0 + 1_000, until);
    world.settle(&[row]).await;
    world.advance(120).await;
    client
        .withdraw_bond(&people.admin, network, to)
        .await
        .unwrap();
    assert_eq!(world.tokens(to).await, 4_000);
    assert_refused(
        client.withdraw_bond(&people.admin, network, to).await,
        Refusal::NothingPending,
    );
    world.check_books().await;
}
