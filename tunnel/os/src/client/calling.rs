//! The first handshake of a client: tried again and again until it is answered.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{DropReason, PeerId, Reflected, Reflection};
use tokio::sync::{mpsc, oneshot};

use super::Punch;
use crate::engine::Context;

/// How long to wait for the first handshake's answer before asking again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest such wait, which is also the protocol's own.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How long to wait while a NAT may yet open: as long as two calls stay in the library's memory, an answer to either
/// counts.
const PUNCH_RETRY: Duration = Duration::from_millis(250);

/// How many calls are made like that: five seconds' worth, in which the provider has heard of them.
const PUNCHES: u32 = 20;

/// Calls the provider until it answers.
pub(crate) struct Calling {
    /// Told how long the first handshake took.
    ready: Option<oneshot::Sender<Duration>>,
    /// When the last try began.
    tried_at: Instant,
    /// When the next try is due, and how long to wait after it; none once there was a handshake.
    next_try: Option<(Instant, Duration)>,
    /// How to come through NATs, until there was a handshake.
    punching: Option<Punching>,
}

struct Punching {
    reflection: Reflection,
    mapped: mpsc::Sender<SocketAddr>,
    calls_left: u32,
}

impl Calling {
    /// Calls at once; `ready` is told how long the answer took.
    pub(crate) fn new(
        ready: oneshot::Sender<Duration>,
        punch: Option<Punch>,
        now: Instant,
    ) -> Self {
        let punching = punch.map(|punch| Punching {
            reflection: Reflection::new(punch.reflector, true, now),
            mapped: punch.mapped,
            calls_left: PUNCHES,
        });
        Self {
            ready: Some(ready),
            tried_at: now,
            next_try: Some((now, FIRST_RETRY)),
            punching,
        }
    }

    /// There was a handshake.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.next_try = None;
        self.punching = None;
        if let Some(ready) = self.ready.take() {
            // Whoever waited may have given up.
            let _ = ready.send(now.saturating_duration_since(self.tried_at));
        }
    }

    /// Takes a STUN message that came to the socket.
    pub(crate) fn handle_stun(&mut self, from: SocketAddr, message: &[u8], cx: &mut Context<'_>) {
        let punching = self.punching.as_mut();
        let heard = punching.and_then(|punching| {
            let heard = punching.reflection.handle_message(from, message, cx.now)?;
            Some((heard, &punching.mapped))
        });
        match heard {
            // A slow reader has an answer already.
            Some((Reflected::Mapped(endpoint), mapped)) => drop(mapped.try_send(endpoint)),
            // A provider that knocks, or whoever takes this for one.
            Some((Reflected::Token(_), _)) | None => cx.drops.add(DropReason::NotWireGuard),
        }
    }

    /// Calls `peer` if it is time.
    pub(crate) fn handle_timeout(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        if let Some(punching) = &mut self.punching {
            cx.ask(&mut punching.reflection);
        }
        if let Some((at, wait)) = self.next_try
            && at <= cx.now
        {
            self.tried_at = cx.now;
            self.next_try = Some(match &mut self.punching {
                Some(punching) if punching.calls_left > 0 => {
                    punching.calls_left -= 1;
                    (cx.now + PUNCH_RETRY, wait)
                }
                _ => (cx.now + wait, (wait * 2).min(LONGEST_RETRY)),
            });
            // The peer and its endpoint are there since the start, so this can't fail.
            let _ = cx.device.initiate_again(peer, cx.now);
        }
    }

    /// When the next call is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let call = self.next_try.map(|(at, _)| at);
        let ask = self.punching.as_ref();
        let ask = ask.and_then(|punching| punching.reflection.poll_timeout());
        [call, ask].into_iter().flatten().min()
    }
}
