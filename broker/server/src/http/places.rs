//! Places for connections, and who has to give one up.
//!
//! A connection whose request has arrived keeps its place until it is answered. One that waits for a request, or for the
//! rest of one, has it only as long as nobody else needs it: when all places are taken, of the address with most such
//! connections the one that has waited longest is closed. So neither idle connections nor slow senders keep others out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// How long a body may take.
const BODY: Duration = Duration::from_secs(20);
/// How often it is looked for a place to be given up.
const AGAIN: Duration = Duration::from_millis(100);

/// All places of a listener.
pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, Connection>,
}

struct Connection {
    peer: IpAddr,
    /// Since when the client's next bytes are waited for; `None` while a request is worked on.
    waiting: Option<Instant>,
    closing: Arc<Notify>,
}

/// A connection's place, given back when dropped.
pub(super) struct Place {
    number: u64,
    places: Arc<Places>,
    closing: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many.
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            taken: Mutex::default(),
        })
    }

    /// A place for a connection that was accepted, once there is one.
    pub(super) async fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let free = Arc::clone(&self.free);
        let permit = match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => permit,
            // Nobody may be idle yet; somebody soon will.
            Err(_) => loop {
                self.make_room();
                let freed = timeout(AGAIN, Arc::clone(&free).acquire_owned()).await;
                if let Ok(permit) = freed {
                    break permit.ok()?;
                }
            },
        };
        let closing = Arc::new(Notify::new());
        let mut taken = self.taken();
        taken.next += 1;
        let number = taken.next;
        let connection = Connection {
            peer: peer.ip().to_canonical(),
            waiting: Some(Instant::now()),
            closing: Arc::clone(&closing),
        };
        taken.connections.insert(number, connection);
        drop(taken);
        Some(Place {
            number,
            places: Arc::clone(self),
            closing,
            _permit: permit,
        })
    }

    /// Has a connection closed that does not work.
    fn make_room(&self) {
        let taken = self.taken();
        let mut idle_at = HashMap::<IpAddr, usize>::new();
        let idle = || taken.connections.values().filter(|c| c.waiting.is_some());
        for connection in idle() {
            *idle_at.entry(connection.peer).or_default() += 1;
        }
        let first = idle().min_by_key(|connection| {
            let others = idle_at.get(&connection.peer).copied().unwrap_or(0);
            (std::cmp::Reverse(others), connection.waiting)
        });
        if let Some(connection) = first {
            tracing::debug!(peer = %connection.peer, "an idle HTTP connection gives up its place");
            connection.closing.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns once somebody else needs the place more.
    pub(super) async fn needed(&self) {
        self.closing.notified().await;
    }

    fn set_waiting(&self, waiting: Option<Instant>) {
        if let Some(connection) = self.places.taken().connections.get_mut(&self.number) {
            connection.waiting = waiting;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().connections.remove(&self.number);
    }
}

/// A request's body: once it is there, the connection works.
pub(super) struct Arriving {
    body: Incoming,
    late: Pin<Box<Sleep>>,
    place: Arc<Place>,
}

impl Arriving {
    /// Begins with the request's head.
    pub(super) fn new(body: Incoming, place: Arc<Place>) -> Self {
        let arrived = hyper::body::Body::is_end_stream(&body);
        place.set_waiting((!arrived).then(Instant::now));
        Self {
            body,
            late: Box::pin(sleep(BODY)),
            place,
        }
    }
}

/// The body did not arrive in time.
#[derive(Debug, thiserror::Error)]
#[error("it did not arrive within {BODY:?}")]
struct Late;

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.late.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Late.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.place.set_waiting(None);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whoever took no more of it works with what there is.
        self.place.set_waiting(None);
    }
}

/// An answer's body: when it is over, the connection waits again.
pub(super) struct Leaving {
    body: Body,
    place: Arc<Place>,
}

impl Leaving {
    pub(super) fn new(body: Body, place: Arc<Place>) -> Self {
        Self { body, place }
    }
}

impl hyper::body::Body for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.place.set_waiting(Some(Instant::now()));
    }
}
