//! Accepts connections, so many at a time, each with a limit on how long its headers may take.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

use super::patient::Patient;
use super::places::{Arriving, Leaving, Place, Places};
use crate::error::StartError;

/// How long a client may take over a request's headers; also how long an idle connection is kept.
const HEADERS: Duration = Duration::from_secs(60);
/// Bytes of headers.
const MAX_HEADERS: usize = 16 * 1024;
/// How long sent bytes may stay unacknowledged: whoever vanished without a word is gone after this.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// How long answers under way may take once the broker stops.
const GRACE: Duration = Duration::from_secs(5);

/// Left on each request: who is at the other end of its connection.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A listener, the requesters' or the operator's.
pub(crate) struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Binds the socket; `key` of the configuration says where.
    pub(crate) async fn bind(
        address: SocketAddr,
        purpose: &'static str,
        key: &'static str,
    ) -> Result<Self, StartError> {
        let listen = |reason| StartError::Listen {
            address,
            purpose,
            key,
            reason,
        };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, then lets answers under way go out.
    pub(crate) async fn run(self, router: Router, places: usize, mut stop: watch::Receiver<bool>) {
        let places = Places::new(places);
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            // Finished ones are let go as new ones come.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = accept(&self.listener, &places) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Some((stream, peer, place)) = accepted else {
                continue;
            };
            let router = router.clone();
            let place = Arc::new(place);
            let at = Arc::clone(&place);
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                let request = request.map(|body| Arriving::new(body, Arc::clone(&at)));
                let (answer, at) = (router.clone().call(request), Arc::clone(&at));
                async move { Ok::<_, Infallible>(answer.await?.map(|body| Leaving::new(body, at))) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(MAX_HEADERS)
                .serve_connection(TokioIo::new(Patient::new(stream)), service);
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "HTTP connection ended");
                    },
                    () = place.needed() => {}
                }
            });
        }
        if tokio::time::timeout(GRACE, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some HTTP answers were cut off");
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Places>,
) -> Option<(TcpStream, SocketAddr, Place)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Small answers should not wait for more to come.
            let _ = stream.set_nodelay(true);
            #[cfg(target_os = "linux")]
            let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
            Some((stream, peer, places.take(peer).await?))
        }
        Err(error) => {
            tracing::warn!(%error, "no connection accepted");
            // Out of file handles: waiting lets some be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
