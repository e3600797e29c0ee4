//! The first handshake of a client: tried again and again until it is answered, by a relay if there is no other way.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{DropReason, PeerId, Reflected, Reflection};
use tokio::sync::{mpsc, oneshot};

use super::{Punch, TunnelStatus};
use crate::{
    engine::Context,
    relays::{Relay, Relays},
};

/// How long to wait for the first handshake's answer before asking again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest such wait, which is also the protocol's own.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How long to wait while a NAT may yet open: as long as two calls stay in the library's memory, an answer to either
/// counts.
const PUNCH_RETRY: Duration = Duration::from_millis(250);

/// How many calls are made like that: five seconds' worth, in which the provider has heard of them.
const PUNCHES: u32 = 20;

/// After how long without an answer, or without anything by a relay, one is asked for.
const SILENT: Duration = Duration::from_secs(6);

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
    /// As long as one is used, or may be needed.
    relaying: Option<Relaying>,
}

struct Relaying {
    wanted: mpsc::Sender<()>,
    /// The one that is used, with what it asks.
    used: Option<(Relay, Relays)>,
    /// When to look whether one is needed.
    look_at: Instant,
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
        let relay = punch.as_ref().and_then(|punch| punch.relay.as_ref());
        let relaying = relay.map(|source| Relaying {
            wanted: source.wanted.clone(),
            used: None,
            look_at: now + SILENT,
        });
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
            relaying,
        }
    }

    /// There was a handshake.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.next_try = None;
        self.punching = None;
        // Who came through both NATs has no use for one.
        self.relaying.take_if(|relaying| relaying.used.is_none());
        if let Some(ready) = self.ready.take() {
            // Whoever waited may have given up.
            let _ = ready.send(now.saturating_duration_since(self.tried_at));
        }
    }

    /// Calls `peer` by a relay from now on, in place of an earlier one.
    pub(crate) fn relay(&mut self, relay: Relay, peer: PeerId, cx: &mut Context<'_>) {
        let Some(relaying) = &mut self.relaying else {
            return;
        };
        if relaying
            .used
            .as_ref()
            .is_some_and(|(used, _)| *used == relay)
        {
            return;
        }
        let mut relays = Relays::default();
        relays.join(relay, cx.now);
        relaying.used = Some((relay, relays));
        relaying.look_at = cx.now + SILENT;
        cx.device.set_endpoint(peer, relay.address);
        if let Some((_, wait)) = self.next_try {
            self.next_try = Some((cx.now, wait));
            // The provider is only being told, as it was before.
            if let Some(punching) = &mut self.punching {
                punching.calls_left = PUNCHES;
            }
        }
    }

    /// How the tunnel to `peer` is doing.
    pub(crate) fn status(&self, peer: PeerId, cx: &Context<'_>) -> Option<TunnelStatus> {
        let used = self.relaying.as_ref().and_then(|r| r.used.as_ref());
        let relay = used.map(|(relay, _)| relay.address);
        let status = cx.device.status(peer)?;
        Some(TunnelStatus::new(&status, relay, cx.now))
    }

    /// Asks for a relay, if nothing comes by any other way, or by the one that is used.
    fn look_for_relay(&mut self, peer: PeerId, cx: &Context<'_>) {
        let Some(relaying) = &mut self.relaying else {
            return;
        };
        if relaying.look_at > cx.now {
            return;
        }
        relaying.look_at = cx.now + SILENT;
        let heard = cx.device.status(peer).and_then(|peer| peer.last_received);
        if heard.is_none_or(|at| at + SILENT <= cx.now) {
            // Whoever is being asked already need not hear it again.
            let _ = relaying.wanted.try_send(());
        }
    }

    /// Takes a STUN message that came to the socket.
    pub(crate) fn handle_stun(&mut self, from: SocketAddr, message: &[u8], cx: &mut Context<'_>) {
        let used = self.relaying.as_mut().and_then(|r| r.used.as_mut());
        if used.is_some_and(|(_, relays)| relays.handle_stun(from, message, cx)) {
            return;
        }
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
        if let Some((_, relays)) = self.relaying.as_mut().and_then(|r| r.used.as_mut()) {
            relays.handle_timeout(cx);
        }
        self.look_for_relay(peer, cx);
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
        let relaying = self.relaying.as_ref();
        let look = relaying.map(|relaying| relaying.look_at);
        let used = relaying.and_then(|relaying| relaying.used.as_ref());
        let hello = used.and_then(|(_, relays)| relays.poll_timeout());
        [call, ask, look, hello].into_iter().flatten().min()
    }
}
