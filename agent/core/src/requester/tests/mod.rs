#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod hostile;
mod papers;
mod recorded;
mod simulation;
mod whole_lease;

use std::net::{IpAddr, Ipv4Addr};

use ipsx_market::deal::{Deal, Proposal, ProviderTerms};
use ipsx_market::http::ProposedDeal;
use ipsx_market::offer::{Capacity, Offer, Placement, Protocols, Tier, WeeklyHours};
use ipsx_market::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Address, Amount, B256, Domain, NetworkId, PricePerGib, PricePerSecond, Prices, SecretKey,
    Signed, TypedData, UnixSeconds,
};

use super::*;
use crate::provider::Network;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const EXIT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

fn requester() -> SecretKey {
    key(1)
}

fn session() -> SecretKey {
    key(2)
}

fn provider() -> SecretKey {
    key(3)
}

fn agent() -> SecretKey {
    key(4)
}

fn operator() -> SecretKey {
    key(5)
}

fn network() -> Network {
    Network {
        id: NetworkId(B256::repeat_byte(1)),
        domain: Domain {
            chain_id: 31_337,
            contract: Address::repeat_byte(2),
        },
        operator: operator().address(),
    }
}

fn prices() -> Prices {
    Prices {
        per_second: PricePerSecond(Amount(1_000)),
        per_gib: PricePerGib(Amount(1 << 20)),
    }
}

fn wishes(seconds: u32) -> Wishes {
    Wishes {
        filter: Filter {
            countries: vec!["FR".parse().unwrap()],
            ..Filter::default()
        },
        max_prices: prices(),
        budget: Amount(u128::from(seconds) * 1_000 * 5),
        seconds,
        start: StartWindow::NOW,
        expected_bytes: 0,
        counter_source: CounterSource::Both,
    }
}

fn request(seconds: u32) -> Request {
    let identity = Identity {
        requester: requester().address(),
        payer: requester().address(),
        payer_signer: session().address(),
        channel_salt: B256::ZERO,
        tunnel_key: TunnelKey(B256::repeat_byte(7)),
    };
    wishes(seconds)
        .request(network().id, &identity, 1, NOW.after(60))
        .unwrap()
}

fn deal(request: &Request) -> Deal {
    let offer = Offer {
        network: network().id,
        provider: provider().address(),
        nonce: 1,
        prefixes: Vec::new(),
        protocols: Protocols::all(),
        policy_hash: B256::repeat_byte(9),
        tier: Tier::Web,
        ports: Tier::Web.ports(),
        services: Vec::new(),
        capacity: Capacity {
            leases: 1,
            mbit_up: 10,
            mbit_down: 10,
            bytes_per_month: u64::MAX,
        },
        prices: prices(),
        min_seconds: 5,
        max_seconds: 1 << 20,
        weekly_hours: WeeklyHours::always(),
        expires_at: NOW.after(3_600),
    };
    let proposal = Proposal {
        request: SignedRequest::sign(request.clone(), &network().domain, &requester(), &session()),
        leg: 0,
        offer: offer.id(),
        exit_address: EXIT,
        sign_by: NOW.after(10),
        starts_at: NOW,
        start_by: NOW.after(60),
        salt: B256::repeat_byte(3),
    };
    let terms = ProviderTerms {
        payout: Address::repeat_byte(8),
        agent_key: agent().address(),
        tunnel_key: TunnelKey(B256::repeat_byte(6)),
    };
    Deal::new(&proposal, &offer, &terms)
}

/// A deal as an honest broker proposes it, signed by its provider.
fn proposed(deal: Deal) -> ProposedDeal {
    let signature = provider().sign_hash(deal.signing_hash(&network().domain));
    ProposedDeal {
        deal_id: deal.id(),
        placement: Placement {
            country: "FR".parse().ok(),
            asn: Some(64_500),
            ..Placement::at(EXIT)
        },
        provider_signature: signature,
        deal,
    }
}
