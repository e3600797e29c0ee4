#![allow(clippy::unwrap_used)]

use ipsx_metering::{B256, DealId, OfferId};

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_795_183_200);
const DAY: u64 = 86_400;
const RULES: ProofRules = ProofRules {
    required: true,
    validity: DAY,
};

fn at(last: u8) -> Placement {
    Placement::at([192, 0, 2, last].into())
}

/// What a probe of a lease of this address saw.
fn sighting(sold: u8, seen: u8, now: UnixSeconds) -> Sighting {
    Sighting::new(
        now,
        [192, 0, 2, sold].into(),
        at(seen),
        &at(sold),
        Timed::default(),
    )
}

/// What is sold as this prefix by an agent that is seen at its first address.
fn sold(prefix: &str) -> Subject {
    let prefix: IpNet = prefix.parse().unwrap();
    Subject {
        provider: Address::repeat_byte(1),
        address: prefix.hosts().next().unwrap(),
        prefix,
    }
}

fn one() -> Subject {
    sold("192.0.2.1/32")
}

fn report(payer: u8, now: UnixSeconds) -> Report {
    Report {
        deal: DealId(B256::repeat_byte(payer)),
        payer: Address::repeat_byte(payer),
        at: now,
    }
}

/// A proof of one address that was proven at `NOW`.
fn proven() -> Proof {
    let mut proof = Proof::new(NOW);
    proof.seen(sighting(1, 1, NOW), &one(), &RULES, NOW, 7);
    assert!(proof.is_proven(NOW));
    proof
}

#[test]
fn a_proof_counts_for_its_time_and_is_renewed_within_it_at_random() {
    let mut times = std::collections::BTreeSet::new();
    for draw in 0..1_000u64 {
        let mut proof = Proof::new(NOW);
        assert!(!proof.is_proven(NOW));
        assert_eq!(proof.next, NOW, "a new address is looked at at once");
        proof.seen(sighting(1, 1, NOW), &one(), &RULES, NOW, draw * 7_919_777);
        assert!(proof.is_proven(NOW.after(DAY)) && !proof.is_proven(NOW.after(DAY + 1)));
        let wait = proof.next.since(NOW);
        assert!((DAY / 4..=DAY * 3 / 4).contains(&wait), "{wait}");
        times.insert(wait);
    }
    assert!(times.len() > 900, "{}", times.len());
}

#[test]
fn one_probe_that_disagrees_is_enough_and_one_that_agrees_is_not() {
    let mut proof = proven();
    let now = NOW.after(3_600);
    proof.seen(sighting(1, 9, now), &one(), &RULES, now, 7);
    assert!(!proof.is_proven(now));
    assert_eq!(
        proof.sightings.last().unwrap().disagreement,
        Some(Disagreement::Address)
    );
    let first = proof.next.since(now);
    proof.seen(sighting(1, 1, now), &one(), &RULES, now, 7);
    assert!(!proof.is_proven(now), "it has to make amends");
    proof.seen(sighting(1, 9, now), &one(), &RULES, now, 7);
    assert_eq!(
        proof.standing,
        Standing::Failing {
            disagreed: 2,
            agreed: 0
        }
    );
    assert!(proof.next.since(now) > first, "probes cost money");
    for _ in 0..AMENDS {
        proof.seen(sighting(1, 1, now), &one(), &RULES, now, 7);
    }
    assert!(proof.is_proven(now));
}

#[test]
fn probes_without_a_lease_say_nothing() {
    let mut proof = proven();
    let mut now = NOW;
    for _ in 0..64 {
        now = proof.next.max(now);
        proof.missed(now, 3);
        assert!(proof.next > now);
        assert!(proof.next.since(now) < 2 * LONGEST_MISSED);
    }
    assert!(!proof.is_proven(now), "its time is over");
    assert!(proof.lapse(now) && !proof.lapse(now));
    assert_eq!(proof.standing, Standing::Unproven);
}

#[test]
fn silence_ends_a_proof_unless_the_prober_hears_nobody() {
    for others in [false, true] {
        let mut proof = proven();
        let mut now = NOW.after(100);
        for probe in 1..=SILENT {
            assert!(proof.is_proven(now), "{probe}");
            proof.silent(|since| others && since == NOW.after(100), now, 3);
            now = proof.next;
        }
        assert_eq!(proof.is_proven(now), !others);
        let unanswered = SILENT;
        let withheld = others.then_some(Withheld::Unproven { unanswered });
        assert_eq!(proof.withheld(&RULES, now), withheld);
        proof.seen(sighting(1, 1, now), &one(), &RULES, now, 7);
        assert!(proof.is_proven(now), "one that answers is enough");
        assert_eq!(proof.silence, None);
    }
}

#[test]
fn where_proofs_are_optional_only_a_probe_that_disagrees_takes_an_offer_off() {
    let rules = ProofRules {
        required: false,
        validity: DAY,
    };
    let mut proof = Proof::new(NOW);
    assert_eq!(proof.withheld(&rules, NOW), None);
    let unproven = Withheld::Unproven { unanswered: 0 };
    assert_eq!(proof.withheld(&RULES, NOW), Some(unproven));
    for payer in 1..=3 {
        proof.reported(report(payer, NOW), 5);
    }
    assert_eq!(proof.withheld(&rules, NOW), None);
    assert_eq!(proof.withheld(&RULES, NOW), Some(Withheld::Doubted));
    proof.seen(sighting(1, 9, NOW), &one(), &rules, NOW, 7);
    let wrong = Withheld::Disagrees {
        what: Disagreement::Address,
        seen: [192, 0, 2, 9].into(),
    };
    assert_eq!(proof.withheld(&rules, NOW), Some(wrong));
    for _ in 0..AMENDS {
        proof.seen(sighting(1, 1, NOW), &one(), &rules, NOW, 7);
    }
    assert_eq!(proof.withheld(&rules, NOW), None);
}

#[test]
fn times_of_a_clock_that_was_ahead_count_no_longer_than_others() {
    let year = NOW.after(365 * DAY);
    let mut ahead = Proof::new(year);
    ahead.seen(sighting(1, 1, year), &one(), &RULES, year, 7);
    let proofs = Proofs::restore(RULES, B256::ZERO, [(one(), ahead)], NOW);
    let proof = proofs.get(&one()).unwrap();
    assert!(proof.is_proven(NOW.after(DAY)) && !proof.is_proven(NOW.after(DAY + 1)));
    assert!(proof.next <= NOW.after(DAY) && proof.at <= NOW);
}

#[test]
fn place_and_type_are_compared_like_the_address() {
    let offered = Placement {
        country: "FR".parse().ok(),
        asn: Some(64_500),
        ..at(1)
    };
    let judge =
        |seen| Sighting::new(NOW, offered.address, seen, &offered, Timed::default()).disagreement;
    assert_eq!(judge(offered.clone()), None);
    let seen = Placement {
        country: "DE".parse().ok(),
        ..offered.clone()
    };
    assert_eq!(judge(seen), Some(Disagreement::Country));
    let seen = Placement {
        asn: None,
        ..offered.clone()
    };
    assert_eq!(judge(seen), Some(Disagreement::Asn));
    let seen = Placement {
        address_type: Some(crate::place::AddressType::Hosting),
        ..offered.clone()
    };
    assert_eq!(judge(seen), Some(Disagreement::AddressType));
}

#[test]
fn a_range_is_sold_once_several_of_its_addresses_were_seen() {
    let range = sold("192.0.2.0/29");
    let mut proof = Proof::new(NOW);
    for (address, enough) in [(1, false), (2, false), (2, false), (3, true)] {
        let seen = sighting(address, address, NOW);
        proof.seen(seen, &range, &RULES, NOW, 7);
        assert_eq!(proof.is_proven(NOW), enough, "{address}");
    }
    // One that is elsewhere takes all of them off, and they are looked at again.
    proof.seen(sighting(4, 99, NOW), &range, &RULES, NOW, 7);
    for (address, enough) in [(4, false), (5, false), (6, true)] {
        assert!(!proof.is_proven(NOW));
        let seen = sighting(address, address, NOW);
        proof.seen(seen, &range, &RULES, NOW, 7);
        assert_eq!(proof.is_proven(NOW), enough, "{address}");
    }
}

#[test]
fn the_larger_a_range_the_more_of_it_is_looked_at() {
    for (prefix, samples) in [
        ("192.0.2.7/32", 1),
        ("192.0.2.0/31", 2),
        ("192.0.2.0/30", 2),
        ("192.0.2.0/29", 3),
        ("192.0.2.0/28", 4),
        ("192.0.2.0/24", 8),
        ("2001:db8::/127", 2),
        ("2001:db8::/64", 8),
        ("2001:db8::/48", 8),
    ] {
        assert_eq!(sold(prefix).samples(), samples, "{prefix}");
    }
}

#[test]
fn reports_bring_the_probe_forward_and_judge_nothing() {
    let mut proof = proven();
    let now = NOW.after(3_600);
    assert!(proof.reported(report(1, now), 5));
    assert!(!proof.reported(report(1, now), 5), "a payer counts once");
    assert!(proof.is_proven(now));
    assert!(proof.next.since(now) <= 2 * HEED);
    proof.reported(report(2, now), 5);
    assert!(proof.is_proven(now));
    proof.reported(report(3, now), 5);
    assert!(
        !proof.is_proven(now),
        "off the market until somebody looked"
    );
    proof.seen(sighting(1, 1, now), &one(), &RULES, now, 5);
    assert!(proof.is_proven(now), "and slander has changed nothing");
    assert_eq!(proof.reports, []);
}

#[test]
fn some_leases_are_followed_by_a_probe() {
    let followed: Vec<_> = (0..1_600).filter(|draw| is_followed(*draw)).collect();
    assert_eq!(followed.len(), 100);
    for draw in followed {
        let mut proof = proven();
        assert!(proof.probe_soon(NOW, draw));
        assert!(proof.next.since(NOW) < HEED);
        assert!(!proof.probe_soon(proof.next, draw), "not later");
    }
}

#[test]
fn what_is_measured_moves_slowly() {
    let mut proof = Proof::new(NOW);
    let timed = |latency_ms, mbit_up, mbit_down| Timed {
        latency_ms,
        mbit_up,
        mbit_down,
    };
    proof.measure(&timed(Some(100), None, Some(80)));
    assert_eq!(proof.measured.latency_ms, Some(100));
    proof.measure(&timed(Some(20), Some(u32::MAX), None));
    proof.measure(&timed(Some(u16::MAX), Some(u32::MAX), None));
    assert_eq!(proof.measured.latency_ms, Some(16_444));
    assert_eq!(proof.measured.mbit_up, Some(u32::MAX));
    assert_eq!(proof.measured.mbit_down, Some(80));
    // A lease that came about says nothing of who had to send first.
    assert_eq!(proof.measured.reachability, None);
}

#[test]
fn a_subject_is_probed_by_one_at_a_time_and_again_when_that_came_to_nothing() {
    let subject = |provider| Subject {
        provider: Address::repeat_byte(provider),
        ..one()
    };
    let offer = OfferId(B256::repeat_byte(1));
    let mut proofs = Proofs::restore(RULES, B256::ZERO, [], NOW);
    proofs.offered(subject(1), NOW);
    proofs.offered(subject(2), NOW);
    // The second has gone.
    let offered = |of: &Subject| match *of == subject(1) {
        true => Offered::Free(offer),
        false => Offered::Gone,
    };
    let taken = proofs.take_due(NOW, offered);
    assert_eq!(taken, Some((subject(1), offer)));
    let task = Task {
        subject: subject(1),
        offer,
        nonce: B256::ZERO,
        until: NOW.after(PATIENCE),
        sold: None,
    };
    proofs.begin(B256::ZERO, task);
    proofs.offered(subject(1), NOW);
    assert_eq!(proofs.take_due(NOW, offered), None);
    let later = NOW.after(PATIENCE + 1);
    proofs.give_up(later);
    assert_eq!(proofs.take_due(later, offered), Some((subject(1), offer)));
    // What is for sale goes first, however long the others have waited.
    let mut for_sale = proven();
    for_sale.next = later;
    let mut mixed = Proofs::restore(RULES, B256::ZERO, [(subject(3), for_sale)], NOW);
    mixed.offered(subject(1), NOW);
    let all = |_: &Subject| Offered::Free(offer);
    assert_eq!(mixed.take_due(later, all), Some((subject(3), offer)));
    assert_eq!(mixed.take_due(later, all), Some((subject(1), offer)));
    // Back again: it waits for its probe since before.
    proofs.offered(subject(2), later);
    assert_eq!(proofs.take_due(later, all), Some((subject(2), offer)));
}

#[test]
fn what_is_let_is_looked_at_again_a_minute_later_and_holds_up_nobody() {
    let other = Subject {
        provider: Address::repeat_byte(2),
        ..one()
    };
    let mut proofs = Proofs::restore(RULES, B256::ZERO, [], NOW);
    proofs.offered(one(), NOW);
    proofs.offered(other, NOW);
    let let_out = |of: &Subject| match *of == one() {
        true => Offered::Busy,
        false => Offered::Free(()),
    };
    assert_eq!(proofs.take_due(NOW, let_out), Some((other, ())));
    let all = |_: &Subject| Offered::Free(());
    assert_eq!(proofs.take_due(NOW.after(59), all), None);
    assert_eq!(proofs.take_due(NOW.after(60), all), Some((one(), ())));
}

#[test]
fn whether_a_prober_hears_anybody_is_known_by_the_last_two() {
    let mut proofs = Proofs::restore(RULES, B256::ZERO, [], NOW);
    let [one, other] = [1, 2].map(Address::repeat_byte);
    assert!(!proofs.answers().of_others(one, NOW));
    proofs.answered(one, NOW);
    proofs.answered(one, NOW.after(10));
    assert!(!proofs.answers().of_others(one, NOW));
    assert!(proofs.answers().of_others(other, NOW.after(10)));
    proofs.answered(other, NOW.after(20));
    proofs.answered(other, NOW.after(30));
    assert!(proofs.answers().of_others(one, NOW.after(30)));
    assert!(proofs.answers().of_others(other, NOW.after(10)));
    assert!(!proofs.answers().of_others(other, NOW.after(11)));
}

#[test]
fn nobody_can_tell_from_a_lease_whether_a_probe_follows() {
    let salt = B256::repeat_byte(7);
    let draw = |secret| Proofs::restore(RULES, B256::repeat_byte(secret), [], NOW).draw(&salt);
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1), draw(1));
}
