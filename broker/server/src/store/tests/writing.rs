//! Writes that share a commit.

use super::*;

on_both! {
    all_of_a_write_or_nothing
    one_that_fails_takes_no_other_with_it
    what_was_asked_for_is_written_before_it_closes
}

async fn all_of_a_write_or_nothing(place: Place) {
    let (store, first, second) = (&place.store, record(1), record(2));
    let word = |binding| Entry::Outcome(Box::new(outcome(&first, binding)), NOW);
    save(store, vec![word(Binding::Bound)]).await.unwrap();
    let changes = vec![change(&second), word(Binding::Aborted), change(&first)];
    save(store, changes).await.unwrap_err();
    assert_eq!(store.deal(second.deal_id).await.unwrap(), None);
    assert_eq!(store.deal(first.deal_id).await.unwrap(), None);
}

async fn one_that_fails_takes_no_other_with_it(place: Place) {
    let store = &place.store;
    let contested = record(1);
    let bound = outcome(&contested, Binding::Bound);
    save(store, vec![Entry::Outcome(Box::new(bound), NOW)])
        .await
        .unwrap();
    let before = store.commits();
    let mut asked = Vec::new();
    for number in 1..=200 {
        let mut changes = vec![change(&record(number))];
        if number % 50 == 0 {
            let aborted = outcome(&contested, Binding::Aborted);
            changes.push(Entry::Outcome(Box::new(aborted), NOW));
        }
        asked.push((number, store.ask(Entries(changes)).await));
    }
    for (number, asked) in asked {
        let fails = number % 50 == 0;
        assert_eq!(asked.written().await.is_err(), fails, "{number}");
        let kept = store.deal(record(number).deal_id).await.unwrap();
        assert_eq!(kept.is_none(), fails, "{number}");
    }
    assert!(store.commits() > before);
}

async fn what_was_asked_for_is_written_before_it_closes(place: Place) {
    // Made before, since signing takes longer than a commit.
    let writes: Vec<_> = (1..=250)
        .map(|number| Entries(vec![change(&record(number))]))
        .collect();
    let mut asked = Vec::new();
    let before = place.store.commits();
    for entries in writes {
        asked.push(place.store.ask(entries).await);
    }
    place.store.close().await;
    for asked in asked {
        asked.written().await.unwrap();
    }
    let commits = place.store.commits() - before;
    assert!(commits < 125, "{commits} commits for 250 writes");
    let late = save(&place.store, vec![change(&record(251))]).await;
    assert!(matches!(late, Err(StoreError::Closed(_))));
    let again = place.reopened().await;
    for number in 1..=250 {
        assert!(again.deal(record(number).deal_id).await.unwrap().is_some());
    }
    again.close().await;
}
