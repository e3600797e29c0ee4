//! What the broker keeps for a wallet.

use std::collections::BTreeMap;

use ipsx_metering::{AccountUpdate, ChannelId, Exposure, PayerAccount, Promise};

use super::*;

on_both! {
    accounts_and_withdrawals
    a_key_is_taken_once_and_keeps_its_answer
    a_session_is_opened_once
}

async fn accounts_and_withdrawals(place: Place) {
    let store = &place.store;
    let payer = Address::repeat_byte(0xab);
    let account = |balance| PayerAccount {
        balance: Amount(balance),
        ..PayerAccount::default()
    };
    let stored = async || store.accounts().await.unwrap().0;
    let update = |account, channels| AccountUpdate { account, channels };
    let entry = |update| Entry::Account(payer, Box::new(update));
    for balance in [5, u128::MAX] {
        let changed = update(Some(account(balance)), Vec::new());
        save(store, vec![entry(changed)]).await.unwrap();
        assert_eq!(stored().await, BTreeMap::from([(payer, account(balance))]));
    }

    // Of its channels only those are written that have changed.
    let exposure = |capacity| Exposure {
        promises: vec![Promise {
            capacity: Amount(capacity),
            valid_until: NOW,
        }],
        ..Exposure::default()
    };
    let channel = |number| ChannelId(B256::repeat_byte(number));
    let mut whole = account(9);
    for (changed, left) in [
        (
            vec![
                (channel(1), Some(exposure(3))),
                (channel(2), Some(exposure(u128::MAX))),
            ],
            vec![(1, 3), (2, u128::MAX)],
        ),
        (
            vec![(channel(1), Some(exposure(4)))],
            vec![(1, 4), (2, u128::MAX)],
        ),
        (vec![(channel(2), None), (channel(3), None)], vec![(1, 4)]),
    ] {
        save(store, vec![entry(update(Some(account(9)), changed))])
            .await
            .unwrap();
        let left = left
            .into_iter()
            .map(|(number, capacity)| (channel(number), exposure(capacity)));
        whole.channels = left.collect();
        assert_eq!(stored().await, BTreeMap::from([(payer, whole.clone())]));
    }
    save(store, vec![entry(update(None, Vec::new()))])
        .await
        .unwrap();
    assert_eq!(stored().await, BTreeMap::new());

    let withdrawal = ipsx_metering::Withdrawal {
        network: examples::network(),
        owner: payer,
        to: payer,
        amount: Amount(7),
        nonce: u64::MAX,
        deadline: NOW,
    };
    let signed = examples::signed(withdrawal, &examples::operator());
    let consent = |key: Option<&str>| Entry::Withdrawal {
        signed: Box::new(signed.clone()),
        key: key.map(str::to_owned),
        now: NOW,
    };
    save(store, vec![consent(Some("k"))]).await.unwrap();
    save(store, vec![consent(None)]).await.unwrap();
    let under = async |key, now| store.withdrawal_under(payer, key, now).await.unwrap();
    assert_eq!(under("k", NOW).await, Some(signed.clone()));
    assert_eq!(under("other", NOW).await, None);
    assert_eq!(under("k", NOW.after(2 * 24 * 3_600)).await, None);
}

async fn a_key_is_taken_once_and_keeps_its_answer(place: Place) {
    let store = &place.store;
    let wallet = Address::repeat_byte(1);
    let take = async |key: &str, fingerprint: &str, now| {
        let taken = TakeKey {
            wallet,
            key: key.into(),
            fingerprint: fingerprint.into(),
            now,
        };
        store.write(taken).await.unwrap()
    };
    assert_eq!(take("k", "a", NOW).await, KeyState::New);
    assert_eq!(take("k", "a", NOW).await, KeyState::Unanswered);
    assert_eq!(take("k", "b", NOW).await, KeyState::Other);
    let answer = KeepAnswer {
        wallet,
        key: "k".into(),
        status: 200,
        body: "{\"é\": \"\\u0000'\"}".into(),
    };
    store.write(answer.clone()).await.unwrap();
    let answered = KeyState::Answered(200, answer.body);
    assert_eq!(take("k", "a", NOW).await, answered);
    // A day later it is free, and forgotten by the sweep.
    let later = NOW.after(24 * 3_600 + 1);
    assert_eq!(take("k", "b", later).await, KeyState::New);
    assert_eq!(take("k", "b", later).await, KeyState::Unanswered);
    let much_later = later.after(24 * 3_600 + 1);
    store.forget_expired(much_later).await.unwrap();
    assert_eq!(take("k", "a", much_later).await, KeyState::New);
}

async fn a_session_is_opened_once(place: Place) {
    let store = &place.store;
    let wallet = Address::repeat_byte(0xcd);
    let open = async |token: &str| {
        let session = OpenSession {
            nonce: ("n".into(), NOW),
            token_hash: token.into(),
            wallet,
            expires_at: NOW.after(10),
        };
        store.write(session).await.unwrap()
    };
    assert!(open("a").await);
    assert!(!open("b").await, "the nonce was used");
    let whose = async |token, now| store.session(token, now).await.unwrap();
    assert_eq!(whose("a", NOW).await, Some(wallet));
    assert_eq!(whose("b", NOW).await, None);
    assert_eq!(whose("a", NOW.after(10)).await, None);
}
