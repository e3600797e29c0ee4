//! Requests that rest, and that none is taken twice.

use std::time::Duration;

use ipsx_market::http::RequestEvent;
use ipsx_market::request::SignedRequest;
use ipsx_market::resting::{RequestRecord, RequestStatus};

use super::*;

on_both! {
    requests_that_rest_are_kept_with_what_became_of_them
    a_nonce_is_taken_once
    all_that_is_over_is_forgotten
    what_is_decided_is_there_before_what_is_asked_for_later
    what_is_decided_is_written_with_what_is_asked_for_next
}

async fn requests_that_rest_are_kept_with_what_became_of_them(place: Place) {
    let store = &place.store;
    let request = |number: u64| {
        let mut message = examples::request();
        message.nonce = number;
        let (wallet, key) = (examples::requester(), examples::session_key());
        RequestRecord {
            number,
            request: SignedRequest::sign(message, &examples::DOMAIN, &wallet, &key),
            seed: B256::repeat_byte(1),
            since: NOW,
            status: RequestStatus::Resting,
            reason: None,
            changed_at: NOW,
        }
    };
    let mut records = [3, 1, 2].map(request);
    for record in &records {
        save(store, vec![Entry::Request(Box::new(record.clone()))])
            .await
            .unwrap();
    }
    let resting = store.resting_requests().await.unwrap();
    let numbers: Vec<_> = resting.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    records[0].status = RequestStatus::Expired;
    let (expired, id) = (records[0].clone(), records[0].id());
    save(store, vec![Entry::Request(Box::new(expired.clone()))])
        .await
        .unwrap();
    assert_eq!(store.resting_requests().await.unwrap().len(), 2);
    assert_eq!(store.request(id).await.unwrap().as_ref(), Some(&expired));
    let wallet = expired.request.message.requester;
    let all = store.changes_of(wallet, 0, 10).await.unwrap();
    let last = all.last().map(|change| &change.event);
    let event = RequestEvent {
        request: id,
        at: NOW,
        status: RequestStatus::Expired,
    };
    assert_eq!((all.len(), last), (4, Some(&Event::Request(event))));
    assert_eq!(store.inspect(NOW).await.unwrap(), Vec::<String>::new());
    // Those that are over are forgotten a day after nobody could post them again.
    let long_after = expired.request.message.expires_at.after(24 * 3_600 + 1);
    store.forget_expired(long_after).await.unwrap();
    assert_eq!(store.request(id).await.unwrap(), None);
    assert_eq!(store.resting_requests().await.unwrap().len(), 2);
}

async fn a_nonce_is_taken_once(place: Place) {
    let store = &place.store;
    let taken = async |request, nonce| {
        let nonce = UseNonce {
            requester: Address::repeat_byte(1),
            nonce,
            request: RequestId(B256::repeat_byte(request)),
            expires_at: NOW,
        };
        store.write(nonce).await.unwrap()
    };
    assert_eq!(taken(1, u64::MAX).await, NonceState::Fresh);
    assert_eq!(taken(1, u64::MAX).await, NonceState::Same);
    assert_eq!(taken(2, u64::MAX).await, NonceState::Other);
    assert_eq!(taken(2, 2).await, NonceState::Fresh);
    store.forget_expired(NOW.after(1)).await.unwrap();
    assert_eq!(taken(2, u64::MAX).await, NonceState::Fresh);
}

async fn all_that_is_over_is_forgotten(place: Place) {
    let store = &place.store;
    let nonce = |nonce, expires_at| UseNonce {
        requester: Address::repeat_byte(1),
        nonce,
        request: RequestId(B256::repeat_byte(1)),
        expires_at,
    };
    let mut asked = Vec::new();
    // More than one transaction forgets.
    for number in 0..600 {
        asked.push(store.ask(nonce(number, NOW)).await);
    }
    asked.push(store.ask(nonce(600, NOW.after(1))).await);
    for asked in asked {
        assert_eq!(asked.written().await.unwrap(), NonceState::Fresh);
    }
    store.forget_expired(NOW.after(1)).await.unwrap();
    for number in 0..600 {
        let taken = store.ask(nonce(number, NOW)).await.written().await.unwrap();
        assert_eq!(taken, NonceState::Fresh, "{number}");
    }
    let last = store.write(nonce(600, NOW.after(1))).await.unwrap();
    assert_eq!(last, NonceState::Same);
}

async fn what_is_decided_is_there_before_what_is_asked_for_later(place: Place) {
    let store = &place.store;
    let nonce = |nonce| UseNonce {
        requester: Address::repeat_byte(1),
        nonce,
        request: RequestId(B256::repeat_byte(1)),
        expires_at: NOW,
    };
    for number in 0..100 {
        // What is written together with it may fail, and then each is written again.
        let failing = store.ask(Sql("INSERT INTO nowhere VALUES (1)")).await;
        let (decided, later) = tokio::join!(store.write_unsynced(nonce(number)), async {
            store.write(nonce(1_000 + number)).await
        });
        assert_eq!(decided.unwrap(), NonceState::Fresh);
        assert_eq!(later.unwrap(), NonceState::Fresh);
        assert!(failing.written().await.is_err());
        // Since something later is on disk, it is on disk as well.
        let sql = "SELECT count(*) FROM request_nonces";
        let row = store.row(sql, []).await.unwrap().unwrap();
        assert_eq!(
            row.number(0).unwrap(),
            2 * (i64::try_from(number).unwrap() + 1)
        );
    }
    assert_eq!(
        store.write_unsynced(nonce(0)).await.unwrap(),
        NonceState::Same
    );
}

async fn what_is_decided_is_written_with_what_is_asked_for_next(place: Place) {
    let store = &place.store;
    let nonce = |nonce| UseNonce {
        requester: Address::repeat_byte(1),
        nonce,
        request: RequestId(B256::repeat_byte(1)),
        expires_at: NOW,
    };
    let before = store.commits();
    for number in 0..20 {
        assert_eq!(
            store.write_unsynced(nonce(number)).await.unwrap(),
            NonceState::Fresh
        );
        let next = store.write(nonce(1_000 + number)).await;
        assert_eq!(next.unwrap(), NonceState::Fresh);
    }
    // One that comes late is written by itself.
    let commits = store.commits() - before;
    assert!((20..40).contains(&commits), "{commits} commits");
    // Nothing needs to come for it to be written.
    store.write_unsynced(nonce(20)).await.unwrap();
    let alone = tokio::time::timeout(Duration::from_secs(30), async {
        while store.commits() - before == commits {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    alone.await.unwrap();
    let sql = "SELECT count(*) FROM request_nonces";
    let row = store.row(sql, []).await.unwrap().unwrap();
    assert_eq!(row.number(0).unwrap(), 41);
}
