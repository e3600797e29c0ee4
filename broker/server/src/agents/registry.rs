//! Which agents are connected, one connection for each provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ipsx_market::fleet::ShardId;
use ipsx_market::messages::{BrokerMessage, CLOSED_REPLACED};
use ipsx_metering::Address;
use quinn::{Connection, VarInt};

use super::outbox::Outbox;

/// Close codes of the agents' connections.
pub(crate) mod code {
    use super::CLOSED_REPLACED;
    use quinn::VarInt;

    /// The broker stops.
    pub(crate) const STOPPING: VarInt = VarInt::from_u32(1);
    /// The agent broke the protocol; the last message says how.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(2);
    /// A newer connection of the same provider took over.
    pub(crate) const REPLACED: VarInt = VarInt::from_u32(CLOSED_REPLACED);
    /// The agent does not read what it is sent.
    pub(crate) const TOO_SLOW: VarInt = VarInt::from_u32(4);
}

/// What an agent is reached by.
pub(crate) enum Line {
    /// Its own connection.
    Here(Connection),
    /// Another broker's, which is told why it ends.
    Elsewhere(Arc<Farewell>),
}

/// Why a conversation through another broker ended: code and reason.
pub(crate) type Farewell = OnceLock<(VarInt, String)>;

/// A connected agent.
struct Handle {
    number: u64,
    outbox: Arc<Outbox>,
    line: Line,
    /// The shard that it is heard in, of a broker that is one of several.
    home: Option<ShardId>,
}

#[derive(Default)]
struct Inner {
    handles: HashMap<Address, Handle>,
    counter: u64,
}

/// The connected agents.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

impl Registry {
    /// Enters an agent and returns its number; closes the connection that it replaces.
    pub(crate) fn insert(
        &self,
        provider: Address,
        outbox: Arc<Outbox>,
        line: Line,
        home: Option<ShardId>,
    ) -> (u64, bool) {
        let mut inner = self.lock();
        inner.counter += 1;
        let number = inner.counter;
        let handle = Handle {
            number,
            outbox,
            line,
            home,
        };
        let old = inner.handles.insert(provider, handle);
        if let Some(old) = &old {
            close(
                old,
                code::REPLACED,
                "a newer connection of this wallet took over",
            );
        }
        (number, old.is_some())
    }

    /// Strikes an agent off, unless a newer connection took its place. True if it was there.
    pub(crate) fn remove(&self, provider: Address, number: u64) -> bool {
        let mut inner = self.lock();
        let current = inner
            .handles
            .get(&provider)
            .is_some_and(|h| h.number == number);
        current && inner.handles.remove(&provider).is_some()
    }

    /// The shard that an agent is heard in.
    pub(crate) fn home(&self, provider: Address) -> Option<ShardId> {
        self.lock().handles.get(&provider)?.home
    }

    /// Ends the conversation with everybody of some shards.
    pub(crate) fn hang_up(&self, code: VarInt, reason: &str, gone: impl Fn(ShardId) -> bool) {
        let mut inner = self.lock();
        inner.handles.retain(|_, handle| {
            let goes = handle.home.is_some_and(&gone);
            if goes {
                close(handle, code, reason);
            }
            !goes
        });
    }

    /// Ends the conversation with one.
    pub(crate) fn hang_up_on(&self, provider: Address, code: VarInt, reason: &str) {
        if let Some(handle) = self.lock().handles.remove(&provider) {
            close(&handle, code, reason);
        }
    }

    /// Leaves a message for an agent, in order, if it is connected. One that does not keep up is dropped.
    pub(crate) fn send(&self, provider: Address, message: BrokerMessage) {
        let inner = self.lock();
        if let Some(handle) = inner.handles.get(&provider)
            && handle.outbox.send(&message).is_err()
        {
            close(
                handle,
                code::TOO_SLOW,
                "messages are not read; connect again",
            );
        }
    }

    /// Leaves a message that may be lost, and that must not push out those that may not. False if it is lost.
    pub(crate) fn offer(&self, provider: Address, message: BrokerMessage) -> bool {
        let inner = self.lock();
        let handle = inner.handles.get(&provider);
        handle.is_some_and(|handle| handle.outbox.offer(&message).is_ok())
    }

    /// Agents connected.
    pub(crate) fn len(&self) -> usize {
        self.lock().handles.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is whole after any panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(handle: &Handle, code: VarInt, reason: &str) {
    match &handle.line {
        Line::Here(connection) => connection.close(code, reason.as_bytes()),
        Line::Elsewhere(farewell) => {
            // The first reason counts.
            let _ = farewell.set((code, reason.into()));
        }
    }
    handle.outbox.close();
}
