//! What a lease has moved.

use serde::{Deserialize, Serialize};

/// Inner IP bytes of one peer, seen from the one who uses the address; control datagrams are never in it.
///
/// Up is what left towards the internet: sent by the client, or accepted by the exit. Down is what came back:
/// encrypted to the peer, or received by the client on a flow that it opened. On a path without loss and without
/// refused packets both ends count the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inner IP bytes from the client towards the internet.
    pub bytes_up: u64,
    /// Inner IP bytes from the internet towards the client.
    pub bytes_down: u64,
}

impl Usage {
    /// Both directions added up.
    pub fn bytes(self) -> u64 {
        self.bytes_up.saturating_add(self.bytes_down)
    }
}
