//! Ctrl-C and the polite signals: everything that waits looks here, so that namespaces and processes are always taken
//! away by the one who made them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

static ASKED: AtomicBool = AtomicBool::new(false);

const STEP: Duration = Duration::from_millis(10);

/// Starts to listen for SIGINT, SIGTERM and SIGHUP, on a thread of its own.
pub fn watch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut streams = {
        let _inside = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let [interrupt, terminate, hangup] = &mut streams;
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                ASKED.store(true, Ordering::Relaxed);
                // Dropping the streams does not bring the default action back, so a second Ctrl-C changes nothing:
                // taking the namespaces away is always finished.
            });
        })?;
    Ok(())
}

/// Fails when the end was asked for.
pub(super) fn check() -> Result<(), Failure> {
    if ASKED.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted);
    }
    Ok(())
}

/// Sleeps unless the end is asked for.
pub(super) fn sleep(time: Duration) -> Result<(), Failure> {
    wait(time, || Ok(None::<()>)).map(drop)
}

/// Asks until there is an answer or the time is over; `None` if it is over.
pub(super) fn wait<T>(
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let end = Instant::now() + limit;
    loop {
        check()?;
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(left.min(STEP));
    }
}
