//! Deposits with a permit, which anybody who sees it can submit first.

use ipsx_metering::Amount;
use ipsx_settlement::{Refusal, Signer};

use crate::lifecycle::assert_refused;
use crate::world::{DEPOSIT, HOUR, World};

pub(crate) async fn a_front_run_permit_does_no_harm(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let payer = people.payer.address();
    let deadline = world.now().await.after(HOUR);
    let permit = client
        .sign_permit(&people.payer, Amount(1_000), deadline)
        .await
        .unwrap();
    client
        .deposit_with_permit(&people.payer, world.network, payer, &permit)
        .await
        .unwrap();
    assert_eq!(world.account().await.balance.0, DEPOSIT.0 + 1_000);

    let permit = client
        .sign_permit(&people.payer, Amount(2_000), deadline)
        .await
        .unwrap();
    client
        .submit_permit(&people.stranger, &permit)
        .await
        .unwrap();
    client
        .deposit_with_permit(&people.payer, world.network, payer, &permit)
        .await
        .unwrap();
    assert_eq!(world.account().await.balance.0, DEPOSIT.0 + 3_000);
    // Used up, it moves nothing any more; and a stranger can't spend it at all.
    let empty = |needed: u128| Refusal::Allowance {
        allowance: Amount::ZERO,
        needed: Amount(needed),
    };
    assert_refused(
        client
            .deposit_with_permit(&people.payer, world.network, payer, &permit)
            .await,
        empty(2_000),
    );
    let permit = client
        .sign_permit(&people.payer, Amount(500), deadline)
        .await
        .unwrap();
    let stranger = people.stranger.address();
    assert_refused(
        client
            .deposit_with_permit(&people.stranger, world.network, stranger, &permit)
            .await,
        empty(500),
    );
    world.check_books().await;
}
