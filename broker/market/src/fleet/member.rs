//! One broker's part in sharing out the shards.
//!
//! A broker shows the database that it lives, once a [beat](Timing::beat), and is answered with what stands there
//! ([`Seen`]): who lives by the database's clock, and whose each shard is. Where each shard should be is the same for
//! everybody who sees the same brokers: rendezvous hashing, so that a broker's coming or going moves no other shards.
//! A broker [claims](Wish::Claim) shards that should be its own and have no living owner, and
//! [releases](Wish::Release) those that should be another's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipsx_metering::keccak256;
use serde::{Deserialize, Serialize};

use super::ShardId;

/// Milliseconds of a clock that only goes forward, since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// Counts the owners that a shard has had; the database refuses what comes under an earlier one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One run of a broker, `NAME-RUN`: a broker that was restarted is another one, or what it had in memory would be
/// taken for what the new one has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(Box<str>);

/// The text is no broker's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no broker; use 1 to 64 of a-z, 0-9, - and _, such as paris-1")]
pub struct NoInstance(String);

impl Instance {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Instance {
    type Err = NoInstance;

    fn from_str(text: &str) -> Result<Self, NoInstance> {
        // It becomes a part of subjects, in which dots, stars and blanks mean something.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(NoInstance(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for Instance {
    type Error = NoInstance;

    fn try_from(text: String) -> Result<Self, NoInstance> {
        text.parse()
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> Self {
        instance.0.into()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds between two beats.
    pub beat: u64,
    /// Milliseconds that a broker counts as living after a beat.
    pub lease: u64,
    /// Beats in a row in which a better owner must be seen before a shard is released to it.
    pub settled: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: 500,
            lease: 2_000,
            settled: 4,
        }
    }
}

/// A shard as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// Which.
    pub shard: ShardId,
    /// Whose, if anybody's. It may have died.
    pub owner: Option<Instance>,
    /// Of the latest owner.
    pub epoch: Epoch,
}

/// The database's answer to a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Brokers whose beats have come, by the database's clock.
    pub live: BTreeSet<Instance>,
    /// Every shard that ever had an owner.
    pub shards: Vec<ShardRow>,
}

/// What a broker asks of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To own a shard under the epoch that follows this one, if that is the latest still and its owner is dead.
    Claim {
        /// Which.
        shard: ShardId,
        /// The latest epoch, as it was seen.
        after: Epoch,
    },
    /// To own a shard no more.
    Release {
        /// Which.
        shard: ShardId,
        /// Under which epoch it is owned.
        epoch: Epoch,
    },
}

/// A shard that is no longer this broker's: what is in memory of it has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost(pub ShardId);

/// What follows from a beat, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// To forget at once.
    pub lost: Vec<Lost>,
    /// To ask of the database; a claim that is granted is told to [`Member::handle_claimed`].
    pub wishes: Vec<Wish>,
    /// Shards whose owner changed since the last beat, whoever it is: agents' offers have to be told to it.
    pub moved: Vec<ShardId>,
    /// Brokers that lived at the last beat and live no more: the agents connected to them are away.
    pub died: Vec<Instance>,
}

/// A broker's view of the fleet.
#[derive(Clone, Debug)]
pub struct Member {
    me: Instance,
    timing: Timing,
    held: BTreeMap<ShardId, Epoch>,
    /// The first moment at which the database may take this broker for dead.
    until: Millis,
    live: BTreeMap<Instance, u32>,
    /// Whose each shard should be, of those who live.
    should: BTreeMap<ShardId, Instance>,
    owners: BTreeMap<ShardId, (Instance, Epoch)>,
}

impl Member {
    /// A broker that nobody has heard of yet.
    pub fn new(me: Instance, timing: Timing) -> Self {
        Self {
            me,
            timing,
            held: BTreeMap::new(),
            until: Millis::default(),
            live: BTreeMap::new(),
            should: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// This broker.
    pub fn me(&self) -> &Instance {
        &self.me
    }

    /// The database took a beat that was sent at `sent`, and answered.
    pub fn handle_beat(&mut self, sent: Millis, seen: Seen) -> Turn {
        // Reckoned from the sending, it ends here before it ends there, as long as this clock is not slower by half.
        self.until = self.until.max(sent.after(self.timing.lease));
        let died = self.live.keys().filter(|b| !seen.live.contains(*b));
        let mut turn = Turn {
            died: died.cloned().collect(),
            ..Turn::default()
        };
        let known = std::mem::take(&mut self.live);
        for broker in seen.live {
            let beats = known
                .get(&broker)
                .map_or(0, |beats| beats.saturating_add(1));
            self.live.insert(broker, beats);
        }
        if !self.live.keys().eq(known.keys()) {
            self.should = share_out(self.live.keys());
        }
        let mut rows: BTreeMap<_, _> = seen
            .shards
            .into_iter()
            .map(|row| (row.shard, row))
            .collect();
        for shard in ShardId::all() {
            let row = rows.remove(&shard).unwrap_or(ShardRow {
                shard,
                owner: None,
                epoch: Epoch::default(),
            });
            self.look_at(row, &mut turn);
        }
        turn
    }

    fn look_at(&mut self, row: ShardRow, turn: &mut Turn) {
        let ShardRow {
            shard,
            owner,
            epoch,
        } = row;
        let owner = owner.filter(|owner| self.live.contains_key(owner));
        let mine = owner.as_ref() == Some(&self.me);
        if let Some(held) = self.held.get(&shard).copied()
            && !(mine && held == epoch)
            // An answer that is older than a claim says nothing of it.
            && held <= epoch
        {
            self.held.remove(&shard);
            turn.lost.push(Lost(shard));
        }
        let before = self.owners.get(&shard).cloned();
        let now = owner.clone().map(|owner| (owner, epoch));
        if now != before && before.as_ref().is_none_or(|(_, known)| *known <= epoch) {
            match now {
                Some(now) => self.owners.insert(shard, now),
                None => self.owners.remove(&shard),
            };
            turn.moved.push(shard);
        }
        let should = self.should.get(&shard);
        if mine && self.held.contains_key(&shard) {
            let settled = |beats: &u32| *beats >= self.timing.settled;
            let other = should.filter(|other| *other != &self.me);
            if other.is_some_and(|other| self.live.get(other).is_some_and(settled)) {
                self.held.remove(&shard);
                turn.lost.push(Lost(shard));
                turn.wishes.push(Wish::Release { shard, epoch });
            }
        } else if (owner.is_none() || mine) && should == Some(&self.me) {
            // One that is "mine" and not held was let go when the lease ran out, or its claim's answer never came.
            turn.wishes.push(Wish::Claim {
                shard,
                after: epoch,
            });
        } else if mine {
            turn.wishes.push(Wish::Release { shard, epoch });
        }
    }

    /// The database granted a claim. True if it is the latest: then what stands there of the shard may be taken into
    /// memory.
    pub fn handle_claimed(&mut self, shard: ShardId, epoch: Epoch) -> bool {
        let known = self
            .owners
            .get(&shard)
            .is_none_or(|(_, known)| *known <= epoch);
        if known {
            self.held.insert(shard, epoch);
            self.owners.insert(shard, (self.me.clone(), epoch));
        }
        known
    }

    /// A transaction under this epoch was refused, because the shard has had another owner since.
    pub fn handle_fenced(&mut self, shard: ShardId, epoch: Epoch) -> Option<Lost> {
        let held = self.held.get(&shard).copied();
        held.filter(|held| *held <= epoch)?;
        self.held.remove(&shard).map(|_| Lost(shard))
    }

    /// When [`Self::handle_timeout`] has something to do, unless a beat comes before.
    pub fn poll_timeout(&self) -> Option<Millis> {
        (!self.held.is_empty()).then_some(self.until)
    }

    /// No beat got through for so long that the shards may be others' by now: this broker stops selling from them.
    pub fn handle_timeout(&mut self, now: Millis) -> Vec<Lost> {
        if now < self.until {
            return Vec::new();
        }
        std::mem::take(&mut self.held)
            .into_keys()
            .map(Lost)
            .collect()
    }

    /// Under which epoch this broker owns a shard now.
    pub fn holds(&self, shard: ShardId, now: Millis) -> Option<Epoch> {
        self.held.get(&shard).copied().filter(|_| now < self.until)
    }

    /// Shards that this broker owns, whether or not its lease lasts.
    pub fn held(&self) -> impl Iterator<Item = (ShardId, Epoch)> {
        self.held.iter().map(|(shard, epoch)| (*shard, *epoch))
    }

    /// Whose a shard is, as far as this broker knows, and under which epoch.
    pub fn owner(&self, shard: ShardId) -> Option<(&Instance, Epoch)> {
        let owner = self.owners.get(&shard);
        owner.map(|(owner, epoch)| (owner, *epoch))
    }

    /// Brokers that live, as far as this broker knows.
    pub fn live(&self) -> impl Iterator<Item = &Instance> {
        self.live.keys()
    }
}

/// Whose each shard should be: of the living brokers the one with the highest hash.
fn share_out<'a>(live: impl Iterator<Item = &'a Instance> + Clone) -> BTreeMap<ShardId, Instance> {
    let owner = |shard: ShardId| {
        let weight = |broker: &&Instance| {
            keccak256([&[shard.number()], broker.as_str().as_bytes()].concat())
        };
        live.clone().max_by_key(weight).cloned()
    };
    let owned = |shard| Some((shard, owner(shard)?));
    ShardId::all().filter_map(owned).collect()
}
