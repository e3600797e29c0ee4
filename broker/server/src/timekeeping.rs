//! What the clock has to be asked for again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::desk::Desk;

/// How often the clock is looked at, and how often what has expired is forgotten.
const TICK: Duration = Duration::from_millis(250);
const SWEEP: Duration = Duration::from_secs(60);
/// How often it is looked at whether a database of places was replaced.
const DATABASES: Duration = Duration::from_secs(5);
/// How often it is looked up what is about to lapse: often in half a day, and seldom enough for a claim that nothing
/// is left to pay, whose gas is lost.
const LAPSING: Duration = Duration::from_secs(3_600);

/// Lets the clock do its work until the broker stops.
pub(crate) async fn keep_time(desk: Arc<Desk>) {
    let mut tick = interval(TICK);
    let mut sweep = interval(SWEEP);
    let mut lapsing = interval(LAPSING);
    let mut databases = interval(DATABASES);
    databases.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = tick.tick() => desk.tick().await,
            _ = sweep.tick() => desk.sweep().await,
            _ = databases.tick() => {
                // To read a large one takes longer than the clock may stand still.
                tokio::spawn(refresh_places(Arc::clone(&desk)));
                Ok(())
            }
            _ = lapsing.tick() => {
                // The chain may take its time; the clock must not.
                tokio::spawn(claim_lapsing(Arc::clone(&desk)));
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the clock's work was not done");
            if desk.has_stopped() {
                return;
            }
        }
    }
}

async fn refresh_places(desk: Arc<Desk>) {
    if let Err(error) = desk.refresh_places().await {
        tracing::warn!(%error, "not all offers are placed by the new databases");
    }
}

async fn claim_lapsing(desk: Arc<Desk>) {
    if let Err(error) = desk.claim_lapsing().await {
        tracing::warn!(%error, "what is about to lapse was not claimed; it is tried again in an hour");
    }
}
