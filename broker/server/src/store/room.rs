//! Whether the disk has room for what has to be written.

use tokio::sync::watch;

/// Known to all who write and all who would.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// How many writes wait for it.
    waiting: watch::Sender<usize>,
}

/// A write waits for room, for as long as this lives.
pub(crate) struct Wanted(watch::Sender<usize>);

impl Room {
    pub(super) fn new() -> Self {
        Self {
            waiting: watch::Sender::new(0),
        }
    }

    /// A write found no room at this place, and will be tried again.
    pub(crate) fn want(&self, place: &str) -> Wanted {
        tracing::error!(
            place,
            "there is no room on the disk; nothing new is taken until some is freed"
        );
        self.waiting.send_modify(|waiting| *waiting += 1);
        Wanted(self.waiting.clone())
    }

    /// Whether no write waits for it.
    pub(crate) fn is_left(&self) -> bool {
        *self.waiting.borrow() == 0
    }

    /// Returns once no write waits for it.
    pub(crate) async fn left(&self) {
        self.until(|waiting| *waiting == 0).await;
    }

    /// Returns once a write waits for it.
    pub(crate) async fn gone(&self) {
        self.until(|waiting| *waiting > 0).await;
    }

    async fn until(&self, holds: impl FnMut(&usize) -> bool) {
        // It fails only without a sender, and this is one.
        let _ = self.waiting.subscribe().wait_for(holds).await;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
        if *self.0.borrow() == 0 {
            tracing::info!("the disk has room again");
        }
    }
}
