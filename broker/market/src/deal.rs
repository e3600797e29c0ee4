//! The contract between a requester and a provider, and the network's word on whether it is bound.

use std::net::IpAddr;

use ipsx_metering::{
    Address, Amount, B256, Channel, DealId, Domain, NetworkId, OfferId, Prices, RequestId, Signed,
    Terms, TypedData, UnixSeconds, VerifyError, Voucher,
};
use serde::{Deserialize, Serialize};

use crate::bundle::Leg;
use crate::offer::{Offer, price_per_gib, price_per_second};
use crate::request::{CounterSource, SignedRequest, TunnelKey};
use crate::start::PREPAID_AHEAD;
use crate::typed_data::{sol, uint40};

/// What the broker puts before a provider: a request that its offer matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request, signed by the requester and, if another one pays, the payer's session key.
    pub request: SignedRequest,
    /// Which of its leases, counted from 0.
    pub leg: u8,
    /// The provider's offer that it matched.
    pub offer: OfferId,
    /// The address that is sold, as placed.
    pub exit_address: IpAddr,
    /// Both signatures must reach the broker by this second of its clock.
    pub sign_by: UnixSeconds,
    /// The lease starts at this second.
    pub starts_at: UnixSeconds,
    /// The lease must be ready and connected by then.
    pub start_by: UnixSeconds,
    /// Makes the deal unique.
    pub salt: B256,
}

/// What the provider adds to a proposal to make it a deal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTerms {
    /// Fresh address for this requester's payments.
    pub payout: Address,
    /// Key that signs the receipts.
    pub agent_key: Address,
    /// WireGuard key of the provider's endpoint.
    pub tunnel_key: TunnelKey,
}

/// A deal as both wallets sign it. Its struct hash is the [`DealId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deal {
    /// Network that binds it.
    pub network: NetworkId,
    /// The request it fills.
    pub request: RequestId,
    /// Which of the request's leases, counted from 0.
    #[cfg_attr(feature = "openapi", schema(maximum = 63))]
    pub leg: u8,
    /// The offer it takes from.
    pub offer: OfferId,
    /// Who leases.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub requester: Address,
    /// Who lends.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub provider: Address,
    /// Owner of the deposit that pays.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub payer: Address,
    /// Session key that signs the vouchers.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub payer_signer: Address,
    /// Where the payments go: the channel's provider.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub payout: Address,
    /// Salt of the channel.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub channel_salt: B256,
    /// Key that signs the receipts.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub agent_key: Address,
    /// WireGuard key of the provider.
    pub provider_tunnel_key: TunnelKey,
    /// WireGuard key of the requester.
    pub requester_tunnel_key: TunnelKey,
    /// The address that is sold.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::IpText))]
    pub exit_address: IpAddr,
    /// Keccak of the exit policy that holds for the lease.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub policy_hash: B256,
    /// What is charged.
    pub prices: Prices,
    /// The most that the lease may cost.
    pub budget: Amount,
    /// Length of the lease.
    pub seconds: u32,
    /// Whose byte counts are paid.
    pub counter_source: CounterSource,
    /// Both signatures by then.
    pub sign_by: UnixSeconds,
    /// It starts at this second: it is ready soon after.
    pub starts_at: UnixSeconds,
    /// Started by then.
    pub start_by: UnixSeconds,
    /// Makes the deal unique.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub salt: B256,
}

impl Deal {
    /// The deal that a proposal, the offer it names and the provider's terms make.
    ///
    /// Provider and broker both compute it, so neither has to trust the other's copy.
    pub fn new(proposal: &Proposal, offer: &Offer, terms: &ProviderTerms) -> Self {
        let request = &proposal.request.message;
        // Of a lease that was not asked for, the first one's: its requester does not sign that.
        let first = Leg {
            tunnel_key: request.tunnel_key,
            channel_salt: request.channel_salt,
        };
        let leg = request.leg(proposal.leg).unwrap_or(first);
        Self {
            network: request.network,
            request: request.id(),
            leg: proposal.leg,
            offer: proposal.offer,
            requester: request.requester,
            provider: offer.provider,
            payer: request.payer,
            payer_signer: request.payer_signer,
            payout: terms.payout,
            channel_salt: leg.channel_salt,
            agent_key: terms.agent_key,
            provider_tunnel_key: terms.tunnel_key,
            requester_tunnel_key: leg.tunnel_key,
            exit_address: proposal.exit_address,
            policy_hash: offer.policy_hash,
            prices: offer.prices,
            budget: request.budget,
            seconds: request.seconds,
            counter_source: request.counter_source,
            sign_by: proposal.sign_by,
            starts_at: proposal.starts_at,
            start_by: proposal.start_by,
            salt: proposal.salt,
        }
    }

    /// The deal's id.
    pub fn id(&self) -> DealId {
        DealId(self.struct_hash())
    }

    /// Whether it starts so far ahead that its first slice is paid with the signature, and lost when the requester does not
    /// come.
    pub fn is_prepaid(&self) -> bool {
        self.starts_at > self.sign_by.after(PREPAID_AHEAD)
    }

    /// Checks the voucher that pays the first slice ahead, as far as the deal alone tells. What the channel has paid before
    /// is told by [`Self::paid_before`].
    pub fn check_prepaid(
        &self,
        voucher: Option<&Signed<Voucher>>,
        domain: &Domain,
    ) -> Result<(), PrepaidFault> {
        let Some(voucher) = voucher else {
            return if self.is_prepaid() {
                Err(PrepaidFault::Missing(self.starts_at))
            } else {
                Ok(())
            };
        };
        if !self.is_prepaid() {
            return Err(PrepaidFault::NotAsked);
        }
        if voucher.message.channel_id != self.channel().id() {
            return Err(PrepaidFault::OtherChannel);
        }
        if voucher.message.receipt_hash != B256::ZERO {
            return Err(PrepaidFault::NotFirst);
        }
        let verified = voucher.verify(domain, self.payer_signer);
        verified.map_err(PrepaidFault::Signature)
    }

    /// What the channel had paid before a voucher for the first slice; none if it is for less than that.
    pub fn paid_before(&self, voucher: &Voucher) -> Option<Amount> {
        let first = self.terms().first_slice();
        (voucher.cumulative >= first).then(|| voucher.cumulative.saturating_sub(first))
    }

    /// The part of the deal that is metered.
    pub fn terms(&self) -> Terms {
        Terms {
            deal_id: self.id(),
            channel: self.channel(),
            prices: self.prices,
            max_seconds: u64::from(self.seconds),
            budget: self.budget,
            agent_key: self.agent_key,
            counter_source: self.counter_source,
        }
    }

    /// The payment channel that pays for it.
    pub fn channel(&self) -> Channel {
        Channel {
            network: self.network,
            payer: self.payer,
            payer_signer: self.payer_signer,
            provider: self.payout,
            salt: self.channel_salt,
        }
    }
}

impl TypedData for Deal {
    type Sol = sol::Deal;

    fn to_sol(&self) -> sol::Deal {
        sol::Deal {
            network: self.network.0,
            request: self.request.0,
            leg: self.leg,
            offer: self.offer.0,
            requester: self.requester,
            provider: self.provider,
            payer: self.payer,
            payerSigner: self.payer_signer,
            payout: self.payout,
            channelSalt: self.channel_salt,
            agentKey: self.agent_key,
            providerTunnelKey: self.provider_tunnel_key.0,
            requesterTunnelKey: self.requester_tunnel_key.0,
            exitAddress: self.exit_address.to_string(),
            policyHash: self.policy_hash,
            pricePerSecond: price_per_second(self.prices.per_second),
            pricePerGib: price_per_gib(self.prices.per_gib),
            budget: self.budget.0,
            numSeconds: self.seconds,
            counterSource: crate::typed_data::counter_source(self.counter_source),
            signBy: uint40(self.sign_by),
            startsAt: uint40(self.starts_at),
            startBy: uint40(self.start_by),
            salt: self.salt,
        }
    }
}

/// The voucher that pays the first slice ahead can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepaidFault {
    /// There is none.
    #[error(
        "the lease starts at {0}, so its first slice is to be paid with the signature: add the voucher as `prepaid`"
    )]
    Missing(UnixSeconds),
    /// There is one for a lease that starts at once.
    #[error("`prepaid` is for leases that start later; leave it out")]
    NotAsked,
    /// Of another channel.
    #[error("`prepaid` is a voucher of another channel than the deal's")]
    OtherChannel,
    /// It answers a receipt.
    #[error(
        "`prepaid` is a lease's first voucher, which answers no receipt: its hash must be zero"
    )]
    NotFirst,
    /// Not signed by the session key.
    #[error("`prepaid`: {0}")]
    Signature(VerifyError),
}

/// Whether a deal is bound. Written once, before it is released; two different ones prove fraud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Outcome {
    /// The deal.
    pub deal_id: DealId,
    /// Bound or aborted.
    pub outcome: Binding,
}

/// The two outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Binding {
    /// Every signature arrived in time.
    Bound,
    /// One did not.
    Aborted,
}

impl TypedData for Outcome {
    type Sol = sol::Outcome;

    fn to_sol(&self) -> sol::Outcome {
        let outcome = match self.outcome {
            Binding::Bound => 1,
            Binding::Aborted => 2,
        };
        sol::Outcome {
            dealId: self.deal_id.0,
            outcome,
        }
    }
}
