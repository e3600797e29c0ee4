//! What a prober is told, and what it tells.

use ipsx_metering::{Address, B256, OfferId, Prices, Signed, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::Standing;
use crate::echo::Echo;
use crate::place::Country;

/// The header that tells the broker which probe a request is for.
pub const PROBE_HEADER: &str = "ipsx-probe";

/// What a prober is told: an offer to lease from as a customer would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOrder {
    /// Goes with the request, to the broker alone, and with the outcome.
    pub task: B256,
    /// To ask the echo with.
    pub nonce: B256,
    /// The offer.
    pub offer: OfferId,
    /// Who offers it: a prober comes to each with an account that it does not know.
    pub provider: Address,
    /// Country to ask for, as a customer might.
    pub country: Option<Country>,
    /// What it costs.
    pub prices: Prices,
    /// Shortest lease in seconds.
    pub min_seconds: u32,
    /// Longest lease in seconds.
    pub max_seconds: u32,
    /// The outcome is expected by then.
    pub until: UnixSeconds,
}

/// What a probe measured, as far as it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Round trip to the exit and back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u16>,
    /// Mbit/s that an upload reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbit_up: Option<u32>,
    /// Mbit/s that a download reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbit_down: Option<u32>,
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The network's echo was fetched through the tunnel.
    Seen {
        /// What it answered.
        echo: Box<Signed<Echo>>,
        /// What was measured meanwhile.
        #[serde(default)]
        timed: Timed,
    },
    /// There was a lease, and no echo came through it.
    Silent {
        /// Why, in words.
        reason: String,
    },
    /// There was no lease, or something on the prober's side was wrong.
    Missed {
        /// Why, in words.
        reason: String,
    },
}

/// What a probe made of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where it stands now.
    pub standing: Standing,
}
