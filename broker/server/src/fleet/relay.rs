//! Agents that are connected to one broker and belong to a shard of another. The first passes their messages on as they
//! are; for the second they are agents like its own.
//!
//! Whatever goes wrong in between ends the conversation, and with it the agent's connection: it comes again, as after any
//! lost connection, and is told and says again what may have been lost.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use ipsx_market::codec;
use ipsx_market::fleet::{Heard, Incoming, Instance, Number, Outgoing, ShardId};
use ipsx_market::messages::AgentMessage;
use ipsx_metering::Address;
use quinn::{Connection, VarInt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Fleet, Home, pack, unpack};
use crate::agents::{Farewell, Line, Outbox, code};
use crate::desk::Desk;
use crate::operator::random;

/// Messages of all other brokers that may wait here.
pub(super) const QUEUE: usize = 65_536;
/// Messages of one agent that may: the burst that is allowed to it.
const BURST: usize = 1_024;
/// A broker that has said nothing for as long is not heard: each greets the others with every beat.
const SILENCE: Duration = Duration::from_millis(2_500);

#[derive(Serialize, Deserialize)]
struct Head {
    from: Instance,
    number: Number,
    what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum What {
    /// Nothing, so that a loss is noticed.
    Greeting,
    /// An agent of that broker's shard has proved its wallet.
    Join {
        session: u64,
        provider: Address,
        observed: IpAddr,
        shard: ShardId,
    },
    /// It says what follows.
    Said { session: u64 },
    /// It has gone.
    Left { session: u64 },
    /// It is to be told what follows.
    Told { session: u64 },
    /// It is not heard any more.
    Ended {
        session: u64,
        code: u32,
        reason: String,
    },
    /// Something of this counting was lost.
    Broken { stream: u64 },
}

struct Peer {
    said: Outgoing,
    heard: Incoming,
    heard_at: Instant,
}

impl Peer {
    fn new() -> Self {
        Self {
            said: count(),
            heard: Incoming::default(),
            heard_at: Instant::now(),
        }
    }
}

fn count() -> Outgoing {
    Outgoing::new(u64::from_be_bytes(random()))
}

/// An agent that is connected here and heard at another broker.
struct Away {
    shard: ShardId,
    home: Home,
    connection: Connection,
    outbox: Arc<Outbox>,
}

impl Away {
    fn hang_up(&self, code: VarInt, reason: &str) {
        self.outbox.close();
        self.connection.close(code, reason.as_bytes());
    }
}

/// All conversations through other brokers.
pub(super) struct Relay {
    me: Instance,
    peers: HashMap<Instance, Peer>,
    sessions: u64,
    /// Agents that are connected here.
    away: HashMap<u64, Away>,
    /// Agents that are heard here.
    guests: HashMap<(Instance, u64), mpsc::Sender<AgentMessage>>,
}

impl Relay {
    pub(super) fn new(me: Instance) -> Self {
        Self {
            me,
            peers: HashMap::new(),
            sessions: 0,
            away: HashMap::new(),
            guests: HashMap::new(),
        }
    }

    /// Ends all conversations with a broker.
    fn part_with(&mut self, peer: &Instance) {
        self.guests.retain(|(edge, _), _| edge != peer);
        self.away.retain(|_, away| {
            let stays = away.home.owner != *peer;
            if !stays {
                away.hang_up(
                    code::STOPPING,
                    "another broker was not heard; connect again",
                );
            }
            stays
        });
    }
}

/// A conversation with an agent at another broker, until it is dropped.
pub(crate) struct Elsewhere {
    fleet: Arc<Fleet>,
    owner: Instance,
    session: u64,
}

impl Elsewhere {
    /// Passes on what the agent says.
    pub(crate) fn say(&self, message: &AgentMessage) {
        let session = self.session;
        // It was read from fewer bytes than may be written.
        if let Ok(content) = codec::encode(message) {
            self.fleet
                .say(&self.owner, What::Said { session }, &content);
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let session = self.session;
        if self.fleet.relay().away.remove(&session).is_some() {
            self.fleet.say(&self.owner, What::Left { session }, &[]);
        }
    }
}

impl Fleet {
    fn relay(&self) -> MutexGuard<'_, Relay> {
        // Maps are whole after any panic.
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to another broker, after everything that was said before.
    fn say(&self, to: &Instance, what: What, body: &[u8]) {
        let mut relay = self.relay();
        let from = relay.me.clone();
        let peer = relay.peers.entry(to.clone()).or_insert_with(Peer::new);
        let number = peer.said.number();
        let message = pack(&Head { from, number, what }, body);
        // Within the lock, so that numbers leave in order.
        self.send(self.subject("frame", Some(to)), message);
    }

    /// Has an agent that is connected here heard by the owner of its shard.
    pub(crate) fn introduce(
        self: &Arc<Self>,
        (provider, observed): (Address, IpAddr),
        (shard, home): (ShardId, Home),
        outbox: Arc<Outbox>,
        connection: Connection,
    ) -> Elsewhere {
        let (session, owner) = {
            let mut relay = self.relay();
            relay.sessions += 1;
            let (session, owner) = (relay.sessions, home.owner.clone());
            let away = Away {
                shard,
                home,
                connection,
                outbox,
            };
            relay.away.insert(session, away);
            (session, owner)
        };
        let join = What::Join {
            session,
            provider,
            observed,
            shard,
        };
        self.say(&owner, join, &[]);
        let fleet = Arc::clone(self);
        Elsewhere {
            fleet,
            owner,
            session,
        }
    }

    /// Greets every broker with which something goes on, and parts with those that are not heard.
    pub(super) fn greet(&self) {
        let peers: Vec<_> = {
            let mut relay = self.relay();
            let silent = |peer: &Peer| peer.heard_at.elapsed() > SILENCE;
            let silent = relay.peers.iter().filter(|(_, peer)| silent(peer));
            let silent: Vec<_> = silent.map(|(name, _)| name.clone()).collect();
            for peer in silent {
                relay.part_with(&peer);
                relay.peers.remove(&peer);
            }
            relay.peers.keys().cloned().collect()
        };
        for peer in peers {
            self.say(&peer, What::Greeting, &[]);
        }
    }

    /// Has agents connect again whose shard is another broker's by now.
    pub(super) fn follow_moves(&self) {
        let moved = |away: &Away| self.has_moved(away.shard, &away.home);
        for away in self.relay().away.values().filter(|away| moved(away)) {
            let reason = "another broker has this part of the market now; connect again";
            away.hang_up(code::STOPPING, reason);
        }
    }
}

/// Hears the other brokers.
pub(super) async fn hear(fleet: Arc<Fleet>, desk: Arc<Desk>, mut frames: Subscriber) {
    while let Some(message) = frames.next().await {
        if let Some((head, body)) = unpack::<Head>(&message.payload) {
            take(&fleet, &desk, head, body);
        }
    }
}

fn take(fleet: &Arc<Fleet>, desk: &Arc<Desk>, head: Head, body: &[u8]) {
    let Head { from, number, what } = head;
    let heard = {
        let mut relay = fleet.relay();
        let peer = relay.peers.entry(from.clone()).or_insert_with(Peer::new);
        peer.heard_at = Instant::now();
        let heard = peer.heard.hear(number);
        if heard != Heard::InOrder {
            relay.part_with(&from);
        }
        heard
    };
    if heard == Heard::Gap {
        tracing::warn!(%from, "something that another broker said is lost");
        let stream = number.stream;
        return fleet.say(&from, What::Broken { stream }, &[]);
    }
    match what {
        What::Greeting => {}
        What::Join {
            session,
            provider,
            observed,
            shard,
        } => {
            let (messages, said) = mpsc::channel(BURST);
            let key = (from, session);
            fleet.relay().guests.insert(key.clone(), messages);
            let guest = Guest {
                fleet: Arc::clone(fleet),
                desk: Arc::clone(desk),
                key,
                provider,
                observed,
                shard,
            };
            tokio::spawn(guest.stay(said));
        }
        What::Said { session } => {
            let key = (from, session);
            let mut relay = fleet.relay();
            let said = codec::decode::<AgentMessage>(body).ok();
            let taken = said.zip(relay.guests.get(&key));
            if taken.is_none_or(|(message, guest)| guest.try_send(message).is_err()) {
                // Without a sender the conversation ends.
                relay.guests.remove(&key);
            }
        }
        What::Left { session } => {
            fleet.relay().guests.remove(&(from, session));
        }
        What::Told { session } => {
            let relay = fleet.relay();
            if let Some(away) = relay.away.get(&session)
                && away.outbox.pass(body.to_vec()).is_err()
            {
                away.hang_up(code::TOO_SLOW, "messages are not read; connect again");
            }
        }
        What::Ended {
            session,
            code,
            reason,
        } => {
            if let Some(away) = fleet.relay().away.get(&session) {
                away.hang_up(VarInt::from_u32(code), &reason);
            }
        }
        What::Broken { stream } => {
            let mut relay = fleet.relay();
            let peer = relay.peers.get_mut(&from);
            if let Some(peer) = peer.filter(|peer| peer.said.counts(stream)) {
                peer.said = count();
                relay.part_with(&from);
            }
        }
    }
}

/// An agent that is connected to another broker and heard here.
struct Guest {
    fleet: Arc<Fleet>,
    desk: Arc<Desk>,
    key: (Instance, u64),
    provider: Address,
    observed: IpAddr,
    shard: ShardId,
}

impl Guest {
    async fn stay(self, said: mpsc::Receiver<AgentMessage>) {
        let farewell = Arc::new(Farewell::new());
        if let Err(error) = self.converse(said, &farewell).await {
            tracing::info!(provider = %self.provider, %error, "an agent at another broker is not heard");
        }
        let again = || (code::STOPPING, "connect again".to_owned());
        let (code, reason) = farewell.get().cloned().unwrap_or_else(again);
        let (edge, session) = &self.key;
        self.fleet.relay().guests.remove(&self.key);
        let ended = What::Ended {
            session: *session,
            code: u32::try_from(code.into_inner()).unwrap_or(u32::MAX),
            reason,
        };
        self.fleet.say(edge, ended, &[]);
    }

    async fn converse(
        &self,
        mut said: mpsc::Receiver<AgentMessage>,
        farewell: &Arc<Farewell>,
    ) -> Result<(), crate::desk::DeskError> {
        let (provider, observed) = (self.provider, self.observed);
        let outbox = Arc::new(Outbox::default());
        let line = Line::Elsewhere(Arc::clone(farewell));
        let number = self
            .desk
            .join(
                provider,
                observed,
                Arc::clone(&outbox),
                line,
                Some(self.shard),
            )
            .await?;
        let (edge, session) = (&self.key.0, self.key.1);
        let telling = async {
            while let Some(frames) = outbox.take().await {
                for frame in frames {
                    self.fleet.say(edge, What::Told { session }, &frame);
                }
            }
            Ok(())
        };
        let hearing = async {
            while let Some(message) = said.recv().await {
                self.desk.hear(provider, observed, message).await?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            ended = telling => ended,
            ended = hearing => ended,
        };
        self.desk.leave(provider, number).await?;
        ended
    }
}
