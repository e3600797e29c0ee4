//! From the voucher store to credits, with crashes in between.

use ipsx_metering::Amount;
use ipsx_settlement::claims::{ClaimPolicy, Left, plan, submit};
use ipsx_settlement::{RowOutcome, Signer, VoucherStore};

use crate::world::{DAY, HOUR, World, fee};

pub(crate) async fn the_store_is_claimed_once_whatever_crashes(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = VoucherStore::open(&path, world.domain()).await.unwrap();
    let until = world.now().await.after(HOUR);
    let relayer = &people.stranger;
    let policy = ClaimPolicy {
        at_least: Amount(10),
        max_rows: 2,
        lapsing_within: None,
    };
    let make_plan = async |store: &VoucherStore, policy: ClaimPolicy| {
        let now = world.now().await;
        plan(store, client, relayer.address(), now, policy)
            .await
            .unwrap()
    };
    for (number, promised, reserved) in [
        (1, 500, Some(800)),
        (2, 900, Some(700)),
        (3, 5, Some(100)),
        (4, 50, None),
        (5, 300, Some(300)),
    ] {
        let channel = world.channel(number);
        store.add_channel(&channel).await.unwrap();
        let voucher = world.promise(&channel, promised);
        store.accept(&voucher).await.unwrap();
        if let Some(capacity) = reserved {
            let reservation = world.reserve(&channel, capacity, until);
            store.accept_reservation(&reservation).await.unwrap();
        }
    }

    let first = make_plan(&store, policy).await;
    let rows: Vec<_> = first.claims.iter().map(|c| c.amount.0).collect();
    assert_eq!(rows, [700, 500]);
    assert_eq!(first.fee.0, fee(700) + fee(500));
    assert!(first.gas > 50_000 && !first.gas_cost.is_zero());
    let mut left: Vec<_> = first.left.iter().map(|(_, a, why)| (a.0, *why)).collect();
    left.sort_by_key(|(amount, _)| *amount);
    assert_eq!(
        left,
        [
            (5, Left::TooSmall),
            (50, Left::Uncovered),
            (300, Left::NextBatch)
        ]
    );

    // Nothing of it is about to lapse: the reservations end in an hour, and are good for a day more.
    let lapsing = |hours| ClaimPolicy {
        lapsing_within: Some(hours * HOUR),
        ..ClaimPolicy::default()
    };
    let none = make_plan(&store, lapsing(12)).await;
    assert!(none.claims.is_empty());
    assert_eq!(
        none.left
            .iter()
            .filter(|(_, _, why)| *why == Left::NotYet)
            .count(),
        4
    );
    assert_eq!(make_plan(&store, lapsing(26)).await.claims.len(), 4);

    // The claim goes through, and the process dies before it is noted.
    let rows: Vec<_> = first.claims.iter().map(|c| c.row.clone()).collect();
    client.settle(relayer, &rows).await.unwrap();
    store.close().await;
    let store = VoucherStore::open(&path, world.domain()).await.unwrap();
    let second = make_plan(&store, policy).await;
    assert_eq!(second.amount, Amount(300));
    let report = submit(&store, client, relayer, &second).await.unwrap();
    assert_eq!((report.paid.0, report.fee.0), (300, fee(300)));
    assert!(matches!(
        report.outcomes[..],
        [(_, RowOutcome::Settled { .. })]
    ));

    // A plan that somebody else has carried out already pays nothing twice.
    let report = submit(&store, client, relayer, &first).await.unwrap();
    assert_eq!(report.paid, Amount::ZERO);
    let empty = make_plan(&store, policy).await;
    assert!(empty.claims.is_empty());
    let report = submit(&store, client, relayer, &empty).await.unwrap();
    assert!(report.settlement.is_none());

    // What a lapsed reservation covered is lost unless a new one comes.
    world.advance(HOUR + DAY + 60).await;
    let lapsed = make_plan(&store, ClaimPolicy::default()).await;
    assert!(
        lapsed
            .left
            .iter()
            .all(|(_, _, why)| *why == Left::Uncovered)
    );
    let channel = world.channel(2);
    let renewed = world.reserve(&channel, 900, world.now().await.after(HOUR));
    store.accept_reservation(&renewed).await.unwrap();
    let plan = make_plan(&store, ClaimPolicy::default()).await;
    let report = submit(&store, client, relayer, &plan).await.unwrap();
    assert_eq!(report.paid, Amount(200));
    assert_eq!(
        world.credits(&people.treasury).await,
        fee(900) + fee(500) + fee(300)
    );
    world.check_books().await;
}
