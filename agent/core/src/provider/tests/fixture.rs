//! Parties, messages and a clock for the tests.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipsx_market::deal::{Binding, Deal, Outcome, Proposal};
use ipsx_market::offer::{Capacity, Protocols, Tier, WeeklyHours};
use ipsx_market::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Address, Amount, B256, Domain, NetworkId, OfferId, PricePerGib, PricePerSecond, Prices,
    Reservation, SecretKey, Signed, UnixSeconds, keccak256,
};

use crate::provider::{
    EndpointHint, ExposureLimits, Network, Now, OfferTerms, ProviderKeys, Settings,
};

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).expect("a small number is a valid key")
}

pub(crate) fn operator() -> SecretKey {
    key(1)
}

pub(crate) fn wallet() -> SecretKey {
    key(2)
}

pub(crate) fn requester() -> SecretKey {
    key(3)
}

pub(crate) fn payer_signer() -> SecretKey {
    key(4)
}

pub(crate) const EXIT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 1, 1));
/// 2024-01-01 00:00:00 UTC, a Monday.
pub(crate) const MONDAY: UnixSeconds = UnixSeconds(1_704_067_200);

pub(crate) fn network() -> Network {
    Network {
        id: NetworkId(B256::repeat_byte(0xa1)),
        domain: Domain {
            chain_id: 7,
            contract: Address::repeat_byte(0xcc),
        },
        operator: operator().address(),
    }
}

pub(crate) fn terms() -> OfferTerms {
    OfferTerms {
        prefixes: Vec::new(),
        protocols: Protocols::all(),
        services: Vec::new(),
        capacity: Capacity {
            leases: 4,
            mbit_up: 20,
            mbit_down: 100,
            bytes_per_month: u64::MAX,
        },
        prices: Prices {
            per_second: PricePerSecond(Amount(1_000)),
            per_gib: PricePerGib(Amount(0)),
        },
        min_seconds: 5,
        max_seconds: 31 * 86_400,
        weekly_hours: WeeklyHours::always(),
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        network: network(),
        provider: wallet().address(),
        policy_hash: B256::repeat_byte(0x90),
        tier: Tier::Web,
        ports: Tier::Web.ports(),
        terms: terms(),
        exposure: ExposureLimits::default(),
        endpoint: EndpointHint::Listening(([0, 0, 0, 0], 51_820).into()),
    }
}

/// Sub-keys by hashing, as a shell derives them.
pub(crate) struct TestKeys;

impl ProviderKeys for TestKeys {
    fn payout_key(&self, network: NetworkId, requester: Address) -> SecretKey {
        derived("payout", network, requester)
    }

    fn agent_key(&self, network: NetworkId, requester: Address) -> SecretKey {
        derived("agent", network, requester)
    }

    fn tunnel_key(&self) -> TunnelKey {
        TunnelKey(B256::repeat_byte(0x77))
    }
}

fn derived(label: &str, network: NetworkId, requester: Address) -> SecretKey {
    let hash = keccak256([label.as_bytes(), network.0.as_slice(), requester.as_slice()].concat());
    SecretKey::from_bytes(&hash.0).expect("a hash is a valid key")
}

/// The first moment of every test.
pub(crate) fn start() -> Now {
    Now {
        instant: start_instant(),
        unix: MONDAY,
    }
}

pub(crate) fn start_instant() -> Instant {
    #[allow(
        clippy::disallowed_methods,
        reason = "any moment serves as the beginning of virtual time"
    )]
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START + Duration::from_secs(1_000)
}

pub(crate) fn request(seconds: u32, budget: u128) -> Request {
    Request {
        network: network().id,
        requester: requester().address(),
        nonce: 1,
        filter: Filter::default(),
        max_prices: terms().prices,
        budget: Amount(budget),
        seconds,
        start: StartWindow::NOW,
        expected_bytes: 0,
        payer: requester().address(),
        payer_signer: payer_signer().address(),
        channel_salt: B256::ZERO,
        tunnel_key: TunnelKey(B256::repeat_byte(0x33)),
        counter_source: CounterSource::Both,
        expires_at: MONDAY.after(86_400 * 365),
        rest_until: UnixSeconds(0),
        bundle: Default::default(),
    }
}

pub(crate) fn proposal(request: Request, offer: OfferId, now: Now) -> Proposal {
    let starts_at = request.start.earliest.max(now.unix);
    Proposal {
        request: SignedRequest::sign(request, &network().domain, &requester(), &payer_signer()),
        leg: 0,
        offer,
        exit_address: EXIT,
        sign_by: now.unix.after(30),
        starts_at,
        start_by: starts_at.after(90),
        salt: B256::repeat_byte(0x5a),
    }
}

pub(crate) fn outcome(deal: &Deal, outcome: Binding) -> Signed<Outcome> {
    let message = Outcome {
        deal_id: deal.id(),
        outcome,
    };
    Signed::sign(message, &network().domain, &operator())
}

pub(crate) fn reservation(
    deal: &Deal,
    capacity: u128,
    valid_until: UnixSeconds,
) -> Signed<Reservation> {
    let message = Reservation {
        channel_id: deal.channel().id(),
        capacity: Amount(capacity),
        valid_until,
    };
    Signed::sign(message, &network().domain, &operator())
}
