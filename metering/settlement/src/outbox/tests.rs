#![allow(clippy::unwrap_used)]
use super::*;

fn fees(max: u128, tip: u128) -> Fees {
    Fees {
        max_fee_per_gas: max,
        max_priority_fee_per_gas: tip,
    }
}

fn capped(most: u128) -> Outbox {
    Outbox::default().with_patience(Patience {
        most_per_gas: Some(most),
        ..Patience::default()
    })
}

#[test]
fn gas_above_the_ceiling_waits() {
    // Twice a base fee of 100, and a tip of 10: 110 are paid now.
    let market = fees(210, 10);
    assert_eq!(Outbox::default().affordable(market).unwrap(), market);
    assert_eq!(capped(300).affordable(market).unwrap(), market);
    assert_eq!(capped(110).affordable(market).unwrap(), fees(110, 10));
    let refused = capped(109).affordable(market);
    assert!(
        matches!(
            refused,
            Err(ChainError::TooExpensive {
                price: 110,
                most: 109
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_raise_is_one_that_nodes_take_or_none() {
    let free = Outbox::default();
    assert_eq!(free.raised(fees(100, 8), fees(50, 1)), Some(fees(126, 11)));
    assert_eq!(
        free.raised(fees(100, 8), fees(900, 20)),
        Some(fees(900, 20))
    );
    assert_eq!(free.raised(fees(0, 0), fees(0, 0)), Some(fees(1, 1)));
    assert_eq!(
        capped(120).raised(fees(100, 8), fees(900, 200)),
        Some(fees(120, 120))
    );
    // A tenth more is not to be had below the ceiling.
    assert_eq!(capped(105).raised(fees(100, 8), fees(900, 20)), None);
}

#[test]
fn what_is_on_its_way_outlives_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let account = Address::repeat_byte(3);
    let mut entry = Entry {
        chain_id: 7,
        nonce: 5,
        to: Some(Address::repeat_byte(1)),
        value: U256::from(9),
        data: Bytes::from(vec![1, 2, 3]),
        gas_limit: 70_000,
        max_fee_per_gas: U256::ZERO,
        max_priority_fee_per_gas: U256::ZERO,
        hashes: vec![B256::repeat_byte(4)],
    };
    entry.set_fees(fees(u128::from(u64::MAX) * 3, 1));
    let path = folder.path().join("outbox");
    Outbox::in_folder(&path).keep(account, &entry).unwrap();
    let outbox = Outbox::in_folder(&path);
    assert_eq!(outbox.recall(account, 7).unwrap(), Some(entry));
    assert_eq!(outbox.recall(account, 8).unwrap(), None);
    assert_eq!(outbox.recall(Address::ZERO, 7).unwrap(), None);
    outbox.forget(account, 7).unwrap();
    outbox.forget(account, 7).unwrap();
    assert_eq!(outbox.recall(account, 7).unwrap(), None);
    let name = outbox.file(account, 7).unwrap();
    std::fs::write(&name, "{").unwrap();
    let damaged = outbox.recall(account, 7).unwrap_err().to_string();
    assert!(damaged.contains(&name.display().to_string()), "{damaged}");
}
