//! The user's wish that the program ends.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The user's wishes to end, numbered from 1: Ctrl-C, or a polite signal.
pub(super) fn interrupts() -> mpsc::Receiver<u32> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        for number in 1.. {
            interrupted().await;
            if sender.send(number).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns at Ctrl-C, or when a service manager asks the program to end.
pub async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
