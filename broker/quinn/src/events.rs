//! A queue between two tasks that takes no memory while it is empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::task::coop;

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            events: VecDeque::new(),
            waker: None,
            open: true,
        }),
    });
    (Sender(shared.clone()), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    events: VecDeque<T>,
    /// Of the task that waits.
    waker: Option<Waker>,
    /// Whether both ends are there.
    open: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        crate::lock(&self.state)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The end that is written to.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Leaves an event; gives it back if nobody will read it.
    pub(crate) fn send(&self, event: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if !state.open {
            return Err(event);
        }
        state.events.push_back(event);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The end that is read.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next event; `None` when the sender is gone and nothing is left.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        // As tokio's own channels do, so that a flood for one connection leaves the others their turn.
        let restore = match coop::poll_proceed(cx) {
            Poll::Ready(restore) => restore,
            Poll::Pending => return Poll::Pending,
        };
        let mut state = self.0.lock();
        match state.events.pop_front() {
            Some(event) => {
                if state.events.is_empty() {
                    state.events = VecDeque::new();
                }
                restore.made_progress();
                Poll::Ready(Some(event))
            }
            None if !state.open => {
                restore.made_progress();
                Poll::Ready(None)
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn events_come_in_order_wake_once_and_leave_no_memory_behind() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let (sender, mut receiver) = channel();
        assert_eq!(receiver.poll_recv(cx), Poll::Pending);
        for n in 0..100 {
            sender.send(n).unwrap();
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        for n in 0..100 {
            assert_eq!(receiver.poll_recv(cx), Poll::Ready(Some(n)));
        }
        assert_eq!(receiver.poll_recv(cx), Poll::Pending);
        assert_eq!(receiver.0.lock().events.capacity(), 0);
    }

    #[test]
    fn an_end_that_is_gone_is_noticed_after_what_was_left() {
        let waker = Waker::from(Arc::new(Count::default()));
        let cx = &mut Context::from_waker(&waker);
        let (sender, mut receiver) = channel();
        sender.send(1).unwrap();
        drop(sender);
        assert_eq!(receiver.poll_recv(cx), Poll::Ready(Some(1)));
        assert_eq!(receiver.poll_recv(cx), Poll::Ready(None));
        let (sender, receiver) = channel();
        drop(receiver);
        assert_eq!(sender.send(2), Err(2));
    }
}
