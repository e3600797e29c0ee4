//! What a requester wants, and the request that asks for it.

use ipsx_market::offer::{LONGEST_LEASE, SHORTEST_LEASE};
use ipsx_market::request::{CounterSource, Filter, Request, TunnelKey};
use ipsx_market::start::StartWindow;
use ipsx_metering::{Address, Amount, B256, NetworkId, Prices, UnixSeconds};

/// What is wanted, and what it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Conditions on the address.
    pub filter: Filter,
    /// The highest prices.
    pub max_prices: Prices,
    /// The most that the lease may cost in all.
    pub budget: Amount,
    /// Length of the lease in seconds, [`SHORTEST_LEASE`] to [`LONGEST_LEASE`].
    pub seconds: u32,
    /// When it may start.
    pub start: StartWindow,
    /// Bytes that the lease will carry about; offers are compared by what that costs.
    pub expected_bytes: u64,
    /// Whose byte counts are paid.
    pub counter_source: CounterSource,
}

/// Who asks, who pays and with which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The requester's wallet.
    pub requester: Address,
    /// Owner of the deposit that pays.
    pub payer: Address,
    /// Session key that signs the vouchers.
    pub payer_signer: Address,
    /// Salt of the payment channel.
    pub channel_salt: B256,
    /// WireGuard key of this lease.
    pub tunnel_key: TunnelKey,
}

/// Wishes that no request can carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// Too short or too long.
    #[error("a lease of {0} s cannot be asked for: ask for {SHORTEST_LEASE} to {LONGEST_LEASE} s")]
    Duration(u32),
    /// No money.
    #[error("a budget of 0 pays for nothing: name the most that the lease may cost")]
    NoBudget,
}

impl Wishes {
    /// The request, to be signed by the requester's wallet. `nonce` must be new; the request is void after `expires_at`.
    pub fn request(
        &self,
        network: NetworkId,
        identity: &Identity,
        nonce: u64,
        expires_at: UnixSeconds,
    ) -> Result<Request, WishError> {
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&self.seconds) {
            return Err(WishError::Duration(self.seconds));
        }
        if self.budget == Amount::ZERO {
            return Err(WishError::NoBudget);
        }
        Ok(Request {
            network,
            requester: identity.requester,
            nonce,
            filter: self.filter.clone(),
            max_prices: self.max_prices,
            budget: self.budget,
            seconds: self.seconds,
            start: self.start,
            expected_bytes: self.expected_bytes,
            payer: identity.payer,
            payer_signer: identity.payer_signer,
            channel_salt: identity.channel_salt,
            tunnel_key: identity.tunnel_key,
            counter_source: self.counter_source,
            expires_at,
            rest_until: UnixSeconds(0),
            bundle: Default::default(),
        })
    }
}
