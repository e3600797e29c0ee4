//! The first handshake of a client: tried again and again until it is answered.

use std::time::{Duration, Instant};

use ipsx_tunnel_core::PeerId;
use tokio::sync::oneshot;

use crate::engine::Context;

/// How long to wait for the first handshake's answer before asking again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest such wait, which is also the protocol's own.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Calls the provider until it answers.
pub(crate) struct Calling {
    /// Told how long the first handshake took.
    ready: Option<oneshot::Sender<Duration>>,
    /// When the last try began.
    tried_at: Instant,
    /// When the next try is due, and how long to wait after it; none once there was a handshake.
    next_try: Option<(Instant, Duration)>,
}

impl Calling {
    /// Calls at once; `ready` is told how long the answer took.
    pub(crate) fn new(ready: oneshot::Sender<Duration>, now: Instant) -> Self {
        Self {
            ready: Some(ready),
            tried_at: now,
            next_try: Some((now, FIRST_RETRY)),
        }
    }

    /// There was a handshake.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.next_try = None;
        if let Some(ready) = self.ready.take() {
            // Whoever waited may have given up.
            let _ = ready.send(now.saturating_duration_since(self.tried_at));
        }
    }

    /// Calls `peer` if it is time.
    pub(crate) fn handle_timeout(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        if let Some((at, wait)) = self.next_try
            && at <= cx.now
        {
            self.tried_at = cx.now;
            self.next_try = Some((cx.now + wait, (wait * 2).min(LONGEST_RETRY)));
            // The peer and its endpoint are there since the start, so this can't fail.
            let _ = cx.device.initiate_again(peer, cx.now);
        }
    }

    /// When the next call is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_try.map(|(at, _)| at)
    }
}
