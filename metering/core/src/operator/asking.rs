//! What the operator is asked to promise, and what it answers.

use crate::{Address, Amount, Channel, NetworkId, UnixSeconds};

/// A promise that the operator cannot make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// For another network.
    #[error("the channel belongs to network {found}, this operator runs {expected}")]
    WrongNetwork {
        /// This ledger's network.
        expected: NetworkId,
        /// The channel's or withdrawal's network.
        found: NetworkId,
    },
    /// The deposit does not cover it.
    #[error(
        "payer {payer} has {available} left to promise and this needs {needed}; deposit more or wait for claims"
    )]
    NotCovered {
        /// Owner of the deposit.
        payer: Address,
        /// What the promise would add.
        needed: Amount,
        /// What is left.
        available: Amount,
    },
    /// Ends too late, too soon, or after the voucher key.
    #[error(
        "a reservation until {valid_until} is refused: it must end after {earliest} and no later than {latest}"
    )]
    BadTime {
        /// The end that was asked for.
        valid_until: UnixSeconds,
        /// The chain's time.
        earliest: UnixSeconds,
        /// Block time + 23 h, or the voucher key's end if sooner.
        latest: UnixSeconds,
    },
}

/// What became of a provider's `Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// This much can be promised again at once.
    Now(Amount),
    /// The credit line is used up: the capacity counts until it has lapsed on chain.
    Later,
}

/// A reservation that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// On this channel.
    pub channel: &'a Channel,
    /// Up to this cumulative amount.
    pub capacity: Amount,
    /// Until then.
    pub valid_until: UnixSeconds,
    /// What the chain says of the channel.
    pub chain: &'a ChannelOnChain,
}

/// What the chain says about a channel, for a new promise on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOnChain {
    /// Time of the newest block.
    pub block_time: UnixSeconds,
    /// Last second at which the channel's voucher key counts.
    pub signer_valid_to: UnixSeconds,
    /// Claimed so far, in final blocks.
    pub claimed: Amount,
    /// Held now, in final blocks.
    pub held: Amount,
}
