//! The bodies of the requesters' HTTP interface, frozen in `tests/golden/http`.

use std::collections::BTreeSet;
use std::fmt::Debug;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipsx_market::deal::{Binding, Deal, Outcome};
use ipsx_market::http::{
    BoundBundle, BoundDeal, Connected, DealEvent, DealSignature, DealView, EndDeal, Frames,
    NetworkInfo, OfferView, PostRequest, PostWithdrawal, Problem, ProblemKind, ProposedBundle,
    ProposedDeal, RelayedWay, RequestEvent, RequestView, RequesterEndpoint, Session, SessionNonce,
    SignBundle, SignDeal, WantRelay,
};
use ipsx_market::messages::{PROTOCOL_VERSION, RelayToken};
use ipsx_market::offer::Placement;
use ipsx_market::record::Cause;
use ipsx_market::request::SignedRequest;
use ipsx_market::resting::RequestStatus;
use ipsx_market::sign_in::{self, Expected};
use ipsx_market::status::{ProviderStatus, RequesterStatus, Side, deal_status};
use ipsx_metering::{
    Address, Amount, Authorization, B256, Reservation, Signed, UnixSeconds, Withdrawal,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{check_complete, check_file, examples, folder};
use examples::DOMAIN;

/// When the example's requester signs in.
const NOW: UnixSeconds = UnixSeconds(1_899_997_900);

/// Compares bodies with their files, and remembers which there are.
#[derive(Default)]
struct Bodies(BTreeSet<String>);

impl Bodies {
    fn check<T>(&mut self, name: &str, body: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let text = serde_json::to_string_pretty(body).unwrap() + "\n";
        self.check_text(&format!("{name}.json"), &text);
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), body, "{name}");
    }

    fn check_text(&mut self, file: &str, text: &str) {
        check_file(&folder("http"), file, text);
        assert!(self.0.insert(file.into()), "{file} is there twice");
    }
}

#[test]
fn http_bodies_are_written_as_ever() {
    let mut bodies = Bodies::default();
    bodies.check("network", &network_info());
    check_sign_in(&mut bodies);
    bodies.check("offers", &vec![offer_view()]);
    let request = examples::proposal().request;
    bodies.check("request", &PostRequest { request });
    bodies.check("proposed-deal", &proposed_deal());
    let request = examples::bundle_request();
    let (own, key) = (examples::requester(), examples::session_key());
    let request = SignedRequest::sign(request, &DOMAIN, &own, &key);
    bodies.check("bundle-request", &PostRequest { request });
    bodies.check("proposed-bundle", &proposed_bundle());
    bodies.check("resting-request", &resting_request());
    bodies.check("request-event", &request_event());
    bodies.check("sign-deal", &sign_deal());
    bodies.check("bound-deal", &bound_deal());
    bodies.check("sign-bundle", &sign_bundle());
    bodies.check("bound-bundle", &bound_bundle());
    bodies.check("deal", &deal_view());
    bodies.check("deal-event", &deal_event());
    let echo = examples::signed(examples::echo(), &examples::operator());
    bodies.check("echo", &echo);
    let appeal = examples::signed(examples::appeal(), &examples::provider());
    bodies.check("appeal", &appeal);
    bodies.check("connected", &Connected {});
    let endpoint = RequesterEndpoint {
        endpoint: "192.0.2.77:40321".parse().unwrap(),
    };
    bodies.check("endpoint", &endpoint);
    bodies.check("want-relay", &WantRelay {});
    let way = RelayedWay {
        relay: "198.51.100.1:41007".parse().unwrap(),
        token: RelayToken(B256::repeat_byte(0x5e)),
    };
    bodies.check("relayed-way", &way);
    let report = examples::report();
    bodies.check("end-deal", &EndDeal { report });
    bodies.check("frames", &frames());
    let wanted = PostWithdrawal {
        to: withdrawal().message.to,
        amount: withdrawal().message.amount,
    };
    bodies.check("withdrawal", &wanted);
    bodies.check("signed-withdrawal", &withdrawal());
    bodies.check("problem", &problem());
    check_complete("http", |file| file.file_name(), &bodies.0);
}

/// Every kind has its name; a new one does not compile until it is named here.
#[test]
fn kinds_of_problems_have_the_names_that_they_always_had() {
    use ProblemKind::*;
    let all = [
        InvalidRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        NoMatch,
        PriceTooLow,
        SoldOut,
        InsufficientDeposit,
        Conflict,
        KeyReused,
        TooManyRequests,
        Unavailable,
        Internal,
    ];
    for kind in all {
        let name = match kind {
            InvalidRequest => "invalid-request",
            Unauthorized => "unauthorized",
            Forbidden => "forbidden",
            NotFound => "not-found",
            NoMatch => "no-match",
            PriceTooLow => "price-too-low",
            SoldOut => "sold-out",
            InsufficientDeposit => "insufficient-deposit",
            Conflict => "conflict",
            KeyReused => "key-reused",
            TooManyRequests => "too-many-requests",
            Unavailable => "unavailable",
            Internal => "internal",
        };
        let written = serde_json::to_value(kind).unwrap();
        assert_eq!(written, format!("urn:ipsx:problem:{name}"));
    }
}

fn check_sign_in(bodies: &mut Bodies) {
    let nonce = SessionNonce {
        nonce: "0123456789abcdef".repeat(4),
        domain: "127.0.0.1:8480".into(),
        uri: "http://127.0.0.1:8480".into(),
    };
    bodies.check("session-nonce", &nonce);
    let wallet = examples::requester();
    let text = sign_in::message(wallet.address(), &nonce, DOMAIN.chain_id, NOW).unwrap();
    bodies.check_text("sign-in-message.txt", &format!("{text}\n"));
    let sign_in = sign_in::sign(text, |hash| wallet.sign_hash(hash));
    let expected = Expected {
        domain: &nonce.domain,
        uri: &nonce.uri,
        chain_id: DOMAIN.chain_id,
        now: NOW,
    };
    let signed_in = sign_in::check(&sign_in, &expected).unwrap();
    assert_eq!(signed_in.wallet, wallet.address());
    bodies.check("sign-in", &sign_in);
    let session = Session {
        token: "7e".repeat(32),
        expires_at: NOW.after(3_600),
    };
    bodies.check("session", &session);
}

fn network_info() -> NetworkInfo {
    NetworkInfo {
        version: PROTOCOL_VERSION,
        network: examples::network(),
        domain: DOMAIN,
        token: Address::repeat_byte(0x70),
        operator: examples::operator().address(),
        fee_bps: 100,
        treasury: Address::repeat_byte(0x71),
        agents: "127.0.0.1:8481".parse().unwrap(),
        reflector: Some("127.0.0.1:8483".parse().unwrap()),
        relay: Some("127.0.0.1".parse().unwrap()),
        chain_rpc: "/rpc".into(),
    }
}

fn offer_view() -> OfferView {
    let offer = examples::offer();
    OfferView {
        offer: offer.id(),
        provider: offer.provider,
        placement: examples::placement(),
        protocols: offer.protocols,
        tier: offer.tier,
        ports: examples::offer().ports,
        services: examples::offer().services,
        prices: offer.prices,
        capacity: offer.capacity,
        free_leases: 15,
        min_seconds: offer.min_seconds,
        max_seconds: offer.max_seconds,
    }
}

fn proposed_deal() -> ProposedDeal {
    let deal = examples::deal();
    ProposedDeal {
        deal_id: deal.id(),
        provider_signature: examples::signed_hash(&deal, &examples::provider()),
        deal,
        placement: examples::placement(),
    }
}

fn proposed_bundle() -> ProposedBundle {
    let proposed = |deal: Deal| ProposedDeal {
        deal_id: deal.id(),
        provider_signature: examples::signed_hash(&deal, &examples::provider()),
        placement: Placement {
            address: deal.exit_address,
            ..examples::placement()
        },
        deal,
    };
    ProposedBundle {
        request: examples::bundle_request().id(),
        deals: examples::bundled_deals().map(proposed).into(),
    }
}

fn sign_bundle() -> SignBundle {
    let signature = |deal: Deal| DealSignature {
        deal_id: deal.id(),
        signature: examples::signed_hash(&deal, &examples::requester()),
        prepaid: None,
    };
    SignBundle {
        signatures: examples::bundled_deals().map(signature).into(),
        authorization: sign_deal().authorization,
    }
}

fn bound_bundle() -> BoundBundle {
    let bound = |deal: Deal| {
        let outcome = Outcome {
            deal_id: deal.id(),
            outcome: Binding::Bound,
        };
        let reservation = Reservation {
            channel_id: deal.channel().id(),
            ..examples::reservation().message
        };
        BoundDeal {
            outcome: examples::signed(outcome, &examples::operator()),
            reservation: Some(examples::signed(reservation, &examples::operator())),
        }
    };
    BoundBundle {
        deals: examples::bundled_deals().map(bound).into(),
    }
}

fn resting_request() -> RequestView {
    RequestView {
        request: examples::request().id(),
        status: RequestStatus::Resting,
        reason: None,
        rest_until: examples::request().rest_until,
        changed_at: NOW,
        deals: Vec::new(),
    }
}

fn request_event() -> RequestEvent {
    RequestEvent {
        request: examples::request().id(),
        at: NOW,
        status: RequestStatus::Matched,
    }
}

fn sign_deal() -> SignDeal {
    let deal = examples::deal();
    let authorization = Authorization {
        network: deal.network,
        payer: deal.payer,
        signer: deal.payer_signer,
        valid_to: UnixSeconds(1_902_590_000),
        nonce: 0,
    };
    SignDeal {
        signature: examples::signed_hash(&deal, &examples::requester()),
        authorization: Some(examples::signed(authorization, &examples::requester())),
        prepaid: Some(examples::prepaid()),
    }
}

fn bound_deal() -> BoundDeal {
    BoundDeal {
        outcome: examples::signed(examples::outcome(), &examples::operator()),
        reservation: Some(examples::reservation()),
    }
}

fn deal_view() -> DealView {
    let (deal, report) = (examples::deal(), examples::report());
    let (provider, requester) = (ProviderStatus::Ended, RequesterStatus::Ended);
    DealView {
        deal_id: deal.id(),
        deal,
        placement: examples::placement(),
        status: deal_status(provider, requester),
        provider,
        requester,
        ready: Some(examples::ready()),
        ready_at: Some(UnixSeconds(1_899_998_099)),
        ended_at: Some(UnixSeconds(1_899_998_161)),
        cause: Some(report.cause),
        usage: Some(report.usage),
        amount: Some(report.amount),
    }
}

fn deal_event() -> DealEvent {
    let (provider, requester) = (ProviderStatus::Serving, RequesterStatus::Funded);
    DealEvent {
        deal_id: deal_view().deal_id,
        at: UnixSeconds(1_899_998_101),
        side: Side::Provider,
        provider,
        requester,
        status: deal_status(provider, requester),
        cause: Cause::FirstVoucher.to_string(),
    }
}

fn frames() -> Frames {
    Frames {
        frames: vec![STANDARD.encode(super::sealed::frame_to_payer())],
    }
}

fn withdrawal() -> Signed<Withdrawal> {
    let withdrawal = Withdrawal {
        network: examples::network(),
        owner: examples::requester().address(),
        to: Address::repeat_byte(0x72),
        amount: Amount(500_000_000_000_000_000),
        nonce: 0,
        deadline: UnixSeconds(1_899_999_900),
    };
    examples::signed(withdrawal, &examples::operator())
}

fn problem() -> Problem {
    Problem {
        kind: ProblemKind::PriceTooLow,
        title: "All matching offers cost more".into(),
        status: 409,
        detail: "every offer that passes the filter costs more than allowed; the cheapest asks \
                 250000000000000 a second and 40000000000000000 a GiB: raise the limits to these"
            .into(),
        instance: Some(format!("urn:ipsx:occurrence:{}", "1f".repeat(16))),
    }
}
