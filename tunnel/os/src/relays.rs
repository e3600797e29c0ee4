//! Relays that this end of a tunnel is reached by.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ipsx_relay::{Party, Token};
use tokio::sync::{mpsc, watch};

use crate::{engine::Context, link::Link};

/// A lease's port at a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Where it is.
    pub address: SocketAddr,
    /// By which this side shows where it is.
    pub token: Token,
}

/// Where a client gets a relay from.
#[derive(Debug, Clone)]
pub struct RelaySource {
    /// The relay's address, at which a lease has a port of its own.
    pub address: IpAddr,
    /// Told when no other way was found, or when nothing has come by the relay for some seconds.
    pub wanted: mpsc::Sender<()>,
    /// The relay, each time that there is another one, or the same is to be tried again; or why there is none.
    pub given: watch::Receiver<Option<Result<Relay, String>>>,
}

impl RelaySource {
    /// Hands each relay to a client's loop, for as long as there is somebody who gives any.
    pub(crate) fn pass_on<C: Send + 'static>(&self, link: Link<C>, command: fn(Relay) -> C) {
        let mut given = self.given.clone();
        tokio::spawn(async move {
            while given.changed().await.is_ok() {
                let relay = given.borrow_and_update().clone().and_then(Result::ok);
                if relay.is_some_and(|relay| link.send(command(relay)).is_err()) {
                    return;
                }
            }
        });
    }

    /// Why no relay led to the provider, as far as one was asked for.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.given.borrow().as_ref()? {
            Ok(relay) => Some(format!("nothing came by {}", relay.address)),
            Err(reason) => Some(reason.clone()),
        }
    }
}

/// This end's part of what relays ask, lease by lease.
#[derive(Default)]
pub(crate) struct Relays {
    parties: HashMap<SocketAddr, Party>,
    /// When the first of them has something to say.
    next: Option<Instant>,
}

impl Relays {
    /// Begins to show itself there, if it does not yet.
    pub(crate) fn join(&mut self, relay: Relay, now: Instant) {
        let Relay { address, token } = relay;
        let joined = self.parties.get(&address);
        if !joined.is_some_and(|party| party.is(address, token)) {
            self.parties
                .insert(address, Party::new(address, token, now));
            self.look_ahead();
        }
    }

    /// Says nothing there any more.
    pub(crate) fn leave(&mut self, relay: SocketAddr) {
        self.parties.remove(&relay);
        self.look_ahead();
    }

    /// Takes a STUN message that came to the socket; whether it is from a relay.
    pub(crate) fn handle_stun(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(party) = self.parties.get_mut(&from) else {
            return false;
        };
        if let Some(proof) = party.handle_message(from, message, cx.now) {
            cx.device.send_stun(from, &proof);
        }
        true
    }

    /// Says where this end is, to all that are to hear it again.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if self.next.is_none_or(|at| at > cx.now) {
            return;
        }
        for party in self.parties.values_mut() {
            if let Some(hello) = party.handle_timeout(crate::engine::transaction, cx.now) {
                cx.device.send_stun(party.relay(), &hello);
            }
        }
        self.look_ahead();
    }

    /// When [`Self::handle_timeout`] has something to say.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn look_ahead(&mut self) {
        self.next = self.parties.values().map(Party::poll_timeout).min();
    }
}
