//! What waits to be written to one agent: bounded in messages and in bytes, and nothing while nothing waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ipsx_market::codec::{self, MAX_FRAME};
use ipsx_market::messages::BrokerMessage;
use tokio::sync::Notify;

/// Messages that may wait for a slow agent before it is dropped.
const MESSAGES: usize = 1_024;
/// Bytes that may, the one that is being written not counted.
const BYTES: usize = 4 * MAX_FRAME;

/// There is no room for a message, or it is none that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Default)]
struct Waiting {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    closed: bool,
}

/// Frames for one agent, in order. A channel would hold room for 32 messages of the largest kind for each of thousands
/// of agents that are told nothing for hours.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

impl Outbox {
    /// Leaves a message for the agent.
    pub(crate) fn send(&self, message: &BrokerMessage) -> Result<(), Full> {
        self.push(message, MESSAGES, BYTES)
    }

    /// The same for a message that may be lost, and must not push out those that may not: half the room stays for them.
    pub(crate) fn offer(&self, message: &BrokerMessage) -> Result<(), Full> {
        self.push(message, MESSAGES / 2, BYTES / 2)
    }

    /// The same for a frame that another broker has made of a message.
    pub(crate) fn pass(&self, frame: Vec<u8>) -> Result<(), Full> {
        self.put(frame, MESSAGES, BYTES)
    }

    fn push(&self, message: &BrokerMessage, messages: usize, bytes: usize) -> Result<(), Full> {
        let frame = codec::encode_frame(message).map_err(|_| Full)?;
        self.put(frame, messages, bytes)
    }

    fn put(&self, frame: Vec<u8>, messages: usize, bytes: usize) -> Result<(), Full> {
        let mut waiting = self.lock();
        if waiting.frames.len() >= messages || waiting.bytes + frame.len() > bytes {
            return Err(Full);
        }
        waiting.bytes += frame.len();
        waiting.frames.push(frame);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Nothing more will come; what waits is still taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Everything that waits, as soon as there is something; `None` once it is closed and empty. For one task only.
    pub(crate) async fn take(&self) -> Option<Vec<Vec<u8>>> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.frames.is_empty() {
                    waiting.bytes = 0;
                    return Some(std::mem::take(&mut waiting.frames));
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A list of frames is whole after any panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(bytes: usize) -> BrokerMessage {
        let reason = "x".repeat(bytes);
        BrokerMessage::Refused { reason }
    }

    #[tokio::test]
    async fn messages_come_out_in_order_and_the_last_before_the_end() {
        let outbox = Outbox::default();
        for n in 1..=3 {
            outbox.send(&message(n)).unwrap();
        }
        let frames = outbox.take().await.unwrap();
        let wanted: Vec<_> = (1..=3)
            .map(|n| codec::encode_frame(&message(n)).unwrap())
            .collect();
        assert_eq!(frames, wanted);
        outbox.send(&message(4)).unwrap();
        outbox.close();
        assert_eq!(outbox.take().await.unwrap().len(), 1);
        assert_eq!(outbox.take().await, None);
    }

    #[tokio::test]
    async fn it_is_bounded_in_messages_and_in_bytes_and_empty_again_when_taken() {
        let outbox = Outbox::default();
        let small = (0..).take_while(|_| outbox.send(&message(1)).is_ok());
        assert_eq!(small.count(), MESSAGES);
        outbox.take().await.unwrap();
        let large = (0..).take_while(|_| outbox.send(&message(MAX_FRAME - 100)).is_ok());
        assert_eq!(large.count(), 4);
        outbox.take().await.unwrap();
        assert_eq!(outbox.send(&message(MAX_FRAME + 1)), Err(Full));
        outbox.send(&message(1)).unwrap();
    }

    #[test]
    fn what_may_be_lost_leaves_half_of_the_room() {
        let outbox = Outbox::default();
        let offered = (0..).take_while(|_| outbox.offer(&message(1)).is_ok());
        assert_eq!(offered.count(), MESSAGES / 2);
        outbox.send(&message(1)).unwrap();
    }
}
