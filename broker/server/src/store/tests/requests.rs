//! Requests that rest, and that none is taken twice.

use ipsx_market::http::RequestEvent;
use ipsx_market::request::SignedRequest;
use ipsx_market::resting::{RequestRecord, RequestStatus};

use super::*;

on_both! {
    requests_that_rest_are_kept_with_what_became_of_them
    a_nonce_is_taken_once
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
    store.write(ForgetExpired(long_after)).await.unwrap();
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
    store.write(ForgetExpired(NOW.after(1))).await.unwrap();
    assert_eq!(taken(2, u64::MAX).await, NonceState::Fresh);
}
