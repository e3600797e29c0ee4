//! How a lease ended, and whose doing it was.

use std::fmt;
use std::net::IpAddr;

use ipsx_market::messages::{EndCause, EndReport};
use ipsx_metering::{EndCause as MeterCause, Misbehaved};

/// Whose doing the end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It came as agreed, or the requester wanted it.
    Nobody,
    /// The provider did not keep to the deal.
    Provider,
    /// The payer's side could not go on.
    Requester,
}

/// Why a lease ended, in this side's judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// By the meter, or by somebody's wish.
    Cause(EndCause),
    /// The web sees another address than the one sold.
    WrongExit {
        /// The address sold.
        sold: IpAddr,
        /// The address seen.
        seen: IpAddr,
    },
    /// The exit's address could not be found out, so nothing more was paid.
    ExitUnknown,
    /// The provider's numbers or signatures were wrong, as the last of them shows.
    Misbehaved(Box<Misbehaved>),
}

impl EndReason {
    /// The reason as the broker is told.
    pub fn cause(&self) -> EndCause {
        match self {
            Self::Cause(cause) => *cause,
            Self::WrongExit { .. } => EndCause::WrongExit,
            // Perhaps the page that tells the address is down: no reproach to the provider.
            Self::ExitUnknown => EndCause::RequesterEnded,
            Self::Misbehaved(_) => EndCause::Misbehaved,
        }
    }

    /// Whose doing it was.
    pub fn blame(&self) -> Blame {
        match self.cause() {
            EndCause::Completed | EndCause::BudgetSpent => Blame::Nobody,
            EndCause::RequesterEnded if matches!(self, Self::ExitUnknown) => Blame::Requester,
            EndCause::RequesterEnded => Blame::Nobody,
            EndCause::Unpaid | EndCause::CapacityLapsed => Blame::Requester,
            EndCause::ProviderEnded
            | EndCause::NoService
            | EndCause::WrongExit
            | EndCause::Misbehaved
            | EndCause::NotStarted
            | EndCause::Restarted => Blame::Provider,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self {
            Self::WrongExit { sold, seen } => {
                return write!(f, "the exit is {seen}, but {sold} was sold");
            }
            Self::ExitUnknown => {
                return f.write_str(
                    "the exit's address could not be found out (is the page of --exit-check up?)",
                );
            }
            Self::Misbehaved(fault) => return write!(f, "{fault}"),
            Self::Cause(cause) => cause,
        };
        f.write_str(in_words(*cause))
    }
}

/// A cause in words, from the requester's side.
pub fn in_words(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Completed => "its time is up",
        EndCause::BudgetSpent => "its budget is used up",
        EndCause::RequesterEnded => "ended by this side",
        EndCause::ProviderEnded => "the provider ended it early",
        EndCause::Unpaid => "the provider saw no payment",
        EndCause::NoService => "the tunnel stopped carrying data",
        EndCause::WrongExit => "the exit's address is not the one sold",
        EndCause::Misbehaved => "the provider's numbers or signatures were wrong",
        EndCause::CapacityLapsed => "the network did not renew the payment reservation",
        EndCause::NotStarted => "the provider did not start it in time",
        EndCause::Restarted => "a side lost its state and came back",
    }
}

/// A lease that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// What the broker is told.
    pub report: EndReport,
}

/// What the meter says, in the market's words.
pub(super) fn from_meter(cause: MeterCause) -> EndCause {
    match cause {
        MeterCause::TimeUp => EndCause::Completed,
        MeterCause::BudgetSpent => EndCause::BudgetSpent,
        MeterCause::PayerEnded => EndCause::RequesterEnded,
        MeterCause::ProviderEnded | MeterCause::OperatorEnded => EndCause::ProviderEnded,
        MeterCause::NotPaid | MeterCause::Unpaid => EndCause::Unpaid,
        MeterCause::PeerSilent | MeterCause::NoService => EndCause::NoService,
        MeterCause::Uncovered => EndCause::CapacityLapsed,
        MeterCause::Disputed => EndCause::Misbehaved,
    }
}
