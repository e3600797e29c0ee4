//! What claims cost, so that a change that makes them dearer is seen.

use alloy_primitives::B256;
use ipsx_metering::Channel;
use ipsx_settlement::{Signer, Wallet};

use crate::world::{HOUR, World, paid};

/// Gas for one of 100 rows whose channels, payout addresses and accounts were used before.
const LATER_ROW: u64 = 40_000;

#[tokio::test]
async fn a_later_claim_in_a_batch_of_100_stays_below_its_budget() {
    let world = World::embedded().await;
    let until = world.now().await.after(HOUR);
    let root = Wallet::random();
    let channels: Vec<_> = (0..100u8)
        .map(|number| Channel {
            provider: root.derive(&[number]).address(),
            salt: B256::with_last_byte(number),
            ..world.channel(0)
        })
        .collect();
    let batch = |cumulative: u128| -> Vec<_> {
        let rows = channels.iter();
        rows.map(|c| world.row(c, cumulative, until)).collect()
    };
    let mut used = Vec::new();
    for cumulative in [1_234, 5_678] {
        let settled = world
            .centralizer
            .settle(&world.people.stranger, &batch(cumulative))
            .await
            .unwrap();
        assert!(settled.outcomes.iter().all(|o| paid(o) > 1_000));
        used.push(settled.receipt.gas_used / 100);
    }
    assert!(used[1] < LATER_ROW, "gas per row: {used:?}");
    eprintln!(
        "gas per row: first claims {}, later ones {}",
        used[0], used[1]
    );
}
