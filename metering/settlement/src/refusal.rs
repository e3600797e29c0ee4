//! The contract's reasons, in words.

use alloy_sol_types::SolInterface;
use ipsx_metering::{Amount, UnixSeconds};

use crate::bindings::{
    Centralizer::{CentralizerErrors, Skip},
    Erc20Permit::Erc20PermitErrors,
};
use crate::contract::{SkipReason, amount, time};

/// Why the contract refused a call. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An address that must be given is zero.
    #[error("an address is zero")]
    ZeroAddress,
    /// The contract itself can't be paid.
    #[error("the contract can't be paid out to; name another recipient")]
    PayoutToSelf,
    /// More than 10 %.
    #[error("the fee is above 10 %")]
    FeeTooHigh,
    /// This creator has opened a network with these parameters before.
    #[error("the network exists already; choose another salt for a second one")]
    NetworkExists,
    /// Never created on this contract.
    #[error("there is no such network on this contract")]
    NoSuchNetwork,
    /// For the network's admin key only.
    #[error("only the network's admin key may do this")]
    NotAdmin,
    /// For the owner of the deposit only.
    #[error("only the owner of the deposit may do this")]
    NotOwner,
    /// For the channel's provider only.
    #[error("only the channel's provider may do this")]
    NotProvider,
    /// A waiting time has not passed.
    #[error("too early: possible from {0} (seconds since 1970) on")]
    TooEarly(UnixSeconds),
    /// Nothing was asked for, or it was taken already.
    #[error("no withdrawal was requested, or it was taken already")]
    NothingPending,
    /// The message was used before, or another one has to come first.
    #[error("the message's number is not {0}, the next one; sign it again")]
    WrongNonce(u64),
    /// After the message's deadline.
    #[error("the message's deadline has passed; sign it again")]
    Expired,
    /// Somebody else signed, or something else was signed.
    #[error("the signature is not the right one for this message")]
    InvalidSignature,
    /// More than there is.
    #[error("only {0} units are available")]
    InsufficientFunds(Amount),
    /// The token took the transfer but delivered nothing.
    #[error("the transfer delivered no tokens")]
    NothingArrived,
    /// The contract would hold 2^96 units or more.
    #[error("the contract can't hold that many tokens")]
    TooManyTokens,
    /// The row to hold would not be paid either.
    #[error("nothing can be held: {0}")]
    HoldRejected(SkipReason),
    /// The reservation ends more than 24 h ahead.
    #[error("a reservation that ends more than 24 h ahead can't be held")]
    HoldTooLong,
    /// The payer asked to leave, and the hold would outlast that.
    #[error("the payer is leaving; the hold can't be kept longer")]
    HoldDuringExit,
    /// The token contract called back.
    #[error("the token called back into the contract")]
    Reentrant,
    /// Not allowed to take that many tokens.
    #[error(
        "the contract may take {allowance} units of the token, {needed} are needed; approve them first"
    )]
    Allowance {
        /// What it may take.
        allowance: Amount,
        /// What it tried to take.
        needed: Amount,
    },
    /// The wallet has not enough tokens.
    #[error("the wallet has {balance} units of the token, {needed} are needed")]
    Tokens {
        /// What it has.
        balance: Amount,
        /// What it should pay.
        needed: Amount,
    },
    /// Something else, in the contract's encoding.
    #[error("reason {0}")]
    Other(String),
}

impl Refusal {
    /// Reads the data of a revert.
    pub(crate) fn decode(data: &[u8]) -> Self {
        if let Ok(error) = CentralizerErrors::abi_decode(data) {
            return Self::from_contract(error, data);
        }
        match Erc20PermitErrors::abi_decode(data) {
            Ok(Erc20PermitErrors::ERC20InsufficientAllowance(e)) => Self::Allowance {
                allowance: amount(e.allowance),
                needed: amount(e.needed),
            },
            Ok(Erc20PermitErrors::ERC20InsufficientBalance(e)) => Self::Tokens {
                balance: amount(e.balance),
                needed: amount(e.needed),
            },
            Err(_) => Self::other(data),
        }
    }

    fn from_contract(error: CentralizerErrors, data: &[u8]) -> Self {
        use CentralizerErrors as E;
        match error {
            E::ZeroAddress(_) => Self::ZeroAddress,
            E::PayoutToSelf(_) => Self::PayoutToSelf,
            E::FeeTooHigh(_) => Self::FeeTooHigh,
            E::NetworkExists(_) => Self::NetworkExists,
            E::NoSuchNetwork(_) => Self::NoSuchNetwork,
            E::NotAdmin(_) => Self::NotAdmin,
            E::NotOwner(_) => Self::NotOwner,
            E::NotProvider(_) => Self::NotProvider,
            E::TooEarly(e) => Self::TooEarly(time(e.notBefore)),
            E::NothingPending(_) => Self::NothingPending,
            E::WrongNonce(e) => Self::WrongNonce(e.expected.saturating_to()),
            E::Expired(_) => Self::Expired,
            E::InvalidSignature(_) => Self::InvalidSignature,
            E::InsufficientFunds(e) => Self::InsufficientFunds(amount(e.available)),
            E::NothingArrived(_) => Self::NothingArrived,
            E::TooManyTokens(_) => Self::TooManyTokens,
            E::HoldRejected(e) => Self::HoldRejected(e.reason.into()),
            E::HoldTooLong(_) => Self::HoldTooLong,
            E::HoldDuringExit(_) => Self::HoldDuringExit,
            E::ReentrancyGuardReentrantCall(_) => Self::Reentrant,
            E::SafeERC20FailedOperation(_) | E::InvalidShortString(_) | E::StringTooLong(_) => {
                Self::other(data)
            }
        }
    }

    fn other(data: &[u8]) -> Self {
        Self::Other(match data {
            [] => "not given".into(),
            data => format!("0x{}", hex::encode(data)),
        })
    }
}

impl From<Skip> for SkipReason {
    fn from(reason: Skip) -> Self {
        match reason {
            Skip::Expired => Self::Expired,
            Skip::SignerExpired => Self::SignerExpired,
            Skip::NotOperator => Self::NotOperator,
            Skip::NotPayerSigner => Self::NotPayerSigner,
            Skip::NothingDue => Self::NothingDue,
            Skip::Unfunded => Self::Unfunded,
            Skip::__Invalid => Self::Unknown,
        }
    }
}
