#![allow(clippy::unwrap_used)]

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
    Sighting::new(now, [192, 0, 2, sold].into(), at(seen), &at(sold))
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
fn probes_that_see_nothing_prove_nothing() {
    let mut proof = proven();
    let mut now = NOW;
    for _ in 0..16 {
        now = proof.next.max(now);
        proof.missed(now, 3);
        assert!(proof.next > now);
        assert!(proof.next.since(now) < 2 * LONGEST_RETRY);
    }
    assert!(!proof.is_proven(now), "its time is over");
    assert!(proof.lapse(now) && !proof.lapse(now));
    assert_eq!(proof.standing, Standing::Unproven);
}

#[test]
fn place_and_type_are_compared_like_the_address() {
    let offered = Placement {
        country: "FR".parse().ok(),
        asn: Some(64_500),
        ..at(1)
    };
    let judge = |seen| Sighting::new(NOW, offered.address, seen, &offered).disagreement;
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
    let mut proof = Proof::new(NOW);
    for (address, enough) in [(1, false), (2, false), (2, false), (3, true)] {
        proof.seen(
            sighting(address, address, NOW),
            &sold("192.0.2.0/24"),
            &RULES,
            NOW,
            7,
        );
        assert_eq!(proof.is_proven(NOW), enough, "{address}");
    }
    // One that is elsewhere takes all of them off.
    proof.seen(sighting(4, 99, NOW), &sold("192.0.2.0/24"), &RULES, NOW, 7);
    assert!(!proof.is_proven(NOW));
    let mut small = Proof::new(NOW);
    small.seen(sighting(0, 0, NOW), &sold("192.0.2.0/31"), &RULES, NOW, 7);
    assert!(!small.is_proven(NOW));
    small.seen(sighting(1, 1, NOW), &sold("192.0.2.0/31"), &RULES, NOW, 7);
    assert!(small.is_proven(NOW));
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
    let followed = (0..1_600).filter(|draw| {
        let mut proof = proven();
        let changed = proof.leased(NOW, *draw);
        assert_eq!(changed, proof.next.since(NOW) < HEED);
        changed
    });
    assert_eq!(followed.count(), 100);
}

#[test]
fn what_is_measured_moves_slowly() {
    let mut proof = Proof::new(NOW);
    proof.measure(Some(100), Some(80));
    assert_eq!(proof.measured.latency_ms, Some(100));
    proof.measure(Some(20), None);
    assert_eq!(proof.measured.latency_ms, Some(80));
    assert_eq!(proof.measured.mbit_down, Some(80));
    assert_eq!(proof.measured.reachability, Some(Reachability::Direct));
}

#[test]
fn a_subject_is_probed_by_one_at_a_time_and_again_when_that_came_to_nothing() {
    let subject = |provider| Subject {
        provider: Address::repeat_byte(provider),
        ..one()
    };
    let offer = OfferId(B256::repeat_byte(1));
    let mut proofs = Proofs::restore(RULES, []);
    proofs.offered(subject(1), NOW);
    proofs.offered(subject(2), NOW);
    // The second has gone.
    let offered = |of: &Subject| (*of == subject(1)).then_some(offer);
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
    let mut mixed = Proofs::restore(RULES, [(subject(3), for_sale)]);
    mixed.offered(subject(1), NOW);
    let all = |_: &Subject| Some(offer);
    assert_eq!(mixed.take_due(later, all), Some((subject(3), offer)));
    assert_eq!(mixed.take_due(later, all), Some((subject(1), offer)));
    // Back again: it waits for its probe since before.
    proofs.offered(subject(2), later);
    assert_eq!(proofs.take_due(later, all), Some((subject(2), offer)));
}
