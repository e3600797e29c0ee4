//! The requester: decides what is asked for, which deal is signed, what is paid and when to stop. The shell beside it
//! sends, stores and asks the user.
//!
//! 1. [`Wishes::request`] makes the request; the shell signs and posts it.
//! 2. [`check_proposal`] is passed before the deal is signed. The shell stores the deal before the signature leaves.
//! 3. [`check_bound`] and [`check_ready`] are passed before a packet is sent.
//! 4. [`Lease`] does the rest, one event at a time.

mod check;
mod echo;
mod ending;
mod event;
mod exit_check;
mod lease;
mod wishes;

#[cfg(test)]
mod tests;

pub use check::{
    BindingFault, LONGEST_WAIT_SECS, ProposalFault, ReadyFault, check_bound, check_bundle,
    check_proposal, check_ready,
};
#[cfg(test)]
pub(crate) use echo::Echoes;
pub use ending::{Blame, EndReason, Ending, in_words};
pub use event::{LeaseEvent, PaymentPath, Progress};
pub use exit_check::ExitSeen;
pub use lease::{Lease, LeaseSettings};
pub use wishes::{Identity, WishError, Wishes};
