//! What the requester's side of a lease tells its shell, and what it is told.

use std::net::IpAddr;
use std::time::Duration;

use ipsx_market::payment::PayerMessage;
use ipsx_metering::{Amount, ChannelState, Usage};

use super::ending::Ending;

/// How payment messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentPath {
    /// As control datagrams in the tunnel that this program runs.
    Tunnel,
    /// As sealed frames through the broker, while some other client runs the tunnel.
    Broker,
}

/// Something to do or to show. Carry them out in the order in which they come, each before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Write the channel's state to disk; nothing after it may happen before that is durable.
    Store(Box<ChannelState>),
    /// Send to the provider. A message that cannot be sent is as good as lost, which is allowed.
    Send(PayerMessage),
    /// The provider answers: tell the broker that the tunnel is up.
    Connected {
        /// How long the answer took.
        round_trip: Duration,
    },
    /// The provider has the first voucher on its disk: traffic passes.
    Serving,
    /// Find out which address the web sees through the tunnel and hand the answer to `handle_exit`.
    CheckExit,
    /// The exit is the one that was sold.
    ExitProven(IpAddr),
    /// One more second of service.
    Second(Progress),
    /// The provider claims more than was measured here, and only what was measured is paid; or its connection record is
    /// wrong, and nothing more is.
    Disputed(String),
    /// The two sides agree again.
    Settled,
    /// Over. Report it to the broker; nothing comes after it.
    Ended(Box<Ending>),
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole seconds since the provider's first answer.
    pub elapsed: u64,
    /// What was used, by this side's own count.
    pub usage: Usage,
    /// What this lease's vouchers promise so far.
    pub promised: Amount,
    /// What of it the provider has on its disk.
    pub accepted: Amount,
    /// Vouchers signed for this lease.
    pub vouchers: u64,
}
