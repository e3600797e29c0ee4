//! Deals, the words about them and the changes of them.

use std::collections::BTreeSet;

use super::*;

on_both! {
    deals_are_found_by_id_state_requester_and_request
    an_outcome_is_never_changed
    changes_are_numbered_as_they_were_written
    a_requests_deals_are_in_the_order_of_its_legs
}

async fn deals_are_found_by_id_state_requester_and_request(place: Place) {
    let store = &place.store;
    let mut records: Vec<_> = (1..=5).map(record).collect();
    for record in &records {
        save(store, vec![change(record)]).await.unwrap();
    }
    records[0].closed_at = Some(NOW);
    records[2].closed_at = Some(NOW);
    records[2].outcome = Some(outcome(&records[2], Binding::Aborted));
    for record in &records {
        save(store, vec![change(record)]).await.unwrap();
        let kept = store.deal(record.deal_id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(record));
    }
    let ids = |records: Vec<DealRecord>| records.iter().map(|r| r.deal_id).collect::<Vec<_>>();
    let open = ids(store.open_deals().await.unwrap());
    let expected: BTreeSet<_> = [1, 3, 4].map(|n: usize| records[n].deal_id).into();
    assert_eq!(open.into_iter().collect::<BTreeSet<_>>(), expected);
    let wordless = ids(store.deals_without_outcome().await.unwrap());
    assert_eq!(wordless, [records[0].deal_id]);
    // Newest first, page by page.
    let requester = records[0].deal.requester;
    let page = store.deals_of(requester, None, 2).await.unwrap();
    assert_eq!(ids(page.clone()), [records[4].deal_id, records[2].deal_id]);
    let after = Some((page[1].proposed_at, page[1].deal_id));
    let page = store.deals_of(requester, after, 2).await.unwrap();
    assert_eq!(ids(page), [records[0].deal_id]);
    let found = store.deals_of_request(requester, records[2].deal.request);
    assert_eq!(found.await.unwrap(), [records[2].clone()]);
    let stranger = store.deals_of_request(Address::repeat_byte(9), records[2].deal.request);
    assert_eq!(stranger.await.unwrap(), []);
    // Another program sees the same.
    store.close().await;
    let again = place.reopened().await;
    assert_eq!(
        again.deal(records[2].deal_id).await.unwrap().as_ref(),
        Some(&records[2])
    );
    again.close().await;
}

async fn a_requests_deals_are_in_the_order_of_its_legs(place: Place) {
    let store = &place.store;
    let mut records = Vec::new();
    // The provider of the first leg was the last one that was asked, once more than the others.
    for (leg, second) in [(0, 4), (0, 5), (1, 3), (2, 1), (3, 2)] {
        let mut record = record(1);
        record.deal.leg = leg;
        record.deal.start_by = NOW.after(second);
        record.deal_id = record.deal.id();
        record.proposed_at = NOW.after(second);
        records.push(record);
    }
    for record in records.iter().rev() {
        save(store, vec![change(record)]).await.unwrap();
    }
    let (requester, request) = (records[0].deal.requester, records[0].deal.request);
    let found = store.deals_of_request(requester, request).await.unwrap();
    assert_eq!(found, records);
}

async fn an_outcome_is_never_changed(place: Place) {
    let (store, record) = (&place.store, record(1));
    let id = record.deal_id;
    let word = |binding| Entry::Outcome(Box::new(outcome(&record, binding)), NOW);
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    let other = save(store, vec![word(Binding::Aborted)]).await.unwrap_err();
    assert!(matches!(other, StoreError::OtherOutcome(other) if other == id));
    let kept = store.outcome(id).await.unwrap().unwrap();
    assert_eq!(kept.message.outcome, Binding::Bound);
    // Nor by whoever comes past the program.
    for sql in ["UPDATE outcomes SET at = 1", "DELETE FROM outcomes"] {
        let refused = store.write(Sql(sql)).await.unwrap_err().to_string();
        assert!(refused.contains("an outcome is never"), "{refused}");
    }
}

async fn changes_are_numbered_as_they_were_written(place: Place) {
    let store = &place.store;
    for number in [1, 2, 3, 1] {
        save(store, vec![change(&record(number))]).await.unwrap();
    }
    let (first, wallet) = (record(1), record(1).deal.requester);
    let all = store.changes_of(wallet, 0, 10).await.unwrap();
    let deals: Vec<_> = all.iter().map(|change| of_deal(change).deal_id).collect();
    assert_eq!(deals, [first.deal_id, record(3).deal_id, first.deal_id]);
    assert!(all.is_sorted_by_key(|change| change.number));
    let event = of_deal(&all[0]);
    assert_eq!((event.at, event.side), (NOW, Side::Provider));
    assert_eq!(
        (event.provider, event.requester),
        (first.provider, first.requester)
    );
    assert_eq!(
        (event.status, event.cause.as_str()),
        (first.status(), "signed")
    );
    let latest = store.latest_change(wallet).await.unwrap();
    assert_eq!(latest, all[2].number);
    assert_eq!(store.latest_change(Address::ZERO).await.unwrap(), 0);
    let rest = store.changes_of(wallet, all[0].number, 1).await.unwrap();
    assert_eq!(rest, all[1..2]);
    let of_deal = store.changes_of_deal(first.deal_id, 0, 10).await.unwrap();
    assert_eq!(of_deal, [all[0].clone(), all[2].clone()]);
}

/// Whoever follows a wallet's changes by their numbers would miss one that becomes readable after a later one.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_share_a_database_number_a_wallet_s_changes_in_order() {
    let Some(place) = Place::postgres().await else {
        return;
    };
    let other = place.reopened().await;
    let wallet = record(1).deal.requester;
    let mut asked = Vec::new();
    for number in 0..=255 {
        let store = if number % 4 < 2 { &place.store } else { &other };
        let entries = Entries(vec![change(&record(number))]);
        asked.push(store.ask(entries).await);
    }
    let watched = tokio::spawn({
        let store = other.clone();
        async move {
            let mut seen = Vec::new();
            while seen.len() < 128 {
                let after = seen.last().map_or(0, |change: &Change| change.number);
                seen.extend(store.changes_of(wallet, after, 1_000).await.unwrap());
            }
            seen
        }
    });
    for asked in asked {
        asked.written().await.unwrap();
    }
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), watched).await;
    assert_eq!(seen.unwrap().unwrap().len(), 128);
    other.close().await;
}
