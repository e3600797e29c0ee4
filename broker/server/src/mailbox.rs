//! Sealed frames that wait for their payer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipsx_metering::DealId;
use tokio::sync::Notify;

/// Frames that wait for one payer; older ones are dropped, since a newer receipt replaces them.
const MAX_WAITING: usize = 64;

#[derive(Default)]
struct Mailbox {
    frames: VecDeque<Vec<u8>>,
    arrived: Arc<Notify>,
    closed: bool,
    /// Sweeps since nothing more can come.
    swept: u8,
}

/// One mailbox for each deal whose provider sent a frame, or whose payer waits for one.
#[derive(Default)]
pub(crate) struct Mailboxes {
    boxes: Mutex<HashMap<DealId, Mailbox>>,
}

impl Mailboxes {
    /// Leaves a frame. True if an older one had to go for it.
    pub(crate) fn push(&self, deal: DealId, frame: Vec<u8>) -> bool {
        let mut boxes = self.lock();
        let mailbox = boxes.entry(deal).or_default();
        mailbox.frames.push_back(frame);
        let full = mailbox.frames.len() > MAX_WAITING;
        if full {
            mailbox.frames.pop_front();
        }
        mailbox.arrived.notify_waiters();
        full
    }

    /// Takes what waits; when that is nothing, something to wait for.
    pub(crate) fn take(&self, deal: DealId) -> Result<Vec<Vec<u8>>, Arc<Notify>> {
        let mut boxes = self.lock();
        let mailbox = boxes.entry(deal).or_default();
        if mailbox.frames.is_empty() {
            return Err(mailbox.arrived.clone());
        }
        Ok(mailbox.frames.drain(..).collect())
    }

    /// What waits for the payer of a deal that is over.
    pub(crate) fn last_words(&self, deal: DealId) -> Vec<Vec<u8>> {
        let mut boxes = self.lock();
        let mailbox = boxes.get_mut(&deal);
        mailbox.map_or_else(Vec::new, |mailbox| mailbox.frames.drain(..).collect())
    }

    /// Whether nothing more will come.
    pub(crate) fn is_closed(&self, deal: DealId) -> bool {
        self.lock().get(&deal).is_none_or(|mailbox| mailbox.closed)
    }

    /// The deal is over: what waits can still be read for a while.
    pub(crate) fn close(&self, deal: DealId) {
        if let Some(mailbox) = self.lock().get_mut(&deal) {
            mailbox.closed = true;
            mailbox.arrived.notify_waiters();
        }
    }

    /// Forgets the mailboxes of deals that do not go on, at the second sweep.
    pub(crate) fn sweep(&self, goes_on: impl Fn(DealId) -> bool) {
        self.lock().retain(|deal, mailbox| {
            mailbox.swept += u8::from(!goes_on(*deal));
            mailbox.swept < 2
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DealId, Mailbox>> {
        // A queue of bytes is whole after any panic.
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
