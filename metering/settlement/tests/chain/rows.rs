//! Random rows: in any order, split, repeated, forged, and of nothing but noise.

use alloy_primitives::{Address, B256};
use ipsx_metering::{
    Amount, Channel, NetworkId, Reservation, Signature, Signed, UnixSeconds, Voucher,
};
use ipsx_settlement::{ClaimRow, RowOutcome, Signer};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::histories::runtime;
use crate::world::{DEPOSIT, HOUR, World, fee};

/// Where each of a channel's vouchers goes, with noise around it.
#[derive(Clone, Debug)]
struct Claim {
    channel: u8,
    cumulative: u128,
    capacity: u128,
    new_batch: bool,
    with_garbage: bool,
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let amount = || 1..5_000u128;
    let claim = (0..3u8, amount(), amount(), any::<bool>(), any::<bool>()).prop_map(
        |(channel, cumulative, capacity, new_batch, with_garbage)| Claim {
            channel,
            cumulative,
            capacity,
            new_batch,
            with_garbage,
        },
    );
    prop::collection::vec(claim, 1..20).prop_map(|mut claims| {
        // Every second one again, at the end: duplicates and older vouchers after newer ones.
        let again: Vec<_> = claims.iter().step_by(2).cloned().collect();
        claims.extend(again);
        claims
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// I3: order, splits, duplicates and bad rows never change a funded channel's total or fee.
    #[test]
    fn a_funded_channel_is_paid_its_highest_covered_voucher_in_any_order(claims in claims()) {
        runtime().block_on(async {
            let world = World::embedded().await;
            let until = world.now().await.after(HOUR);
            let mut batch = Vec::new();
            let mut last_claimed = [0u128; 3];
            for (index, claim) in claims.iter().enumerate() {
                let channel = world.channel(claim.channel);
                let mut row = world.row(&channel, claim.cumulative, until);
                row.reservation = world.reserve(&channel, claim.capacity, until);
                if claim.with_garbage {
                    let mut bad = row.clone();
                    bad.voucher.message.cumulative = Amount(9_999);
                    batch.push(bad);
                }
                batch.push(row);
                if claim.new_batch || index + 1 == claims.len() {
                    world.settle(&std::mem::take(&mut batch)).await;
                    for (number, last) in (0u8..).zip(&mut last_claimed) {
                        let id = world.channel(number).id();
                        let claimed = world.centralizer.claimed(id).await.unwrap().0;
                        prop_assert!(claimed >= *last);
                        *last = claimed;
                    }
                }
            }
            let highest = |n: u8| claims.iter().filter(|c| c.channel == n).map(|c| c.cumulative.min(c.capacity)).max().unwrap_or(0);
            let highest = [highest(0), highest(1), highest(2)];
            prop_assert_eq!(last_claimed, highest);
            let fees: u128 = highest.iter().map(|h| fee(*h)).sum();
            let total: u128 = highest.iter().sum();
            prop_assert_eq!(world.credits(&world.people.treasury).await, fees);
            prop_assert_eq!(world.credits(&world.people.provider).await, total - fees);
            prop_assert_eq!(world.account().await.balance.0, DEPOSIT.0 - total);
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// A row of which each part may be right, at an end of its range, or noise.
#[derive(Clone, Debug)]
struct Noise {
    /// Which parties are unknown ones: network, payer, signer, provider.
    strange: [bool; 4],
    salt: u8,
    capacity: u128,
    cumulative: u128,
    valid_until: u64,
    /// Who signs the reservation and the voucher.
    signatures: [Pen; 2],
}

#[derive(Clone, Debug)]
enum Pen {
    Right,
    Stranger,
    OtherMessage,
    Bytes(Vec<u8>),
}

fn pen() -> impl Strategy<Value = Pen> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 65),
        Just(vec![0; 65]),
        Just(vec![0xff; 65]),
    ];
    prop_oneof![
        6 => Just(Pen::Right),
        1 => Just(Pen::Stranger),
        1 => Just(Pen::OtherMessage),
        2 => bytes.prop_map(Pen::Bytes),
    ]
}

fn noise() -> impl Strategy<Value = Noise> {
    let amount = || prop_oneof![3 => 0..2_000u128, 1 => any::<u128>(), 1 => Just(u128::MAX)];
    let time = prop_oneof![
        4 => 1_800_000_000..1_800_100_000u64,
        1 => 0..(1u64 << 40),
        1 => Just((1u64 << 40) - 1),
    ];
    let strange = prop::array::uniform4(prop::bool::weighted(0.1));
    let signatures = [pen(), pen()];
    (strange, 0..3u8, amount(), amount(), time, signatures).prop_map(
        |(strange, salt, capacity, cumulative, valid_until, signatures)| Noise {
            strange,
            salt,
            capacity,
            cumulative,
            valid_until,
            signatures,
        },
    )
}

impl Noise {
    fn row(&self, world: &World) -> ClaimRow {
        let nobody = Address::repeat_byte(0x77);
        let mut channel = world.channel(100 + self.salt);
        let [network, payer, signer, provider] = self.strange;
        if network {
            channel.network = NetworkId(B256::repeat_byte(0x77));
        }
        if payer {
            channel.payer = nobody;
        }
        if signer {
            channel.payer_signer = Address::ZERO;
        }
        if provider {
            channel.provider = Address::ZERO;
        }
        let reservation = Reservation {
            channel_id: channel.id(),
            capacity: Amount(self.capacity),
            valid_until: UnixSeconds(self.valid_until),
        };
        let voucher = Voucher {
            channel_id: channel.id(),
            cumulative: Amount(self.cumulative),
            receipt_hash: B256::repeat_byte(self.salt),
        };
        self.sign(world, channel, reservation, voucher)
    }

    fn sign(
        &self,
        world: &World,
        channel: Channel,
        reservation: Reservation,
        voucher: Voucher,
    ) -> ClaimRow {
        let (domain, people) = (world.domain(), &world.people);
        let mut row = ClaimRow {
            channel,
            reservation: Signed::sign(reservation.clone(), &domain, people.operator.key()),
            voucher: Signed::sign(voucher.clone(), &domain, people.session.key()),
        };
        let [first, second] = &self.signatures;
        match first {
            Pen::Right => {}
            Pen::Stranger => {
                row.reservation = Signed::sign(reservation, &domain, people.stranger.key());
            }
            Pen::OtherMessage => {
                let capacity = reservation.capacity.0;
                row.reservation.message.capacity = Amount(capacity.wrapping_add(1));
            }
            Pen::Bytes(bytes) => row.reservation.signature = raw(bytes),
        }
        match second {
            Pen::Right => {}
            Pen::Stranger => row.voucher = Signed::sign(voucher, &domain, people.stranger.key()),
            Pen::OtherMessage => {
                row.voucher.message.cumulative = Amount(voucher.cumulative.0.wrapping_add(1));
            }
            Pen::Bytes(bytes) => row.voucher.signature = raw(bytes),
        }
        row
    }
}

fn raw(bytes: &[u8]) -> Signature {
    Signature(bytes.try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// I10: settle never reverts because of a row, and the rows beside it are paid as if it were not there.
    #[test]
    fn no_row_reverts_a_batch(noise in prop::collection::vec(noise(), 1..12), place in any::<prop::sample::Index>()) {
        runtime().block_on(async {
            let world = World::embedded().await;
            // A hold keeps the good row's money from the rows of the same payer that ask for everything.
            let until = world.now().await.after(HOUR);
            let good = world.row(&world.channel(1), 500, until);
            world.centralizer.hold(&world.people.provider, &good).await.unwrap();
            let mut rows: Vec<_> = noise.iter().map(|n| n.row(&world)).collect();
            let place = place.index(rows.len() + 1);
            rows.insert(place, good);
            let settled = world.centralizer.settle(&world.people.stranger, &rows).await;
            prop_assert!(settled.is_ok(), "{:?}", settled);
            let outcomes = settled.unwrap().outcomes;
            prop_assert_eq!(outcomes.len(), rows.len());
            let whole = matches!(outcomes[place], RowOutcome::Settled { paid, .. } if paid.0 == 500);
            prop_assert!(whole, "{:?}", outcomes);
            // Nobody was paid but those whose papers were right.
            for (row, outcome) in rows.iter().zip(&outcomes) {
                if let RowOutcome::Settled { paid, .. } = outcome {
                    let domain = world.domain();
                    prop_assert!(row.reservation.verify(&domain, world.people.operator.address()).is_ok());
                    prop_assert!(row.voucher.verify(&domain, world.people.session.address()).is_ok());
                    let promised = row.voucher.message.cumulative.min(row.reservation.message.capacity);
                    prop_assert!(*paid <= promised);
                }
            }
            world.check_books().await;
            Ok::<(), TestCaseError>(())
        })?;
    }
}
