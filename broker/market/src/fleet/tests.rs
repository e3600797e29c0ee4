#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::{Epoch, Instance, Lost, Member, Millis, Seen, ShardId, ShardRow, Timing, Wish};
use crate::place::Country;
use crate::request::Filter;

fn name(text: &str) -> Instance {
    text.parse().unwrap()
}

fn country(text: &str) -> Country {
    text.parse().unwrap()
}

fn seen(live: &[&str], shards: &[(u8, &str, u64)]) -> Seen {
    let row = |(shard, owner, epoch): &(u8, &str, u64)| ShardRow {
        shard: ShardId::new(*shard).unwrap(),
        owner: Some(name(owner)),
        epoch: Epoch(*epoch),
    };
    Seen {
        live: live.iter().map(|text| name(text)).collect(),
        shards: shards.iter().map(row).collect(),
    }
}

#[test]
fn the_shards_of_countries_are_on_disk_and_never_change() {
    let numbers = ["FR", "DE", "JP", "US", "GB", "BR", "IN", "NL"]
        .map(|c| ShardId::of_country(Some(country(c))).number());
    assert_eq!(numbers, [12, 3, 10, 14, 8, 4, 8, 6]);
}

#[test]
fn countries_are_spread_over_the_shards() {
    let letters = || (b'A'..=b'Z').map(char::from);
    let all = letters().flat_map(|a| letters().map(move |b| country(&format!("{a}{b}"))));
    let mut counts = [0; super::SHARDS as usize];
    for country in all {
        counts[usize::from(ShardId::of_country(Some(country)).number())] += 1;
    }
    assert!(counts.iter().all(|n| (25..=62).contains(n)), "{counts:?}");
}

#[test]
fn a_filter_names_the_shards_that_have_to_be_asked() {
    let of = |countries: &[&str], regions: &[&str]| {
        ShardId::of_filter(&Filter {
            countries: countries.iter().map(|c| country(c)).collect(),
            regions: regions.iter().map(|r| r.parse().unwrap()).collect(),
            ..Filter::default()
        })
    };
    let shard = |c: &str| ShardId::of_country(Some(country(c)));
    assert_eq!(of(&["FR"], &[]), BTreeSet::from([shard("FR")]));
    assert_eq!(
        of(&["FR", "DE"], &[]),
        BTreeSet::from([shard("FR"), shard("DE")])
    );
    assert_eq!(
        of(&[], &["FR-IDF", "US-CA"]),
        BTreeSet::from([shard("FR"), shard("US")])
    );
    assert_eq!(of(&["FR", "DE"], &["DE-BE"]), BTreeSet::from([shard("DE")]));
    // Nothing is in both: one owner is enough to say so.
    assert_eq!(of(&["FR"], &["DE-BE"]), BTreeSet::from([shard("FR")]));
    assert_eq!(of(&[], &[]).len(), usize::from(super::SHARDS));
}

#[test]
fn names_are_parts_of_subjects() {
    assert_eq!(name("paris-1_a").as_str(), "paris-1_a");
    for text in ["", "a.b", "a*", "a>", "a b", "Paris", &"a".repeat(65)] {
        assert!(text.parse::<Instance>().is_err(), "{text:?}");
    }
}

#[test]
fn a_broker_alone_claims_everything_once() {
    let mut member = Member::new(name("a"), Timing::default());
    let turn = member.handle_beat(Millis(0), seen(&["a"], &[]));
    assert_eq!(turn.wishes.len(), 16);
    for wish in turn.wishes {
        let Wish::Claim { shard, after } = wish else {
            panic!("{wish:?}")
        };
        assert_eq!(after, Epoch(0));
        member.handle_claimed(shard, Epoch(1));
    }
    let owned: Vec<_> = (0..16).map(|n| (n, "a", 1)).collect();
    let turn = member.handle_beat(Millis(500), seen(&["a"], &owned));
    assert_eq!((turn.wishes, turn.lost, turn.moved), Default::default());
    let shard = ShardId::new(3).unwrap();
    assert_eq!(member.holds(shard, Millis(2_499)), Some(Epoch(1)));
    assert_eq!(member.holds(shard, Millis(2_500)), None);
    assert_eq!(member.handle_timeout(Millis(2_500)).len(), 16);
}

#[test]
fn an_answer_from_before_a_claim_takes_nothing_away() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::new(3).unwrap();
    member.handle_claimed(shard, Epoch(1));
    let turn = member.handle_beat(Millis(1), seen(&["a"], &[]));
    assert_eq!(turn.lost, []);
    assert_eq!(member.holds(shard, Millis(2)), Some(Epoch(1)));
    assert_eq!(member.owner(shard), Some(&name("a")));
}

#[test]
fn a_shard_under_a_later_epoch_is_lost() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::new(3).unwrap();
    member.handle_claimed(shard, Epoch(1));
    let turn = member.handle_beat(Millis(500), seen(&["a", "b"], &[(3, "b", 2)]));
    assert_eq!(turn.lost, [Lost(shard)]);
    assert_eq!(turn.moved, [shard]);
    assert_eq!(member.owner(shard), Some(&name("b")));
}

#[test]
fn a_newcomer_gets_its_share_once_it_has_shown_to_last() {
    let mut member = Member::new(name("a"), Timing::default());
    let owned: Vec<_> = (0..16).map(|n| (n, "a", 1)).collect();
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    for shard in ShardId::all() {
        member.handle_claimed(shard, Epoch(1));
    }
    let mut released = Vec::new();
    for beat in 1..=10 {
        let turn = member.handle_beat(Millis(beat * 500), seen(&["a", "b"], &owned));
        let releases = turn
            .wishes
            .iter()
            .filter(|w| matches!(w, Wish::Release { .. }));
        released.push(releases.count());
    }
    assert_eq!(released[..4], [0; 4], "it may only have come by");
    assert!((4..=12).contains(&released[4]), "{released:?}");
}

#[test]
fn what_was_let_go_in_a_cut_is_given_to_whose_it_should_be() {
    let mut member = Member::new(name("a"), Timing::default());
    let owned: Vec<_> = (0..16).map(|n| (n, "a", 1)).collect();
    let turn = member.handle_beat(Millis(0), seen(&["a", "b"], &owned));
    let claims = turn
        .wishes
        .iter()
        .filter(|w| matches!(w, Wish::Claim { .. }));
    let releases = turn
        .wishes
        .iter()
        .filter(|w| matches!(w, Wish::Release { .. }));
    let (claims, releases) = (claims.count(), releases.count());
    assert_eq!(claims + releases, 16);
    assert!(claims > 0 && releases > 0);
}

#[test]
fn late_answers_take_no_shard_back_to_an_earlier_epoch() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::new(3).unwrap();
    assert!(member.handle_claimed(shard, Epoch(2)));
    assert!(!member.handle_claimed(shard, Epoch(1)));
    assert_eq!(member.handle_fenced(shard, Epoch(1)), None);
    assert_eq!(member.holds(shard, Millis(1)), Some(Epoch(2)));
    assert_eq!(member.handle_fenced(shard, Epoch(2)), Some(Lost(shard)));
    assert_eq!(member.holds(shard, Millis(1)), None);
}
