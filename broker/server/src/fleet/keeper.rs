//! Living, and having shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::fleet::{Epoch, Lost, Member, Millis, Seen, ShardId, Timing, Turn, Wish};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Fleet, Home, Homes};
use crate::desk::{Desk, DeskError};
use crate::store::{FleetStore, StoreError};

/// How long NATS and PostgreSQL may take over one beat.
const PATIENCE: Duration = Duration::from_millis(1_200);
/// How long a broker that has just started may take to be let in.
const FIRST: Duration = Duration::from_secs(10);

/// An answer to a beat, and when the beat was sent.
pub(super) type Answer = Option<(Millis, Seen)>;

/// Why a beat did not count.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("NATS: {0}")]
    Nats(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

/// Shows the others that this broker lives: it does only while it reaches both NATS and the database. Ends with the broker's
/// place, when no beat has counted for as long as the others wait.
pub(super) async fn beat(
    fleet: Arc<Fleet>,
    desk: Arc<Desk>,
    store: FleetStore,
    seen: watch::Sender<Answer>,
) {
    let (timing, began) = (Timing::default(), Instant::now());
    let lease = Duration::from_millis(timing.lease);
    let mut until = began + FIRST;
    let mut beats = interval(Duration::from_millis(timing.beat));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            // Nothing that hangs may make it count for longer than the others think.
            () = tokio::time::sleep_until(until) => return desk.cut_off("no beat has counted for too long"),
        }
        let sent = Instant::now();
        let beat = timeout(PATIENCE, async {
            fleet.echo().await.map_err(Missed::Nats)?;
            Ok::<_, Missed>(store.beat(fleet.me(), timing.lease).await?)
        });
        let beat = tokio::select! {
            beat = beat => beat.unwrap_or(Err(Missed::Late)),
            () = tokio::time::sleep_until(until) => return desk.cut_off("no beat has counted for too long"),
        };
        match beat {
            Ok(answer) => {
                until = sent + lease;
                let sent = u64::try_from((sent - began).as_millis()).unwrap_or(u64::MAX);
                let _ = seen.send(Some((Millis(sent), answer)));
            }
            Err(error) => tracing::warn!(%error, "a beat did not count"),
        }
        fleet.greet();
        fleet.tell_all(None);
    }
}

/// Takes over and gives up shards as the answers to the beats say.
pub(super) async fn keep(
    fleet: Arc<Fleet>,
    desk: Arc<Desk>,
    store: FleetStore,
    mut seen: watch::Receiver<Answer>,
) {
    let mut keeper = Keeper {
        member: Member::new(fleet.me().clone(), Timing::default()),
        own: BTreeMap::new(),
        fleet,
        desk,
        store,
    };
    while seen.changed().await.is_ok() {
        let Some((sent, answer)) = seen.borrow_and_update().clone() else {
            continue;
        };
        let turn = keeper.member.handle_beat(sent, answer);
        if let Err(error) = keeper.follow(turn).await {
            return keeper.desk.cut_off(&error.to_string());
        }
    }
}

struct Keeper {
    fleet: Arc<Fleet>,
    desk: Arc<Desk>,
    store: FleetStore,
    member: Member,
    /// Shards whose deals are in memory here.
    own: BTreeMap<ShardId, Epoch>,
}

/// Why a broker can't go on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("shard {0} was taken by another broker")]
    Taken(ShardId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Desk(#[from] DeskError),
}

impl Keeper {
    async fn follow(&mut self, turn: Turn) -> Result<(), Broken> {
        let (mut claims, mut releases) = (Vec::new(), Vec::new());
        for wish in turn.wishes {
            match wish {
                Wish::Claim { shard, after } => claims.push((shard, after)),
                Wish::Release { shard, epoch } => releases.push((shard, epoch)),
            }
        }
        let given: BTreeSet<_> = releases.iter().map(|(shard, _)| *shard).collect();
        // What was taken without being given may have been sold from meanwhile: this broker's memory is worth nothing.
        if let Some(Lost(shard)) = turn.lost.iter().find(|Lost(shard)| !given.contains(shard)) {
            return Err(Broken::Taken(*shard));
        }
        if !releases.is_empty() {
            self.own.retain(|shard, _| !given.contains(shard));
            self.publish();
            self.desk.let_go(&given).await?;
            self.store.release(self.fleet.me(), &releases).await?;
            tracing::info!(shards = releases.len(), "shards given up");
        }
        if !claims.is_empty() {
            let claimed = self.store.claim(self.fleet.me(), &claims).await?;
            let member = &mut self.member;
            let claimed = claimed.into_iter();
            let claimed: Vec<_> = claimed
                .filter(|(shard, epoch)| member.handle_claimed(*shard, *epoch))
                .collect();
            self.desk.take_over(&claimed).await?;
            if !claimed.is_empty() {
                tracing::info!(shards = claimed.len(), "shards taken over");
            }
            self.own.extend(claimed);
        }
        self.publish();
        Ok(())
    }

    /// Tells everybody here whose each shard is; of this broker's own, those that it is ready for.
    fn publish(&self) {
        let homes: Homes = ShardId::all()
            .map(|shard| {
                let (owner, epoch) = self.member.owner(shard)?;
                let ready = owner != self.fleet.me() || self.own.get(&shard) == Some(&epoch);
                ready.then(|| Home {
                    owner: owner.clone(),
                    epoch,
                })
            })
            .collect();
        let own = i64::try_from(self.own.len()).unwrap_or(i64::MAX);
        self.desk.metrics.shards.set(own);
        let changed = self.fleet.homes.send_if_modified(|known| {
            let changed = *known != homes;
            *known = homes;
            changed
        });
        if changed {
            self.fleet.follow_moves();
        }
    }
}
