//! One example of everything that is signed or sent, with fixed keys, so that its encoding never changes.
//!
//! All of them belong to one lease: ids, signatures and sums agree with each other.

use ipsx_market::avoid::{Avoid, Distinct};
use ipsx_market::bundle::{Bundle, Leg};
use ipsx_market::deal::{Binding, Deal, Outcome, Proposal, ProviderTerms};
use ipsx_market::echo::Echo;
use ipsx_market::evidence::{DatabaseBuild, DatabaseKind, Evidence, TypeEvidence, TypeRule};
use ipsx_market::geo::Point;
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, EndCause, EndReport,
    PROTOCOL_VERSION, Ready, RelayToken,
};
use ipsx_market::offer::{Capacity, Offer, Placement, Protocols, Tier, WeeklyHours};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::place::{AddressType, Measured, Reachability};
use ipsx_market::proof::{Appeal, Disagreement, Withheld};
use ipsx_market::request::{CounterSource, Filter, IpVersion, Request, SignedRequest, TunnelKey};
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Address, Amount, B256, Close, Connection, ConnectionEnd, ConnectionPage, DealId, Domain,
    NetworkId, PricePerGib, PricePerSecond, Prices, Receipt, Reservation, SecretKey, Signed,
    Transport, TypedData, U256, UnixSeconds, Usage, Voucher,
};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    contract: Address::repeat_byte(0xce),
};

pub(crate) fn provider() -> SecretKey {
    SecretKey::from_bytes(&[0x11; 32]).unwrap()
}

pub(crate) fn requester() -> SecretKey {
    SecretKey::from_bytes(&[0x22; 32]).unwrap()
}

pub(crate) fn operator() -> SecretKey {
    SecretKey::from_bytes(&[0x33; 32]).unwrap()
}

/// Signs the vouchers.
pub(crate) fn session_key() -> SecretKey {
    SecretKey::from_bytes(&[0x44; 32]).unwrap()
}

/// Receives the payments.
pub(crate) fn payout_key() -> SecretKey {
    SecretKey::from_bytes(&[0x55; 32]).unwrap()
}

/// Signs the receipts.
pub(crate) fn agent_key() -> SecretKey {
    SecretKey::from_bytes(&[0x66; 32]).unwrap()
}

/// Secret of the provider's WireGuard key.
pub(crate) const PROVIDER_TUNNEL: [u8; 32] = [0x77; 32];
/// Secret of the requester's WireGuard key.
pub(crate) const REQUESTER_TUNNEL: [u8; 32] = [0x88; 32];

pub(crate) fn tunnel_key(secret: [u8; 32]) -> TunnelKey {
    let key = PublicKey::from(&StaticSecret::from(secret));
    TunnelKey(B256::new(key.to_bytes()))
}

pub(crate) fn network() -> NetworkId {
    NetworkId(B256::repeat_byte(0x4e))
}

pub(crate) fn prices() -> Prices {
    Prices {
        per_second: PricePerSecond(Amount(250_000_000_000_000)),
        per_gib: PricePerGib(Amount(40_000_000_000_000_000)),
    }
}

pub(crate) fn offer() -> Offer {
    Offer {
        network: network(),
        provider: provider().address(),
        nonce: 7,
        prefixes: vec![
            "203.0.113.0/28".parse().unwrap(),
            "2001:db8:1::/64".parse().unwrap(),
        ],
        protocols: Protocols::all(),
        policy_hash: B256::repeat_byte(0xb0),
        tier: Tier::WebUdp,
        ports: Tier::WebUdp.ports(),
        services: vec!["insurance".parse().unwrap()],
        capacity: Capacity {
            leases: 16,
            mbit_up: 50,
            mbit_down: 200,
            bytes_per_month: 1 << 40,
        },
        prices: prices(),
        min_seconds: 5,
        max_seconds: 86_400,
        weekly_hours: WeeklyHours(U256::from(0xff_ffffu32)),
        expires_at: UnixSeconds(1_900_000_000),
    }
}

pub(crate) fn request() -> Request {
    Request {
        network: network(),
        requester: requester().address(),
        nonce: 99,
        filter: Filter {
            countries: vec!["FR".parse().unwrap(), "DE".parse().unwrap()],
            regions: vec!["FR-IDF".parse().unwrap(), "DE-BE".parse().unwrap()],
            cities: vec!["Paris".parse().unwrap(), "Berlin".parse().unwrap()],
            circles: vec!["48.8566,2.3522,50".parse().unwrap()],
            asns: vec![64_500],
            prefixes: vec!["203.0.113.0/24".parse().unwrap()],
            address_types: vec![AddressType::Residential],
            ip_version: IpVersion::V4,
            protocols: Protocols::all(),
            tier: Tier::Web,
            ports: vec![443],
            services: vec!["insurance".parse().unwrap()],
            mbit_up: 1,
            mbit_down: 20,
            max_latency_ms: 80,
            min_reputation: 700,
            reachability: Some(Reachability::Punched),
            avoid: Avoid {
                prefixes: vec!["203.0.113.7/32".parse().unwrap()],
                asns: vec![64_501],
                providers: vec![Address::repeat_byte(0xee)],
            },
        },
        max_prices: prices(),
        budget: Amount(1_500_000_000_000_000_000),
        seconds: 3_600,
        start: StartWindow {
            earliest: UnixSeconds(1_899_998_500),
            latest: UnixSeconds(1_899_999_500),
        },
        expected_bytes: 10_000_000_000,
        payer: requester().address(),
        payer_signer: session_key().address(),
        channel_salt: B256::ZERO,
        tunnel_key: tunnel_key(REQUESTER_TUNNEL),
        counter_source: CounterSource::Both,
        expires_at: UnixSeconds(1_899_999_000),
        rest_until: UnixSeconds(1_899_998_000),
        bundle: Bundle::default(),
    }
}

/// Two addresses at once.
pub(crate) fn bundle_request() -> Request {
    Request {
        start: StartWindow::NOW,
        rest_until: UnixSeconds(0),
        bundle: Bundle {
            legs: vec![Leg {
                tunnel_key: tunnel_key([0x89; 32]),
                channel_salt: B256::repeat_byte(0x01),
            }],
            distinct: Distinct::Address,
            all_or_nothing: true,
        },
        ..request()
    }
}

pub(crate) fn terms() -> ProviderTerms {
    ProviderTerms {
        payout: payout_key().address(),
        agent_key: agent_key().address(),
        tunnel_key: tunnel_key(PROVIDER_TUNNEL),
    }
}

pub(crate) fn proposal() -> Proposal {
    Proposal {
        request: SignedRequest::sign(request(), &DOMAIN, &requester(), &session_key()),
        leg: 0,
        offer: offer().id(),
        exit_address: "203.0.113.5".parse().unwrap(),
        sign_by: UnixSeconds(1_899_998_020),
        starts_at: UnixSeconds(1_899_998_500),
        start_by: UnixSeconds(1_899_998_560),
        salt: B256::repeat_byte(0x5a),
    }
}

/// The deals that fill [`bundle_request`].
pub(crate) fn bundled_deals() -> [Deal; 2] {
    let request = SignedRequest::sign(bundle_request(), &DOMAIN, &requester(), &session_key());
    [(0, "203.0.113.5"), (1, "203.0.113.6")].map(|(leg, exit)| {
        let proposal = Proposal {
            request: request.clone(),
            leg,
            exit_address: exit.parse().unwrap(),
            starts_at: UnixSeconds(1_899_997_985),
            start_by: UnixSeconds(1_899_998_060),
            ..proposal()
        };
        Deal::new(&proposal, &offer(), &terms())
    })
}

pub(crate) fn deal() -> Deal {
    Deal::new(&proposal(), &offer(), &terms())
}

pub(crate) fn outcome() -> Outcome {
    Outcome {
        deal_id: deal().id(),
        outcome: Binding::Bound,
    }
}

pub(crate) fn agent_authentication() -> AgentAuthentication {
    AgentAuthentication {
        network: network(),
        provider: provider().address(),
        session: B256::repeat_byte(0xe5),
    }
}

pub(crate) fn broker_authentication() -> BrokerAuthentication {
    BrokerAuthentication {
        network: network(),
        session: B256::repeat_byte(0xe5),
    }
}

pub(crate) fn echo() -> Echo {
    Echo {
        network: network(),
        nonce: B256::repeat_byte(0xec),
        seen: "203.0.113.5".parse().unwrap(),
        at: UnixSeconds(1_899_998_010),
    }
}

pub(crate) fn appeal() -> Appeal {
    Appeal {
        network: network(),
        provider: provider().address(),
        address: "203.0.113.5".parse().unwrap(),
        address_type: AddressType::Residential,
        text: "A line of Example Telecom's; the bill is at hand.".into(),
        at: UnixSeconds(1_899_998_020),
    }
}

pub(crate) fn signed<T: TypedData>(message: T, key: &SecretKey) -> Signed<T> {
    Signed::sign(message, &DOMAIN, key)
}

/// What earlier leases had paid through the channel.
const PAID_BEFORE: Amount = Amount(100_000_000_000_000_000);
/// Two seconds at `ceil(budget / seconds)`: how far the voucher is ahead of the receipt.
const SLICE: Amount = Amount(833_333_333_333_334);

/// What pays the first slice of the lease ahead.
pub(crate) fn prepaid() -> Signed<Voucher> {
    let voucher = Voucher {
        channel_id: deal().channel().id(),
        cumulative: PAID_BEFORE.saturating_add(deal().terms().first_slice()),
        receipt_hash: B256::ZERO,
    };
    signed(voucher, &session_key())
}

pub(crate) fn receipt() -> Signed<Receipt> {
    let due = prices().due(&usage()).unwrap();
    let receipt = Receipt {
        channel_id: deal().channel().id(),
        deal_id: deal_id(),
        seq: 91,
        usage: usage(),
        deal_amount: due,
        cumulative: PAID_BEFORE.saturating_add(due),
        observed_at: UnixSeconds(1_899_998_161),
        connections_root: B256::ZERO,
    };
    signed(receipt, &agent_key())
}

/// Total of the latest voucher.
pub(crate) fn paid() -> Amount {
    receipt().message.cumulative.saturating_add(SLICE)
}

pub(crate) fn voucher() -> Signed<Voucher> {
    let voucher = Voucher {
        channel_id: deal().channel().id(),
        cumulative: paid(),
        receipt_hash: receipt().message.signing_hash(&DOMAIN),
    };
    signed(voucher, &session_key())
}

/// The last one of the lease before.
fn earlier_voucher() -> Signed<Voucher> {
    let voucher = Voucher {
        channel_id: deal().channel().id(),
        cumulative: PAID_BEFORE,
        receipt_hash: B256::repeat_byte(0x9c),
    };
    signed(voucher, &session_key())
}

pub(crate) fn reservation() -> Signed<Reservation> {
    let reservation = Reservation {
        channel_id: deal().channel().id(),
        capacity: Amount(400_000_000_000_000_000),
        valid_until: UnixSeconds(1_900_005_000),
    };
    signed(reservation, &operator())
}

pub(crate) fn placement() -> Placement {
    Placement {
        address: "203.0.113.5".parse().unwrap(),
        country: Some("FR".parse().unwrap()),
        region: Some("FR-IDF".parse().unwrap()),
        city: Some("Paris".parse().unwrap()),
        point: Some(Point {
            latitude: 48_853_400,
            longitude: 2_348_800,
        }),
        asn: Some(64_500),
        as_name: Some("Example Networks".into()),
        address_type: Some(AddressType::Residential),
        evidence: Some(Evidence {
            databases: vec![DatabaseBuild {
                database: DatabaseKind::City,
                name: "Example-City".into(),
                built_at: UnixSeconds(1_763_500_000),
            }],
            address_type: Some(TypeEvidence {
                rule: TypeRule::UserType,
                found: "residential".into(),
            }),
        }),
        measured: Measured {
            reachability: Some(Reachability::Direct),
            latency_ms: Some(24),
            mbit_up: Some(48),
            mbit_down: Some(190),
            reputation: Some(870),
        },
    }
}

pub(crate) fn usage() -> Usage {
    Usage {
        secs: 61,
        bytes_up: 1_234,
        bytes_down: 567_890,
    }
}

pub(crate) fn ready() -> Ready {
    Ready {
        endpoint: "203.0.113.5:51820".parse().unwrap(),
        address_v4: "10.64.0.2".parse().unwrap(),
        address_v6: Some("fd00::2".parse().unwrap()),
        gateway: "10.64.0.1".parse().unwrap(),
        control_port: 4_747,
        mtu: 1_420,
        latest_voucher: Some(earlier_voucher()),
        next_seq: 31,
    }
}

pub(crate) fn report() -> EndReport {
    EndReport {
        cause: EndCause::RequesterEnded,
        usage: usage(),
        amount: receipt().message.deal_amount,
        voucher: Some(voucher()),
    }
}

pub(crate) fn deal_id() -> DealId {
    deal().id()
}

pub(crate) fn agent_messages() -> Vec<(&'static str, AgentMessage)> {
    use AgentMessage as M;
    let close = Close {
        channel_id: deal().channel().id(),
        cumulative: paid(),
    };
    vec![
        (
            "hello",
            M::Hello {
                version: PROTOCOL_VERSION,
                software: "ipsx/0.1.0".into(),
            },
        ),
        (
            "authenticate",
            M::Authenticate {
                provider: provider().address(),
                signature: signed_hash(&agent_authentication(), &provider()),
            },
        ),
        (
            "publish-offer",
            M::PublishOffer {
                offer: signed(offer(), &provider()),
            },
        ),
        (
            "withdraw-offer",
            M::WithdrawOffer {
                offer: offer().id(),
            },
        ),
        (
            "accept-deal",
            M::AcceptDeal {
                proposal: 3,
                terms: terms(),
                signature: signed_hash(&deal(), &provider()),
            },
        ),
        (
            "decline-deal",
            M::DeclineDeal {
                proposal: 3,
                reason: "all 16 leases are taken".into(),
            },
        ),
        (
            "lease-ready",
            M::LeaseReady {
                deal_id: deal_id(),
                ready: ready(),
            },
        ),
        ("lease-serving", M::LeaseServing { deal_id: deal_id() }),
        (
            "renew-reservation",
            M::RenewReservation {
                deal_id: deal_id(),
                voucher: voucher(),
            },
        ),
        (
            "lease-ended",
            M::LeaseEnded {
                deal_id: deal_id(),
                report: report(),
            },
        ),
        (
            "close-channel",
            M::CloseChannel {
                deal_id: deal_id(),
                close: signed(close, &payout_key()),
            },
        ),
        (
            "frame",
            M::Frame {
                deal_id: deal_id(),
                sealed: vec![1, 2, 3],
            },
        ),
        (
            "endpoint",
            M::Endpoint {
                endpoint: "203.0.113.5:51820".parse().unwrap(),
                mapped: Some("203.0.113.5:40123".parse().unwrap()),
            },
        ),
        (
            "token",
            M::Token {
                token: 0x1122_3344_5566_7788,
            },
        ),
    ]
}

pub(crate) fn broker_messages() -> Vec<(&'static str, BrokerMessage)> {
    use BrokerMessage as M;
    let aborted = Outcome {
        deal_id: deal_id(),
        outcome: Binding::Aborted,
    };
    vec![
        (
            "welcome",
            M::Welcome {
                version: PROTOCOL_VERSION,
                software: "ipsx-broker/0.1.0".into(),
                network: network(),
                domain: DOMAIN,
                operator: operator().address(),
                signature: signed_hash(&broker_authentication(), &operator()),
            },
        ),
        (
            "authenticated",
            M::Authenticated {
                observed: "203.0.113.5".parse().unwrap(),
                unfinished: vec![deal_id()],
                reflector: Some("198.51.100.1:8483".parse().unwrap()),
            },
        ),
        (
            "offer-placed",
            M::OfferPlaced {
                offer: offer().id(),
                placement: placement(),
                withheld: Some(Withheld::Disagrees {
                    what: Disagreement::Address,
                    seen: "203.0.113.99".parse().unwrap(),
                }),
            },
        ),
        (
            "offer-refused",
            M::OfferRefused {
                offer: offer().id(),
                reason:
                    "a provider may have 256 offers here; withdraw one, or offer a larger prefix"
                        .into(),
            },
        ),
        (
            "propose",
            M::Propose {
                proposal: 3,
                terms: Box::new(proposal()),
            },
        ),
        (
            "deal-bound",
            M::DealBound {
                deal: Box::new(deal()),
                requester_signature: signed_hash(&deal(), &requester()),
                outcome: signed(outcome(), &operator()),
                reservation: reservation(),
            },
        ),
        (
            "deal-aborted",
            M::DealAborted {
                deal_id: deal_id(),
                outcome: signed(aborted, &operator()),
            },
        ),
        (
            "reservation-renewed",
            M::ReservationRenewed {
                deal_id: deal_id(),
                reservation: reservation(),
            },
        ),
        (
            "reservation-refused",
            M::ReservationRefused {
                deal_id: deal_id(),
                reason: "the deposit covers no more".into(),
            },
        ),
        (
            "forfeited",
            M::Forfeited {
                deal_id: deal_id(),
                voucher: prepaid(),
            },
        ),
        (
            "end-lease",
            M::EndLease {
                deal_id: deal_id(),
                cause: EndCause::RequesterEnded,
            },
        ),
        (
            "frame",
            M::Frame {
                deal_id: deal_id(),
                sealed: vec![1, 2, 3],
            },
        ),
        (
            "refused",
            M::Refused {
                reason: "the second message must be Authenticate".into(),
            },
        ),
        (
            "reached",
            M::Reached {
                reachability: Some(Reachability::Punched),
            },
        ),
        (
            "punch",
            M::Punch {
                deal_id: deal_id(),
                endpoint: "192.0.2.77:40321".parse().unwrap(),
            },
        ),
        (
            "relay",
            M::Relay {
                deal_id: deal_id(),
                relay: "198.51.100.1:41007".parse().unwrap(),
                token: RelayToken(B256::repeat_byte(0x9e)),
            },
        ),
    ]
}

fn connections() -> ConnectionPage {
    let opened = Connection {
        deal_id: deal_id(),
        transport: Transport::Tcp,
        source_port: 40_123,
        destination: "203.0.113.80:443".parse().unwrap(),
        opened_at: UnixSeconds(1_899_998_100),
        end: None,
    };
    let end = ConnectionEnd {
        at: UnixSeconds(1_899_998_160),
        bytes_up: 1_000,
        bytes_down: 500_000,
    };
    let ended = Connection {
        end: Some(end),
        ..opened
    };
    ConnectionPage::new(B256::repeat_byte(0x77), 40, [&opened, &ended])
}

pub(crate) fn payer_messages() -> Vec<(&'static str, PayerMessage)> {
    vec![
        ("voucher", PayerMessage::Voucher(voucher())),
        ("echo", PayerMessage::Echo(5)),
        ("connections", PayerMessage::Connections(40)),
        ("end", PayerMessage::End(EndCause::NoService)),
    ]
}

pub(crate) fn provider_messages() -> Vec<(&'static str, ProviderMessage)> {
    vec![
        ("receipt", ProviderMessage::Receipt(receipt())),
        ("reservation", ProviderMessage::Reservation(reservation())),
        ("stored", ProviderMessage::Stored(paid())),
        ("connections", ProviderMessage::Connections(connections())),
        ("echo", ProviderMessage::Echo(5)),
        ("end", ProviderMessage::End(EndCause::Unpaid)),
    ]
}

pub(crate) fn signed_hash<T: TypedData>(message: &T, key: &SecretKey) -> ipsx_metering::Signature {
    key.sign_hash(message.signing_hash(&DOMAIN))
}
