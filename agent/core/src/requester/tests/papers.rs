//! What is checked before anything is signed or sent.

use ipsx_market::avoid::Distinct;
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::http::BoundDeal;
use ipsx_market::messages::Ready;
use ipsx_metering::{ChannelId, Reservation, Voucher};

use super::*;

#[test]
fn an_honest_proposal_is_signed() {
    let request = request(60);
    assert_eq!(
        check_proposal(&request, &network(), &proposed(deal(&request)), NOW),
        Ok(())
    );
}

/// The provider colludes: it signs whatever the broker makes up.
fn refusal(change: impl FnOnce(&mut Deal)) -> ProposalFault {
    let request = request(60);
    let mut deal = deal(&request);
    change(&mut deal);
    check_proposal(&request, &network(), &proposed(deal), NOW).unwrap_err()
}

#[test]
fn no_field_that_the_request_fixes_may_change() {
    type Change = (&'static str, fn(&mut Deal));
    let changes: [Change; 10] = [
        ("network", |d| d.network.0 = B256::ZERO),
        ("request", |d| d.request.0 = B256::ZERO),
        ("requester", |d| d.requester = Address::repeat_byte(1)),
        ("payer", |d| d.payer = Address::repeat_byte(1)),
        ("voucher key", |d| d.payer_signer = Address::repeat_byte(1)),
        ("channel", |d| d.channel_salt = B256::repeat_byte(1)),
        ("tunnel key", |d| {
            d.requester_tunnel_key.0 = B256::repeat_byte(1)
        }),
        ("budget", |d| d.budget = Amount(d.budget.0 + 1)),
        ("duration", |d| d.seconds += 1),
        ("byte counter", |d| {
            d.counter_source = CounterSource::Provider
        }),
    ];
    for (field, change) in changes {
        assert_eq!(refusal(change), ProposalFault::Changed { field });
    }
}

#[test]
fn no_higher_price_is_signed() {
    assert!(matches!(
        refusal(|d| d.prices.per_second.0.0 += 1),
        ProposalFault::Price { .. }
    ));
    assert!(matches!(
        refusal(|d| d.prices.per_gib.0.0 += 1),
        ProposalFault::Price { .. }
    ));
    let request = request(60);
    let mut cheaper = deal(&request);
    cheaper.prices.per_second.0.0 -= 1;
    assert_eq!(
        check_proposal(&request, &network(), &proposed(cheaper), NOW),
        Ok(())
    );
}

#[test]
fn keys_times_and_signatures_must_make_sense() {
    assert!(matches!(
        refusal(|d| d.payout = Address::ZERO),
        ProposalFault::Key { .. }
    ));
    assert!(matches!(
        refusal(|d| d.payout = d.payer),
        ProposalFault::Key { .. }
    ));
    assert!(matches!(
        refusal(|d| d.agent_key = d.payer_signer),
        ProposalFault::Key { .. }
    ));
    assert!(matches!(
        refusal(|d| d.provider_tunnel_key = d.requester_tunnel_key),
        ProposalFault::Key { .. }
    ));
    assert!(matches!(
        refusal(|d| d.sign_by = UnixSeconds(NOW.0 - 1)),
        ProposalFault::Time { .. }
    ));
    assert!(matches!(
        refusal(|d| d.start_by = NOW.after(49 * 3_600)),
        ProposalFault::Time { .. }
    ));
    let request = request(60);
    let mut unsigned = proposed(deal(&request));
    unsigned.provider_signature =
        requester().sign_hash(unsigned.deal.signing_hash(&network().domain));
    assert!(matches!(
        check_proposal(&request, &network(), &unsigned, NOW),
        Err(ProposalFault::Signature(_))
    ));
    let mut renamed = proposed(deal(&request));
    renamed.deal_id.0 = B256::ZERO;
    assert_eq!(
        check_proposal(&request, &network(), &renamed, NOW),
        Err(ProposalFault::Changed { field: "id" })
    );
}

#[test]
fn the_place_must_be_the_one_that_was_asked_for() {
    let refused = |change: fn(&mut ProposedDeal)| {
        let request = request(60);
        let mut proposed = proposed(deal(&request));
        change(&mut proposed);
        matches!(
            check_proposal(&request, &network(), &proposed, NOW),
            Err(ProposalFault::Place { .. })
        )
    };
    assert!(refused(|p| p.placement.country = "DE".parse().ok()));
    assert!(refused(|p| p.placement.country = None));
    assert!(refused(|p| p.placement.address = OTHER));
}

fn bound(deal: &Deal, outcome: Binding, by: &SecretKey) -> BoundDeal {
    let domain = network().domain;
    let reservation = Reservation {
        channel_id: deal.channel().id(),
        capacity: Amount(100_000),
        valid_until: NOW.after(3_600),
    };
    BoundDeal {
        outcome: Signed::sign(
            Outcome {
                deal_id: deal.id(),
                outcome,
            },
            &domain,
            by,
        ),
        reservation: Some(Signed::sign(reservation, &domain, by)),
    }
}

#[test]
fn only_the_operators_word_binds() {
    let deal = deal(&request(60));
    assert!(
        check_bound(
            &deal,
            &network(),
            &bound(&deal, Binding::Bound, &operator())
        )
        .is_ok()
    );
    let aborted = bound(&deal, Binding::Aborted, &operator());
    assert_eq!(
        check_bound(&deal, &network(), &aborted),
        Err(BindingFault::Aborted)
    );
    let forged = bound(&deal, Binding::Bound, &provider());
    assert!(matches!(
        check_bound(&deal, &network(), &forged),
        Err(BindingFault::Outcome(_))
    ));
    let mut other = deal.clone();
    other.salt = B256::ZERO;
    let word = bound(&other, Binding::Bound, &operator());
    assert_eq!(
        check_bound(&deal, &network(), &word),
        Err(BindingFault::OtherDeal)
    );
    let mut unfunded = bound(&deal, Binding::Bound, &operator());
    unfunded.reservation = None;
    assert_eq!(
        check_bound(&deal, &network(), &unfunded),
        Err(BindingFault::NoReservation)
    );
}

#[test]
fn a_ready_lease_shows_only_vouchers_that_this_side_signed() {
    let deal = deal(&request(60));
    let voucher = |channel: ChannelId, by: &SecretKey| {
        let voucher = Voucher {
            channel_id: channel,
            cumulative: Amount(70),
            receipt_hash: B256::ZERO,
        };
        Some(Signed::sign(voucher, &network().domain, by))
    };
    let mut ready = Ready {
        endpoint: ([127, 0, 1, 1], 51_820).into(),
        address_v4: [10, 64, 0, 2].into(),
        address_v6: None,
        gateway: [10, 64, 0, 1].into(),
        control_port: 9,
        mtu: 1_420,
        latest_voucher: None,
        next_seq: 0,
    };
    assert_eq!(check_ready(&deal, &network(), &ready), Ok(Amount::ZERO));
    ready.latest_voucher = voucher(deal.channel().id(), &session());
    assert_eq!(check_ready(&deal, &network(), &ready), Ok(Amount(70)));
    ready.latest_voucher = voucher(deal.channel().id(), &agent());
    assert!(matches!(
        check_ready(&deal, &network(), &ready),
        Err(ReadyFault::Voucher(_))
    ));
    ready.latest_voucher = voucher(ChannelId(B256::ZERO), &session());
    assert_eq!(
        check_ready(&deal, &network(), &ready),
        Err(ReadyFault::OtherChannel)
    );
    ready.latest_voucher = None;
    ready.endpoint.set_port(0);
    assert!(matches!(
        check_ready(&deal, &network(), &ready),
        Err(ReadyFault::Parameters(_))
    ));
    ready.endpoint.set_port(1);
    for (v6, good) in [
        ("fd49:5053:5800::2", true),
        ("2001:db8::2", false),
        ("fe80::2", false),
    ] {
        ready.address_v6 = Some(v6.parse().unwrap());
        assert_eq!(check_ready(&deal, &network(), &ready).is_ok(), good, "{v6}");
    }
    ready.address_v6 = None;
    ready.gateway = [8, 8, 8, 8].into();
    assert!(matches!(
        check_ready(&deal, &network(), &ready),
        Err(ReadyFault::Parameters(_))
    ));
}

#[test]
fn wishes_that_nobody_can_fill_are_refused_before_they_are_signed() {
    let identity = Identity {
        requester: requester().address(),
        payer: requester().address(),
        payer_signer: session().address(),
        channel_salt: B256::ZERO,
        tunnel_key: TunnelKey(B256::repeat_byte(7)),
    };
    let ask = |wishes: Wishes| wishes.request(network().id, &identity, 1, NOW);
    assert_eq!(ask(wishes(4)), Err(WishError::Duration(4)));
    assert_eq!(
        ask(Wishes {
            budget: Amount::ZERO,
            ..wishes(60)
        }),
        Err(WishError::NoBudget)
    );
}

#[test]
fn leases_of_a_bundle_are_all_there_and_differ_as_asked_for() {
    let mut request = request(60);
    request.bundle = Bundle {
        legs: vec![Leg {
            tunnel_key: TunnelKey(B256::repeat_byte(17)),
            channel_salt: B256::repeat_byte(1),
        }],
        distinct: Distinct::Prefix,
        all_or_nothing: true,
    };
    let leg = |number: u8, exit: &str| {
        let mut deal = deal(&request);
        let keys = request.leg(number).unwrap();
        (deal.leg, deal.exit_address) = (number, exit.parse().unwrap());
        deal.requester_tunnel_key = keys.tunnel_key;
        deal.channel_salt = keys.channel_salt;
        let mut one = proposed(deal);
        one.placement.address = one.deal.exit_address;
        one
    };
    let check = |legs: &[ProposedDeal]| check_bundle(&request, &network(), legs, NOW);
    let (first, second) = (leg(0, "203.0.113.5"), leg(1, "198.51.100.5"));
    assert_eq!(check(&[first.clone(), second.clone()]), Ok(()));
    let same_prefix = check(&[first.clone(), leg(1, "203.0.113.6")]);
    assert!(matches!(same_prefix, Err(ProposalFault::Place { .. })));
    let too_few = check(std::slice::from_ref(&first));
    let field = "number of leases";
    assert_eq!(too_few, Err(ProposalFault::Changed { field }));
    let swapped = check(&[second, first.clone()]);
    assert_eq!(swapped, Err(ProposalFault::Changed { field: "lease" }));
    let mut others_key = leg(1, "198.51.100.5");
    others_key.deal.requester_tunnel_key = request.tunnel_key;
    let others_key = proposed(others_key.deal);
    let refused = check(&[first, others_key]);
    let field = "tunnel key";
    assert_eq!(refused, Err(ProposalFault::Changed { field }));
}
