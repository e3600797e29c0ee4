//! One example of everything that is signed or sent, with fixed keys, so that its encoding never changes.

use ipsx_market::deal::{Binding, Deal, Outcome, Proposal, ProviderTerms};
use ipsx_market::messages::{
    AgentAuthentication, AgentMessage, BrokerAuthentication, BrokerMessage, EndCause, EndReport,
    PROTOCOL_VERSION, Ready,
};
use ipsx_market::offer::{Capacity, Offer, Placement, Protocols, Tier, WeeklyHours};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::request::{CounterSource, Filter, IpVersion, Request, TunnelKey};
use ipsx_metering::{
    Address, Amount, B256, Close, DealId, Domain, NetworkId, PricePerGib, PricePerSecond, Prices,
    Receipt, Reservation, SecretKey, Signed, TypedData, U256, UnixSeconds, Usage, Voucher,
};

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

fn network() -> NetworkId {
    NetworkId(B256::repeat_byte(0x4e))
}

fn prices() -> Prices {
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
            asns: vec![64_500],
            prefixes: vec!["203.0.113.0/24".parse().unwrap()],
            ip_version: IpVersion::V4,
            protocols: Protocols::all(),
            tier: Tier::Web,
            mbit_up: 1,
            mbit_down: 20,
        },
        max_prices: prices(),
        budget: Amount(1_500_000_000_000_000_000),
        seconds: 3_600,
        payer: requester().address(),
        payer_signer: Address::repeat_byte(0x51),
        channel_salt: B256::ZERO,
        tunnel_key: TunnelKey(B256::repeat_byte(0x7e)),
        counter_source: CounterSource::Both,
        expires_at: UnixSeconds(1_899_999_000),
    }
}

pub(crate) fn terms() -> ProviderTerms {
    ProviderTerms {
        payout: Address::repeat_byte(0xa1),
        agent_key: Address::repeat_byte(0xa2),
        tunnel_key: TunnelKey(B256::repeat_byte(0xa3)),
    }
}

pub(crate) fn proposal() -> Proposal {
    Proposal {
        request: Signed::sign(request(), &DOMAIN, &requester()),
        offer: offer().id(),
        exit_address: "203.0.113.5".parse().unwrap(),
        sign_by: UnixSeconds(1_899_998_020),
        start_by: UnixSeconds(1_899_998_060),
        salt: B256::repeat_byte(0x5a),
    }
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

fn signed<T: TypedData>(message: T, key: &SecretKey) -> Signed<T> {
    Signed::sign(message, &DOMAIN, key)
}

fn voucher() -> Signed<Voucher> {
    let voucher = Voucher {
        channel_id: deal().channel().id(),
        cumulative: Amount(123_456_789_000_000_000),
        receipt_hash: B256::repeat_byte(0x9c),
    };
    signed(voucher, &requester())
}

fn reservation() -> Signed<Reservation> {
    let reservation = Reservation {
        channel_id: deal().channel().id(),
        capacity: Amount(400_000_000_000_000_000),
        valid_until: UnixSeconds(1_900_005_000),
    };
    signed(reservation, &operator())
}

fn usage() -> Usage {
    Usage {
        secs: 61,
        bytes_up: 1_234,
        bytes_down: 567_890,
    }
}

fn ready() -> Ready {
    Ready {
        endpoint: "203.0.113.5:51820".parse().unwrap(),
        address_v4: "10.64.0.2".parse().unwrap(),
        address_v6: Some("fd00::2".parse().unwrap()),
        gateway: "10.64.0.1".parse().unwrap(),
        control_port: 4_747,
        mtu: 1_420,
        latest_voucher: Some(voucher()),
        next_seq: 62,
    }
}

fn report() -> EndReport {
    EndReport {
        cause: EndCause::Completed,
        usage: usage(),
        amount: Amount(15_300_000_000_000_000),
        voucher: Some(voucher()),
    }
}

fn deal_id() -> DealId {
    deal().id()
}

pub(crate) fn agent_messages() -> Vec<(&'static str, AgentMessage)> {
    use AgentMessage as M;
    let close = Close {
        channel_id: deal().channel().id(),
        cumulative: Amount(123_456_789_000_000_000),
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
                reason: "busy".into(),
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
                close: signed(close, &provider()),
            },
        ),
        (
            "frame",
            M::Frame {
                deal_id: deal_id(),
                sealed: vec![1, 2, 3],
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
    let placement = Placement {
        address: "203.0.113.5".parse().unwrap(),
        country: Some("FR".parse().unwrap()),
        asn: None,
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
                observed: "2001:db8:1::5".parse().unwrap(),
                unfinished: vec![deal_id()],
            },
        ),
        (
            "offer-placed",
            M::OfferPlaced {
                offer: offer().id(),
                placement,
            },
        ),
        (
            "offer-refused",
            M::OfferRefused {
                offer: offer().id(),
                reason: "too many".into(),
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
                reason: "no deposit".into(),
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
                reason: "too old".into(),
            },
        ),
    ]
}

pub(crate) fn payer_messages() -> Vec<(&'static str, PayerMessage)> {
    vec![
        ("voucher", PayerMessage::Voucher(voucher())),
        ("echo", PayerMessage::Echo(5)),
        ("end", PayerMessage::End(EndCause::NoService)),
    ]
}

pub(crate) fn provider_messages() -> Vec<(&'static str, ProviderMessage)> {
    let receipt = Receipt {
        channel_id: deal().channel().id(),
        deal_id: deal_id(),
        seq: 61,
        usage: usage(),
        deal_amount: Amount(15_300_000_000_000_000),
        cumulative: Amount(123_456_789_000_000_000),
        observed_at: UnixSeconds(1_899_998_161),
        connections_root: B256::ZERO,
    };
    vec![
        (
            "receipt",
            ProviderMessage::Receipt(signed(receipt, &provider())),
        ),
        ("reservation", ProviderMessage::Reservation(reservation())),
        (
            "stored",
            ProviderMessage::Stored(Amount(123_456_789_000_000_000)),
        ),
        ("echo", ProviderMessage::Echo(5)),
        ("end", ProviderMessage::End(EndCause::Unpaid)),
    ]
}

fn signed_hash<T: TypedData>(message: &T, key: &SecretKey) -> ipsx_metering::Signature {
    key.sign_hash(message.signing_hash(&DOMAIN))
}
