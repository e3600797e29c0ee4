//! What both sides of a lease agreed on, as far as the meters need it.

use serde::{Deserialize, Serialize};

use crate::slice::ROUND_TRIP;
use crate::{Address, Amount, Channel, ChannelId, DealId, Prices, Slices, Usage};

/// Whose traffic counters decide what is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CounterSource {
    /// The payer compares the provider's totals with its own and pays for no more than both saw.
    Both,
    /// The payer has no tunnel counters of its own (a stock client uses the lease) and takes the provider's.
    Provider,
}

/// Bytes that hold any packet; with less room than this, a lease waits for payment.
pub(crate) const PACKET: u64 = 2048;

/// The part of a signed deal that is metered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The deal.
    pub deal_id: DealId,
    /// The channel that pays for it. One channel serves one lease at a time, any number in sequence.
    pub channel: Channel,
    /// What is charged.
    pub prices: Prices,
    /// Length of the lease in seconds of service.
    pub max_seconds: u64,
    /// The most that the lease may cost; the payer never signs for more.
    pub budget: Amount,
    /// Key that signs the provider's receipts.
    pub agent_key: Address,
    /// Whose traffic counters count.
    pub counter_source: CounterSource,
}

/// Terms that cannot be metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// `max_seconds` is zero.
    #[error("deal {0} lasts 0 seconds; a lease lasts at least one")]
    NoTime(DealId),
    /// `budget` is zero.
    #[error("deal {0} has a budget of 0, so no voucher could ever be signed for it")]
    NoBudget(DealId),
    /// The deal names no voucher signer, payout address or receipt key.
    #[error(
        "the channel of deal {0} names the zero address as voucher signer, provider or receipt key"
    )]
    ZeroAddress(DealId),
    /// The budget is so small beside the price of traffic that a first slice buys no packet.
    #[error(
        "a slice of deal {deal} leaves {slice} for traffic, and one packet costs {packet}; raise the budget or lower \
         the price per GiB"
    )]
    NoPacket {
        /// The deal.
        deal: DealId,
        /// What the shortest first slice leaves for traffic.
        slice: Amount,
        /// What a packet costs.
        packet: Amount,
    },
}

impl Terms {
    /// Checks that a lease under these terms can be metered at all.
    pub fn check(&self) -> Result<(), TermsError> {
        if self.max_seconds == 0 {
            return Err(TermsError::NoTime(self.deal_id));
        }
        if self.budget == Amount::ZERO {
            return Err(TermsError::NoBudget(self.deal_id));
        }
        let addresses = [
            self.channel.payer_signer,
            self.channel.provider,
            self.agent_key,
        ];
        if addresses.iter().any(|address| address.is_zero()) {
            return Err(TermsError::ZeroAddress(self.deal_id));
        }
        let slice = Amount(self.full_price_per_second().0.saturating_mul(2))
            .saturating_sub(self.prices.per_second.0);
        let packet = self.due(&Usage {
            bytes_up: PACKET,
            ..Usage::default()
        });
        if slice.min(self.budget) < packet {
            return Err(TermsError::NoPacket {
                deal: self.deal_id,
                slice,
                packet,
            });
        }
        Ok(())
    }

    /// Id of the channel that pays; hashes, so keep the result.
    pub fn channel_id(&self) -> ChannelId {
        self.channel.id()
    }

    /// What a second costs at most on average, traffic included: `ceil(budget / max_seconds)`, and never less than
    /// the price of a second, so that a slice always buys its seconds.
    pub fn full_price_per_second(&self) -> Amount {
        let average = self.budget.0.div_ceil(u128::from(self.max_seconds.max(1)));
        Amount(average).max(self.prices.per_second.0)
    }

    /// Amount of the first voucher, where nobody measures the round trip.
    pub fn first_slice(&self) -> Amount {
        Slices::new(self, ROUND_TRIP).first()
    }

    /// What `usage` costs; more than any budget when it does not fit into 128 bits.
    pub fn due(&self, usage: &Usage) -> Amount {
        self.prices.due(usage).unwrap_or(Amount::MAX)
    }
}
