//! Who broke the protocol, and by which numbers.
//!
//! A message that comes back as [`Misbehaved`] has changed nothing, unless the fault says so; whether to end the lease over it is the
//! caller's choice.

use crate::{Amount, B256, ChannelId, ConnectionFault, DealId, UnixSeconds, Usage, VerifyError};

/// A message that an honest peer would not have sent, by the one to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaved {
    /// The payer sent it.
    #[error("the payer misbehaved: {0}")]
    Payer(#[from] PayerFault),
    /// The provider sent it.
    #[error("the provider misbehaved: {0}")]
    Provider(#[from] ProviderFault),
    /// The network's operator signed it.
    #[error("the network's operator misbehaved: {0}")]
    Operator(#[from] OperatorFault),
}

impl Misbehaved {
    /// A short, stable name, for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Payer(PayerFault::Signature { .. }) => "signature",
            Self::Payer(PayerFault::WrongChannel { .. }) => "channel",
            Self::Payer(PayerFault::OverBudget { .. }) => "over_budget",
            Self::Payer(PayerFault::UnknownReceipt { .. }) => "receipt",
            Self::Provider(_) => "provider",
            Self::Operator(_) => "operator",
        }
    }
}

/// What is wrong with a voucher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayerFault {
    /// Not signed by the channel's voucher key.
    #[error(
        "the voucher for {cumulative} on channel {channel} is not signed by its payer: {cause}"
    )]
    Signature {
        /// The channel.
        channel: ChannelId,
        /// The voucher's amount.
        cumulative: Amount,
        /// What failed.
        cause: VerifyError,
    },
    /// For some other channel.
    #[error("the voucher is for channel {found}, but the deal pays through {expected}")]
    WrongChannel {
        /// The deal's channel.
        expected: ChannelId,
        /// The voucher's channel.
        found: ChannelId,
    },
    /// Overdraws the deal; the channel should be abandoned for a new salt.
    #[error(
        "the voucher promises {cumulative}, but the deal ends at {most}; use a new channel for this payer"
    )]
    OverBudget {
        /// The voucher's amount.
        cumulative: Amount,
        /// What was paid before the deal, plus its budget.
        most: Amount,
    },
    /// Answers no receipt that this provider has signed since the last voucher, so that it proves no service. Its money is
    /// kept all the same.
    #[error(
        "the voucher for {cumulative} answers receipt {found}, which is none of this lease's latest"
    )]
    UnknownReceipt {
        /// The voucher's amount.
        cumulative: Amount,
        /// Hash of the receipt that it names; zero for none.
        found: B256,
    },
}

/// What is wrong with a receipt, or a `Close`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderFault {
    /// Not signed by the agent key named in the deal.
    #[error("receipt {seq} is not signed by the deal's agent key: {cause}")]
    Signature {
        /// The receipt's number.
        seq: u64,
        /// What failed.
        cause: VerifyError,
    },
    /// For some other channel.
    #[error("receipt {seq} is for channel {found}, but the deal pays through {expected}")]
    WrongChannel {
        /// The receipt's number.
        seq: u64,
        /// The deal's channel.
        expected: ChannelId,
        /// The receipt's channel.
        found: ChannelId,
    },
    /// For some other deal, and not an earlier one of this channel arriving late.
    #[error("receipt {seq} is for deal {found}, but {expected} is being served")]
    WrongDeal {
        /// The receipt's number.
        seq: u64,
        /// The live deal.
        expected: DealId,
        /// The receipt's deal.
        found: DealId,
    },
    /// The amount is not what the receipt's own totals cost.
    #[error(
        "receipt {seq} asks {found} for {} s and {} bytes, which cost {expected} under the deal",
        usage.secs, usage.bytes()
    )]
    WrongAmount {
        /// The receipt's number.
        seq: u64,
        /// Its totals.
        usage: Usage,
        /// What they cost.
        expected: Amount,
        /// What it asks.
        found: Amount,
    },
    /// The cumulative amount is more than earlier deals plus this one.
    #[error(
        "receipt {seq} wants the voucher to reach {found}, but earlier deals and this one add up to {expected}"
    )]
    WrongCumulative {
        /// The receipt's number.
        seq: u64,
        /// Paid before the deal plus the deal's amount.
        expected: Amount,
        /// What it asks.
        found: Amount,
    },
    /// Two different receipts carry one number: proof of lying to somebody.
    #[error("receipt number {seq} was used for two different receipts")]
    RepeatedSeq {
        /// The number.
        seq: u64,
    },
    /// A `Close` for some other channel.
    #[error("the close is for channel {found}, expected {expected}")]
    CloseOfAnother {
        /// The channel in question.
        expected: ChannelId,
        /// The close's channel.
        found: ChannelId,
    },
    /// A `Close` that the channel's payout address has not signed.
    #[error("the close of channel {channel} is not signed by its provider: {cause}")]
    CloseSignature {
        /// The channel.
        channel: ChannelId,
        /// What failed.
        cause: VerifyError,
    },
    /// The connection record in its receipts is not that of the payer's connections.
    #[error("its connection record is wrong: {0}")]
    Connections(#[from] ConnectionFault),
    /// Claims more than the payer measured, tolerance and slice included.
    #[error(
        "receipt {seq} claims {} s and {} bytes ({claimed}); measured here with tolerance: {} s and {} bytes ({payable}, \
         and at most {ahead} is paid ahead)",
        usage.secs, usage.bytes(), own.secs, own.bytes()
    )]
    Overclaimed {
        /// The receipt's number.
        seq: u64,
        /// The provider's totals.
        usage: Usage,
        /// The most that the payer's own totals support, tolerance included.
        own: Usage,
        /// What the provider's totals cost.
        claimed: Amount,
        /// What of it the payer accepts.
        payable: Amount,
        /// The slice that is paid ahead.
        ahead: Amount,
    },
}

/// What is wrong with a reservation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorFault {
    /// Not signed by the operator key that the chain knows.
    #[error(
        "the reservation on channel {channel} is not signed by the network's operator: {cause}"
    )]
    Signature {
        /// The channel.
        channel: ChannelId,
        /// What failed.
        cause: VerifyError,
    },
    /// For some other channel.
    #[error("the reservation is for channel {found}, but the deal pays through {expected}")]
    WrongChannel {
        /// The deal's channel.
        expected: ChannelId,
        /// The reservation's channel.
        found: ChannelId,
    },
    /// Lasts longer than a rotation or a withdrawal would leave it claimable.
    #[error(
        "the reservation lasts until {valid_until}, but no later than {latest} is safe (block time + 23 h)"
    )]
    TooLong {
        /// The reservation's end.
        valid_until: UnixSeconds,
        /// The latest acceptable end.
        latest: UnixSeconds,
    },
    /// Lasts longer than the voucher key's authorization.
    #[error(
        "the reservation lasts until {valid_until}, but the voucher key only until {signer_valid_to}"
    )]
    OutlivesSigner {
        /// The reservation's end.
        valid_until: UnixSeconds,
        /// The key's end.
        signer_valid_to: UnixSeconds,
    },
    /// Ends before two slices could be served.
    #[error(
        "the reservation ends at {valid_until}, less than two slices after block time {block_time}"
    )]
    TooShort {
        /// The reservation's end.
        valid_until: UnixSeconds,
        /// The chain's time.
        block_time: UnixSeconds,
    },
    /// Does not cover the latest voucher and the next slice.
    #[error(
        "the reservation covers {capacity}, but the latest voucher and the next slice need {needed}"
    )]
    TooSmall {
        /// The reservation's capacity.
        capacity: Amount,
        /// The latest voucher plus the next slice.
        needed: Amount,
    },
    /// Promises more than the chain would pay.
    #[error(
        "the reservation promises {capacity}, but the payer's account covers only {payable} of this channel"
    )]
    NotCovered {
        /// The reservation's capacity.
        capacity: Amount,
        /// The highest cumulative amount that the chain would pay.
        payable: Amount,
    },
}
