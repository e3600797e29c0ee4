#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::{Epoch, Instance, Lost, Member, Millis, Seen, ShardId, ShardRow, Timing, Wish};
use crate::place::Country;
use crate::request::Filter;
use ipsx_metering::Address;

fn name(text: &str) -> Instance {
    text.parse().unwrap()
}

fn country(text: &str) -> Country {
    text.parse().unwrap()
}

fn seen(live: &[&str], shards: &[(u8, &str, u64)]) -> Seen {
    let row = |(shard, owner, epoch): &(u8, &str, u64)| ShardRow {
        shard: ShardId::from(*shard),
        owner: Some(name(owner)),
        epoch: Epoch(*epoch),
    };
    Seen {
        live: live.iter().map(|text| name(text)).collect(),
        shards: shards.iter().map(row).collect(),
    }
}

fn wallet(number: u8) -> Address {
    Address::repeat_byte(number)
}

#[test]
fn the_shards_of_deals_are_on_disk_and_never_change() {
    let of =
        |c, wallets: [u8; 4]| wallets.map(|n| ShardId::new(Some(country(c)), wallet(n)).number());
    assert_eq!(of("FR", [1, 2, 6, 8]), [60, 61, 62, 63]);
    assert_eq!(of("US", [1, 2, 6, 8]), [28, 29, 30, 31]);
    assert_eq!(ShardId::new(None, wallet(1)).number(), 56);
}

#[test]
fn countries_and_providers_are_spread_over_the_shards() {
    let letters = || (b'A'..=b'Z').map(char::from);
    let all = letters().flat_map(|a| letters().map(move |b| country(&format!("{a}{b}"))));
    let mut counts = [0; super::SHARDS];
    for country in all {
        for provider in 0..64 {
            let shard = ShardId::new(Some(country), wallet(provider));
            counts[usize::from(shard.number())] += 1;
        }
    }
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(
        *least > 0 && *most < 4 * 26 * 26 * 64 / super::SHARDS,
        "{counts:?}"
    );
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
    let shards = |countries: &[&str]| -> BTreeSet<_> {
        let wallets = |c| (0..64).map(move |n| ShardId::new(Some(country(c)), wallet(n)));
        countries.iter().flat_map(|c| wallets(c)).collect()
    };
    assert_eq!(of(&["FR"], &[]), shards(&["FR"]));
    assert_eq!(shards(&["FR"]).len(), 4);
    assert_eq!(of(&["FR", "DE"], &[]), shards(&["FR", "DE"]));
    assert_eq!(of(&[], &["FR-IDF", "US-CA"]), shards(&["FR", "US"]));
    assert_eq!(of(&["FR", "DE"], &["DE-BE"]), shards(&["DE"]));
    // Nothing is in both: one country's owners are enough to say so.
    assert_eq!(of(&["FR"], &["DE-BE"]), shards(&["FR"]));
    assert_eq!(of(&[], &[]).len(), super::SHARDS);
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
    assert_eq!(turn.wishes.len(), 256);
    for wish in turn.wishes {
        let Wish::Claim { shard, after } = wish else {
            panic!("{wish:?}")
        };
        assert_eq!(after, Epoch(0));
        member.handle_claimed(shard, Epoch(1));
    }
    let owned: Vec<_> = (0..=255).map(|n| (n, "a", 1)).collect();
    let turn = member.handle_beat(Millis(500), seen(&["a"], &owned));
    assert_eq!((turn.wishes, turn.lost, turn.moved), Default::default());
    let shard = ShardId::from(3);
    assert_eq!(member.holds(shard, Millis(2_499)), Some(Epoch(1)));
    assert_eq!(member.holds(shard, Millis(2_500)), None);
    assert_eq!(member.handle_timeout(Millis(2_500)).len(), 256);
}

#[test]
fn an_answer_from_before_a_claim_takes_nothing_away() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::from(3);
    member.handle_claimed(shard, Epoch(1));
    let turn = member.handle_beat(Millis(1), seen(&["a"], &[]));
    assert_eq!(turn.lost, []);
    assert_eq!(member.holds(shard, Millis(2)), Some(Epoch(1)));
    assert_eq!(member.owner(shard), Some((&name("a"), Epoch(1))));
}

#[test]
fn a_shard_under_a_later_epoch_is_lost() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::from(3);
    member.handle_claimed(shard, Epoch(1));
    let turn = member.handle_beat(Millis(500), seen(&["a", "b"], &[(3, "b", 2)]));
    assert_eq!(turn.lost, [Lost(shard)]);
    assert_eq!(turn.moved, [shard]);
    assert_eq!(member.owner(shard), Some((&name("b"), Epoch(2))));
}

#[test]
fn a_newcomer_gets_its_share_once_it_has_shown_to_last() {
    let mut member = Member::new(name("a"), Timing::default());
    let owned: Vec<_> = (0..=255).map(|n| (n, "a", 1)).collect();
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
    assert!((96..=160).contains(&released[4]), "{released:?}");
}

#[test]
fn what_was_let_go_in_a_cut_is_given_to_whose_it_should_be() {
    let mut member = Member::new(name("a"), Timing::default());
    let owned: Vec<_> = (0..=255).map(|n| (n, "a", 1)).collect();
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
    assert_eq!(claims + releases, 256);
    assert!(claims > 0 && releases > 0);
}

#[test]
fn late_answers_take_no_shard_back_to_an_earlier_epoch() {
    let mut member = Member::new(name("a"), Timing::default());
    member.handle_beat(Millis(0), seen(&["a"], &[]));
    let shard = ShardId::from(3);
    assert!(member.handle_claimed(shard, Epoch(2)));
    assert!(!member.handle_claimed(shard, Epoch(1)));
    assert_eq!(member.handle_fenced(shard, Epoch(1)), None);
    assert_eq!(member.holds(shard, Millis(1)), Some(Epoch(2)));
    assert_eq!(member.handle_fenced(shard, Epoch(2)), Some(Lost(shard)));
    assert_eq!(member.holds(shard, Millis(1)), None);
}
