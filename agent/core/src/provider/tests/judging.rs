//! Which proposals are signed.

#![allow(clippy::unwrap_used)]

use ipsx_market::bundle::Leg;
use ipsx_market::messages::BrokerMessage;
use ipsx_market::offer::{Protocol, Tier};
use ipsx_market::request::{Request, SignedRequest, TunnelKey};
use ipsx_metering::{Address, Amount, B256, NetworkId, OfferId, PricePerSecond, UnixSeconds};

use super::fixture::*;
use super::world::World;
use crate::provider::Settings;

fn world(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.connect(&[]);
    world
}

fn reason(settings: Settings, request: Request) -> String {
    let mut world = world(settings);
    assert_eq!(world.propose(request), None);
    world.declined.pop().unwrap()
}

#[test]
fn a_fair_proposal_is_signed_as_it_is() {
    let mut world = world(settings());
    let deal = world.propose(request(60, 100_000)).unwrap();
    assert_eq!(
        deal.prices,
        terms().prices,
        "the offer's price, not the request's limit"
    );
    assert_eq!(deal.provider, wallet().address());
    assert_eq!(deal.policy_hash, settings().policy_hash);
    assert_eq!(deal.exit_address, EXIT);
}

#[test]
fn payout_addresses_are_fresh_for_each_payer_and_stay() {
    let mut world = world(settings());
    let first = world.propose(request(60, 100_000)).unwrap();
    let mut other = request(60, 100_000);
    (other.requester, other.payer) = (key(8).address(), key(8).address());
    other.tunnel_key.0 = B256::repeat_byte(0x34);
    let offer = world.offer.unwrap();
    let mut terms = proposal(other.clone(), offer, world.now);
    terms.request = SignedRequest::sign(other, &network().domain, &key(8), &payer_signer());
    world.provider.handle_broker_message(
        BrokerMessage::Propose {
            proposal: 2,
            terms: Box::new(terms),
        },
        world.now,
    );
    world.work();
    let second = world.accepted.last().unwrap().clone();
    assert_ne!(first.payout, second.payout);
    assert_ne!(first.agent_key, second.agent_key);
    let mut again = self::world(settings());
    assert_eq!(
        again.propose(request(60, 100_000)).unwrap().payout,
        first.payout
    );
}

#[test]
fn each_field_outside_the_offer_is_declined_with_its_reason() {
    type Change = fn(&mut Request);
    let cases: [(Change, &str); 15] = [
        (|r| r.network = NetworkId(B256::ZERO), "another network"),
        (|r| r.expires_at = MONDAY, "expired"),
        (|r| r.seconds = 4, "lease of 4 s"),
        (|r| r.seconds = 31 * 86_400 + 1, "is not offered"),
        (
            |r| r.max_prices.per_second = PricePerSecond(Amount(999)),
            "pays less",
        ),
        (
            |r| r.budget = Amount(4_999),
            "does not pay for the shortest",
        ),
        (|r| r.payer = Address::ZERO, "payer"),
        (|r| r.payer_signer = Address::ZERO, "voucher key"),
        (|r| r.tunnel_key.0 = B256::ZERO, "tunnel key"),
        (|r| r.tunnel_key.0 = B256::repeat_byte(0x77), "tunnel key"),
        (|r| r.filter.tier = Tier::Open, "tier"),
        (|r| r.filter.mbit_down = 101, "rate down"),
        (|r| r.filter.mbit_up = 21, "rate up"),
        (
            |r| r.filter.prefixes = vec!["192.0.2.0/24".parse().unwrap()],
            "prefix",
        ),
        (
            |r| r.filter.ip_version = ipsx_market::request::IpVersion::V6,
            "IP version",
        ),
    ];
    for (change, expected) in cases {
        let mut request = request(60, 100_000);
        change(&mut request);
        let reason = reason(settings(), request);
        assert!(reason.contains(expected), "{reason:?} for {expected:?}");
    }
}

#[test]
fn protocols_addresses_and_hours_are_those_of_the_offer() {
    let mut narrow = settings();
    narrow.terms.protocols = [Protocol::Wireguard].into_iter().collect();
    let mut wants = request(60, 100_000);
    wants.filter.protocols = [Protocol::Socks5].into_iter().collect();
    assert!(reason(narrow, wants).contains("protocols"));

    let mut elsewhere = settings();
    elsewhere.terms.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    assert!(reason(elsewhere, request(60, 100_000)).contains("not an address of this offer"));

    // MONDAY is midnight: only its first hour is for sale.
    let mut first_hour = settings();
    first_hour.terms.weekly_hours.0 = ipsx_metering::U256::from(1u8);
    assert!(
        world(first_hour.clone())
            .propose(request(3_600, 4_000_000))
            .is_some()
    );
    assert!(reason(first_hour.clone(), request(3_602, 4_000_000)).contains("hours"));
    assert!(reason(first_hour, request(86_400 * 8, u128::MAX)).contains("hours"));
}

#[test]
fn a_request_must_be_signed_by_its_requester() {
    let mut world = world(settings());
    let offer = world.offer.unwrap();
    let mut terms = proposal(request(60, 100_000), offer, world.now);
    let message = terms.request.message;
    terms.request = SignedRequest::sign(message, &network().domain, &key(9), &payer_signer());
    let message = BrokerMessage::Propose {
        proposal: 1,
        terms: Box::new(terms),
    };
    world.provider.handle_broker_message(message, world.now);
    world.work();
    assert!(world.declined[0].contains("not the requester's"));
}

#[test]
fn another_payer_needs_the_word_of_its_session_key() {
    let of_firm = |nonce| {
        let mut asked = request(60, 100_000);
        (asked.nonce, asked.payer) = (nonce, key(7).address());
        asked
    };
    let sign = |asked, by| SignedRequest::sign(asked, &network().domain, &requester(), &by);
    let mut lacking = sign(of_firm(1), payer_signer());
    lacking.payer_signature = None;
    let mut replayed = sign(of_firm(2), payer_signer());
    replayed.payer_signature = sign(of_firm(1), payer_signer()).payer_signature;
    let mut own_wallet = sign(of_firm(3), payer_signer());
    own_wallet.payer_signature = Some(own_wallet.signature);
    let cases = [
        (lacking, "lacks the signature"),
        (sign(of_firm(1), key(9)), "did not agree"),
        (replayed, "did not agree"),
        (own_wallet, "did not agree"),
    ];
    let mut world = world(settings());
    let offer = world.offer.unwrap();
    let propose = |world: &mut World, signed: SignedRequest| {
        let mut terms = proposal(signed.message.clone(), offer, world.now);
        terms.request = signed;
        let message = BrokerMessage::Propose {
            proposal: 1,
            terms: Box::new(terms),
        };
        world.provider.handle_broker_message(message, world.now);
        world.work();
    };
    for (signed, reason) in cases {
        propose(&mut world, signed);
        let said = world.declined.last().unwrap();
        assert!(said.contains(reason), "{said} instead of {reason}");
    }
    assert!(world.accepted.is_empty());
    propose(&mut world, sign(of_firm(4), payer_signer()));
    let deal = world.accepted.last().unwrap();
    assert_eq!(deal.payer, key(7).address());
    assert_eq!(deal.requester, requester().address());
}

#[test]
fn unknown_offers_and_senseless_deadlines_are_declined() {
    let base = |world: &World| proposal(request(60, 100_000), world.offer.unwrap(), world.now);
    type Change = fn(&mut ipsx_market::deal::Proposal);
    let cases: [(Change, &str); 6] = [
        (|p| p.offer = OfferId(B256::ZERO), "not this provider's"),
        (|p| p.sign_by = UnixSeconds(MONDAY.0 - 1), "deadlines"),
        (|p| p.start_by = p.sign_by, ""),
        (|p| p.start_by = UnixSeconds(p.sign_by.0 - 1), "deadlines"),
        (|p| p.start_by = MONDAY.after(48 * 3_600 + 1), "deadlines"),
        (
            |p| {
                p.sign_by = MONDAY.after(3_601);
                p.start_by = MONDAY.after(4_000)
            },
            "deadlines",
        ),
    ];
    for (change, expected) in cases {
        let mut world = world(settings());
        let mut terms = base(&world);
        change(&mut terms);
        let message = BrokerMessage::Propose {
            proposal: 1,
            terms: Box::new(terms),
        };
        world.provider.handle_broker_message(message, world.now);
        world.work();
        match expected {
            "" => assert_eq!(world.declined, [""; 0]),
            expected => assert!(world.declined[0].contains(expected), "{:?}", world.declined),
        }
    }
}

#[test]
fn an_offer_that_has_expired_is_not_stood_by() {
    let mut world = world(settings());
    let old = world.offer;
    world.now = world.now.after(std::time::Duration::from_secs(7 * 3_600));
    assert_eq!(world.offer, old);
    assert_eq!(world.propose(request(60, 100_000)), None);
    assert!(world.declined[0].contains("expired"));
}

#[test]
fn capacity_is_counted() {
    let mut settings = settings();
    settings.terms.capacity.leases = 2;
    let mut world = world(settings);
    let numbered = |n: u8| {
        let mut request = request(60, 100_000);
        request.nonce = u64::from(n);
        request.channel_salt = B256::repeat_byte(n);
        request.tunnel_key.0 = B256::repeat_byte(n);
        request
    };
    let first = world.lease(numbered(1));
    world.run(std::time::Duration::from_secs(1));
    assert!(
        world.propose(numbered(1)).is_none(),
        "the same request again"
    );
    let mut same_key = numbered(9);
    same_key.tunnel_key = numbered(1).tunnel_key;
    assert!(world.propose(same_key).is_none(), "a tunnel key in use");
    let mut same_channel = numbered(9);
    same_channel.channel_salt = numbered(1).channel_salt;
    assert!(world.propose(same_channel).is_none(), "a channel in use");
    assert!(world.propose(numbered(2)).is_some());
    assert!(world.propose(numbered(3)).is_none());
    assert!(world.declined.last().unwrap().contains("leases are taken"));
    world.run_to_end(&first, std::time::Duration::from_secs(120));
    assert!(
        world.propose(numbered(4)).is_some(),
        "freed by the end of the first"
    );
}

#[test]
fn rates_are_counted_and_unstarted_deals_limited() {
    let numbered = |n: u8, mbit_down| {
        let mut request = request(60, 100_000);
        request.nonce = u64::from(n);
        request.channel_salt = B256::repeat_byte(n);
        request.tunnel_key.0 = B256::repeat_byte(n);
        request.filter.mbit_down = mbit_down;
        request
    };
    let mut world = world(settings());
    assert!(world.propose(numbered(1, 60)).is_some());
    assert!(world.propose(numbered(2, 60)).is_none());
    assert!(world.declined.last().unwrap().contains("rate"));
    assert!(world.propose(numbered(2, 40)).is_some());
    assert!(world.propose(numbered(3, 0)).is_none());
    assert!(
        world
            .declined
            .last()
            .unwrap()
            .contains("wait to be started")
    );
}

#[test]
fn each_lease_of_a_request_is_signed_once() {
    let mut several = request(60, 100_000);
    several.bundle.legs = vec![Leg {
        tunnel_key: TunnelKey(B256::repeat_byte(0x35)),
        channel_salt: B256::repeat_byte(1),
    }];
    let mut world = world(settings());
    let mut propose = |leg: u8| {
        let mut terms = proposal(several.clone(), world.offer.unwrap(), world.now);
        terms.leg = leg;
        let message = BrokerMessage::Propose {
            proposal: u64::from(leg),
            terms: Box::new(terms),
        };
        world.provider.handle_broker_message(message, world.now);
        world.work();
        (world.accepted.len(), world.declined.last().cloned())
    };
    assert_eq!(propose(0), (1, None));
    assert_eq!(propose(1), (2, None));
    let (signed, declined) = propose(1);
    assert_eq!(signed, 2);
    assert!(declined.unwrap().contains("has a deal already"));
    let (signed, declined) = propose(2);
    assert_eq!(signed, 2);
    assert!(declined.unwrap().contains("asks for 2 leases only"));
    let deals = &world.accepted;
    assert_eq!(
        deals[1].requester_tunnel_key,
        several.bundle.legs[0].tunnel_key
    );
    assert_ne!(deals[0].channel(), deals[1].channel());
}
