//! Keys, terms, the chain's view, and how links, machines and cheats behave.

use std::time::{Duration, Instant};

use crate::*;

/// What the payer measures in every test.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(60);

/// Time 0 of every test. The only look at a real clock; all else is offsets from it.
pub(super) fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[allow(clippy::disallowed_methods)]
    *EPOCH.get_or_init(Instant::now)
}

pub(super) fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32]).unwrap()
}

pub(super) fn payer_key() -> SecretKey {
    key(1)
}

pub(super) fn agent_key() -> SecretKey {
    key(2)
}

pub(super) fn operator_key() -> SecretKey {
    key(3)
}

pub(super) fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        contract: address!("00000000000000000000000000000000000000aa"),
    }
}

pub(super) fn terms(
    deal: u8,
    per_second: u128,
    per_gib: u128,
    seconds: u64,
    budget: u128,
) -> Terms {
    Terms {
        deal_id: DealId(B256::repeat_byte(deal)),
        channel: Channel {
            network: NetworkId(B256::repeat_byte(9)),
            payer: address!("00000000000000000000000000000000000000b1"),
            payer_signer: payer_key().address(),
            provider: address!("00000000000000000000000000000000000000b2"),
            salt: B256::repeat_byte(8),
        },
        prices: Prices {
            per_second: PricePerSecond(Amount(per_second)),
            per_gib: PricePerGib(Amount(per_gib)),
        },
        max_seconds: seconds,
        budget: Amount(budget),
        agent_key: agent_key().address(),
        counter_source: CounterSource::Both,
    }
}

/// What the payer does instead of what its meter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayerCheat {
    Honest,
    NeverPays,
    StopsAfter(u64),
    ReplaysTheFirst,
    OtherChannel,
    PaysOneUnitMore,
    /// Pays, but says of no receipt that it is true.
    AnswersNothing,
    /// Pays, and names receipts that nobody signed.
    AnswersAnother,
}

/// What the provider does instead of what its meter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProviderCheat {
    Honest,
    /// Bytes times this, in percent.
    Bytes(u64),
    /// Seconds times this, in percent.
    Seconds(u64),
    /// Answers and counts on, but carries nothing from this second on.
    DropsDataAt(u64),
    /// All time since the start, outages and holds included.
    CountsOutages,
    /// The same number for different receipts.
    RepeatsSeq,
}

/// How the link and the machines behave.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    pub(super) delay_ms: (u64, u64),
    pub(super) loss_percent: u64,
    pub(super) duplicate_percent: u64,
    /// Share of traffic down that gets lost, in parts per thousand.
    pub(super) data_loss: u64,
    /// From, to, in milliseconds: nothing passes.
    pub(super) outages: Vec<(u64, u64)>,
    pub(super) provider_restarts: Vec<u64>,
    pub(super) payer_restarts: Vec<u64>,
    /// Bytes per second that the requester asks for, up and down.
    pub(super) demand: (u64, u64),
    pub(super) store_ms: u64,
    /// Seconds by which the provider's clock is ahead; again as many after each restart.
    pub(super) clock_ahead: i64,
    pub(super) seed: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_ms: (10, 30),
            loss_percent: 0,
            duplicate_percent: 0,
            data_loss: 0,
            outages: vec![],
            provider_restarts: vec![],
            payer_restarts: vec![],
            demand: (20_000, 200_000),
            store_ms: 3,
            clock_ahead: 0,
            seed: 1,
        }
    }
}

pub(super) fn wall() -> UnixSeconds {
    UnixSeconds(1_800_000_000)
}

pub(super) fn block_time(now_ms: u64) -> UnixSeconds {
    UnixSeconds(1_900_000_000 + now_ms / 1000)
}

pub(super) fn chain(now_ms: u64) -> ChainView {
    ChainView {
        operator: operator_key().address(),
        block_time: block_time(now_ms),
        signer_valid_to: block_time(now_ms).after(30 * 86_400),
        payable: Amount::MAX,
    }
}
