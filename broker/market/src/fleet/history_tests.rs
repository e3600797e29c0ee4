//! Random histories: brokers that die, stall and are cut off, clocks that differ, answers that are late or lost. Whatever
//! happens, no address is sold twice, and soon after the last trouble every shard is sold from again.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::{Epoch, Instance, Member, Millis, SHARDS, Seen, ShardId, ShardRow, Timing, Turn, Wish};

/// Units that each shard has for sale.
const CAPACITY: u32 = 40;
/// Longest way of a message, milliseconds.
const DELAY: u64 = 60;

/// Numbers that look random, always the same (splitmix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Beat { sent: u64 },
    Claim(ShardId, Epoch),
    Release(ShardId, Epoch),
    Sell(ShardId, Epoch),
    SeenAt { sent: u64 },
    Claimed(ShardId, Epoch, u32),
    Fenced(ShardId, Epoch),
}

#[derive(Default)]
struct Shard {
    owner: Option<Instance>,
    epoch: Epoch,
    sold: u32,
}

/// What PostgreSQL does: every rule that the shell's statements carry.
#[derive(Default)]
struct Database {
    expires: BTreeMap<Instance, u64>,
    shards: BTreeMap<ShardId, Shard>,
    /// Who committed under which epoch.
    committed: BTreeMap<(ShardId, Epoch), Instance>,
}

impl Database {
    fn seen(&self, now: u64) -> Seen {
        let live = self.expires.iter().filter(|(_, until)| **until > now);
        let row = |(shard, row): (&ShardId, &Shard)| ShardRow {
            shard: *shard,
            owner: row.owner.clone(),
            epoch: row.epoch,
        };
        Seen {
            live: live.map(|(broker, _)| broker.clone()).collect(),
            shards: self.shards.iter().map(row).collect(),
        }
    }

    fn claim(
        &mut self,
        by: &Instance,
        shard: ShardId,
        after: Epoch,
        now: u64,
    ) -> Option<(Epoch, u32)> {
        let row = self.shards.entry(shard).or_default();
        let dead = |owner: &Instance| self.expires.get(owner).is_none_or(|until| *until <= now);
        let free = row
            .owner
            .as_ref()
            .is_none_or(|owner| owner == by || dead(owner));
        if row.epoch != after || !free {
            return None;
        }
        row.owner = Some(by.clone());
        row.epoch = Epoch(after.0 + 1);
        Some((row.epoch, row.sold))
    }

    fn sell(&mut self, by: &Instance, shard: ShardId, epoch: Epoch) -> bool {
        let row = self.shards.entry(shard).or_default();
        if row.owner.as_ref() != Some(by) || row.epoch != epoch {
            return false;
        }
        row.sold += 1;
        assert!(row.sold <= CAPACITY, "shard {shard} is oversold");
        let first = self
            .committed
            .entry((shard, epoch))
            .or_insert_with(|| by.clone());
        assert_eq!(first, by, "two brokers sold under one epoch");
        true
    }
}

struct Broker {
    member: Member,
    /// Its clock, in thousandths of the true one.
    rate: u64,
    next_beat: u64,
    stalled_until: u64,
    cut_until: u64,
    /// What it holds for sold.
    memory: BTreeMap<ShardId, u32>,
}

impl Broker {
    fn clock(&self, now: u64) -> Millis {
        Millis(now * self.rate / 1_000)
    }
}

/// When it arrives, its number, whether at the database, whose, what.
type Letter = (u64, u64, bool, Instance, Message);

struct World {
    dice: Dice,
    now: u64,
    database: Database,
    brokers: BTreeMap<Instance, Broker>,
    /// Messages under way: when, to the database or back, whose.
    mail: BinaryHeap<Reverse<Letter>>,
    answers: BTreeMap<u64, Seen>,
    count: u64,
}

impl World {
    fn new(seed: u64, brokers: usize) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            now: 0,
            database: Database::default(),
            brokers: BTreeMap::new(),
            mail: BinaryHeap::new(),
            answers: BTreeMap::new(),
            count: 0,
        };
        for _ in 0..brokers {
            world.start();
        }
        world
    }

    fn start(&mut self) -> Instance {
        self.count += 1;
        let me: Instance = format!("broker-{}", self.count).parse().unwrap();
        let broker = Broker {
            member: Member::new(me.clone(), Timing::default()),
            rate: 900 + self.dice.throw(200),
            next_beat: self.now + self.dice.throw(500),
            stalled_until: 0,
            cut_until: 0,
            memory: BTreeMap::new(),
        };
        self.brokers.insert(me.clone(), broker);
        me
    }

    fn post(&mut self, to_database: bool, whose: &Instance, message: Message) {
        self.count += 1;
        let at = self.now + 1 + self.dice.throw(DELAY);
        self.mail.push(Reverse((
            at,
            self.count,
            to_database,
            whose.clone(),
            message,
        )));
    }

    fn step(&mut self, selling: bool) {
        self.now += 5;
        while let Some(Reverse((at, ..))) = self.mail.peek()
            && *at <= self.now
        {
            let Reverse((_, number, to_database, whose, message)) = self.mail.pop().unwrap();
            let cut = self
                .brokers
                .get(&whose)
                .is_some_and(|b| b.cut_until > self.now);
            if cut {
                continue;
            }
            if to_database {
                self.arrive(&whose, message);
            } else if self
                .brokers
                .get(&whose)
                .is_some_and(|b| b.stalled_until > self.now)
            {
                // It lies in the socket until the process goes on.
                self.mail
                    .push(Reverse((self.now + 1, number, false, whose, message)));
            } else {
                self.hear(number, &whose, message);
            }
        }
        let all: Vec<_> = self.brokers.keys().cloned().collect();
        for me in all {
            self.act(&me, selling);
        }
    }

    /// The database does what it is asked.
    fn arrive(&mut self, whose: &Instance, message: Message) {
        match message {
            Message::Beat { sent } => {
                self.database
                    .expires
                    .insert(whose.clone(), self.now + Timing::default().lease);
                let seen = self.database.seen(self.now);
                self.post(false, whose, Message::SeenAt { sent });
                self.answers.insert(self.count, seen);
            }
            Message::Claim(shard, after) => {
                if let Some((epoch, sold)) = self.database.claim(whose, shard, after, self.now) {
                    self.post(false, whose, Message::Claimed(shard, epoch, sold));
                }
            }
            Message::Release(shard, epoch) => {
                let row = self.database.shards.entry(shard).or_default();
                if row.owner.as_ref() == Some(whose) && row.epoch == epoch {
                    row.owner = None;
                }
            }
            Message::Sell(shard, epoch) => {
                if !self.database.sell(whose, shard, epoch) {
                    self.post(false, whose, Message::Fenced(shard, epoch));
                }
            }
            other => panic!("{other:?} is no question"),
        }
    }

    /// A broker hears an answer.
    fn hear(&mut self, number: u64, whose: &Instance, message: Message) {
        let seen = self.answers.remove(&number);
        let Some(broker) = self.brokers.get_mut(whose) else {
            return;
        };
        let mut wishes = Vec::new();
        match message {
            Message::SeenAt { sent } => {
                let Turn {
                    lost,
                    wishes: asked,
                    ..
                } = broker.member.handle_beat(Millis(sent), seen.unwrap());
                for lost in lost {
                    broker.memory.remove(&lost.0);
                }
                wishes = asked;
            }
            Message::Claimed(shard, epoch, sold) => {
                if broker.member.handle_claimed(shard, epoch) {
                    broker.memory.insert(shard, sold);
                }
            }
            Message::Fenced(shard, epoch) => {
                if broker.member.handle_fenced(shard, epoch).is_some() {
                    broker.memory.remove(&shard);
                }
            }
            other => panic!("{other:?} is no answer"),
        }
        for wish in wishes {
            let message = match wish {
                Wish::Claim { shard, after } => Message::Claim(shard, after),
                Wish::Release { shard, epoch } => Message::Release(shard, epoch),
            };
            self.post(true, whose, message);
        }
    }

    /// A broker's own timers, and a sale.
    fn act(&mut self, me: &Instance, selling: bool) {
        let shard = ShardId::from(u8::try_from(self.dice.throw(SHARDS as u64)).unwrap());
        let sells = selling && self.dice.throw(2) == 0;
        let broker = self.brokers.get_mut(me).unwrap();
        if broker.stalled_until > self.now {
            return;
        }
        let clock = broker.clock(self.now);
        // A stalled broker sells with what it believes before its timer has run: the worst order.
        let sale = match broker.member.held().find(|(held, _)| *held == shard) {
            Some((_, epoch)) if sells => {
                let sold = broker.memory.get_mut(&shard).unwrap();
                (*sold < CAPACITY).then(|| {
                    *sold += 1;
                    Message::Sell(shard, epoch)
                })
            }
            _ => None,
        };
        for lost in broker.member.handle_timeout(clock) {
            broker.memory.remove(&lost.0);
        }
        let beats = self.now >= broker.next_beat;
        if beats {
            broker.next_beat = self.now + Timing::default().beat;
        }
        if let Some(sale) = sale {
            self.post(true, me, sale);
        }
        if beats {
            self.post(true, me, Message::Beat { sent: clock.0 });
        }
    }

    fn trouble(&mut self) {
        let all: Vec<_> = self.brokers.keys().cloned().collect();
        let Some(victim) = all.get(self.dice.throw(all.len() as u64) as usize) else {
            return;
        };
        let long = self.now + 200 + self.dice.throw(5_000);
        match self.dice.throw(4) {
            0 => {
                self.brokers.remove(victim);
                self.start();
            }
            1 => self.brokers.get_mut(victim).unwrap().stalled_until = long,
            2 => self.brokers.get_mut(victim).unwrap().cut_until = long,
            _ => {
                self.start();
            }
        }
        while self.brokers.len() > 5 {
            self.brokers.pop_first();
        }
    }

    /// Shards that somebody serves now.
    fn served(&self) -> BTreeSet<ShardId> {
        let serving = |broker: &Broker| {
            let clock = broker.clock(self.now);
            let held: Vec<_> = broker.member.held().map(|(shard, _)| shard).collect();
            held.into_iter()
                .filter(move |s| broker.member.holds(*s, clock).is_some())
                .collect::<Vec<_>>()
        };
        let well = self
            .brokers
            .values()
            .filter(|b| b.stalled_until <= self.now && b.cut_until <= self.now);
        well.flat_map(serving).collect()
    }
}

#[test]
fn nothing_is_sold_twice_and_every_shard_is_sold_from_again() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3);
        while world.now < 30_000 {
            world.step(true);
            if world.dice.throw(200) == 0 {
                world.trouble();
            }
        }
        for broker in world.brokers.values_mut() {
            broker.stalled_until = 0;
            broker.cut_until = 0;
        }
        let healed = world.now;
        while world.served().len() < SHARDS {
            world.step(true);
            assert!(
                world.now - healed < 5_000,
                "seed {seed}: no owner within 5 s"
            );
        }
        let sold: u32 = world.database.shards.values().map(|s| s.sold).sum();
        assert!(sold > 100, "seed {seed}: {sold} were sold");
    }
}

#[test]
fn a_dead_brokers_shards_are_sold_from_again_within_three_seconds() {
    for seed in 0..8 {
        let mut world = World::new(seed, 3);
        while world.now < 10_000 {
            world.step(false);
        }
        assert_eq!(world.served().len(), SHARDS);
        let victim = world.brokers.keys().next().unwrap().clone();
        world.brokers.remove(&victim);
        let killed = world.now;
        while world.served().len() < SHARDS {
            world.step(false);
        }
        assert!(
            world.now - killed < 3_000,
            "seed {seed}: {} ms",
            world.now - killed
        );
    }
}

#[test]
fn a_broker_that_is_cut_off_stops_before_another_takes_over() {
    for seed in 0..8 {
        let mut world = World::new(seed, 3);
        while world.now < 10_000 {
            world.step(false);
        }
        let victim = world.brokers.keys().next().unwrap().clone();
        let cut = world.now;
        world.brokers.get_mut(&victim).unwrap().cut_until = u64::MAX;
        let own: Vec<_> = world.brokers[&victim]
            .member
            .held()
            .map(|(s, _)| s)
            .collect();
        while world.served().len() < SHARDS {
            world.step(false);
            assert!(world.now - cut < 5_000);
            let broker = &world.brokers[&victim];
            for shard in &own {
                let serves = broker
                    .member
                    .holds(*shard, broker.clock(world.now))
                    .is_some();
                let taken = world.database.shards[shard].owner.as_ref() != Some(&victim);
                // With clocks that run the same; a slower one is stopped by the epoch alone.
                assert!(
                    !(serves && taken && broker.rate >= 1_000),
                    "seed {seed}, shard {shard}"
                );
            }
        }
    }
}
