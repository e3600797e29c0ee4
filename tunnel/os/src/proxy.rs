//! A local proxy in front of a tunnel: SOCKS5 and HTTP on one port.

mod associate;
mod http;
mod socks;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::client::{ClientTunnel, ConnectError, ResolveError, TunnelStream};

/// Bytes copied at once.
const COPY_BUFFER: usize = 64 << 10;

/// First byte of a SOCKS5 greeting (RFC 1928); no HTTP method starts with it.
const SOCKS5: u8 = 5;

/// Settings of a local proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where to listen, TCP; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether `listen` may be reached from other machines. The proxy asks nobody for a password.
    pub allow_remote: bool,
    /// Connections served at once; more wait.
    pub max_connections: usize,
    /// How long a program may take to say what it wants.
    pub request_timeout: Duration,
}

impl ProxyConfig {
    /// A proxy for programs on this machine.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            allow_remote: false,
            max_connections: 1024,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address is reachable from other machines.
    #[error(
        "the proxy has no password, so it does not listen on {0}; use 127.0.0.1, or allow remote use explicitly"
    )]
    NotLoopback(SocketAddr),
    /// The address could not be listened on.
    #[error("the proxy cannot listen on {address}: {source}; choose a free port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// The tunnels behind a proxy: whatever is asked for goes through them in turn.
#[derive(Clone)]
struct Tunnels {
    first: ClientTunnel,
    others: Vec<ClientTunnel>,
}

/// The tunnels, as those see them who serve programs.
#[derive(Clone)]
struct InUse {
    tunnels: watch::Receiver<Tunnels>,
    turn: Arc<AtomicUsize>,
}

impl InUse {
    /// The one whose turn it is.
    fn next(&self) -> ClientTunnel {
        let tunnels = self.tunnels.borrow();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % (tunnels.others.len() + 1);
        let other = turn.checked_sub(1).and_then(|at| tunnels.others.get(at));
        other.unwrap_or(&tunnels.first).clone()
    }
}

/// A running local proxy; it ends, with its connections, when it is dropped.
pub struct Proxy {
    local: SocketAddr,
    tunnels: watch::Sender<Tunnels>,
    stop: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that reaches everything through `tunnel`. Must be called inside a tokio runtime.
    pub async fn start(config: ProxyConfig, tunnel: ClientTunnel) -> Result<Self, ProxyError> {
        if !config.listen.ip().is_loopback() && !config.allow_remote {
            return Err(ProxyError::NotLoopback(config.listen));
        }
        let failed = |source| ProxyError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let (tunnels, in_use) = watch::channel(Tunnels {
            first: tunnel,
            others: Vec::new(),
        });
        let in_use = InUse {
            tunnels: in_use,
            turn: Arc::default(),
        };
        let ended = tokio::spawn(accept_all(listener, config, in_use, stopped));
        Ok(Self {
            local,
            tunnels,
            stop,
            ended,
        })
    }

    /// Where the proxy listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Reaches whatever is asked for from now on through another tunnel, and returns the one before. What goes through
    /// that one already goes on for as long as it runs.
    pub fn switch(&self, tunnel: ClientTunnel) -> ClientTunnel {
        let others = Vec::new();
        let next = Tunnels {
            first: tunnel,
            others,
        };
        self.tunnels.send_replace(next).first
    }

    /// Reaches whatever is asked for from now on through these tunnels in turn; without any, all stays as it is.
    pub fn spread(&self, tunnels: impl IntoIterator<Item = ClientTunnel>) {
        let mut tunnels = tunnels.into_iter();
        if let Some(first) = tunnels.next() {
            let others = tunnels.collect();
            self.tunnels.send_replace(Tunnels { first, others });
        }
    }

    /// Ends the proxy and its connections; returns when the port is free.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        // It fails only if the task was cancelled with its runtime.
        let _ = self.ended.await;
    }
}

async fn accept_all(
    listener: TcpListener,
    config: ProxyConfig,
    in_use: InUse,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(config.max_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept_one(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let in_use = in_use.clone();
        connections.spawn(async move {
            if let Err(error) = serve(stream, &config, in_use).await {
                tracing::debug!(%error, "proxy connection ended early");
            }
            drop(place);
        });
    }
}

async fn accept_one(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "the proxy could not accept a connection");
            // Usually the process is out of files: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn serve(stream: TcpStream, config: &ProxyConfig, in_use: InUse) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    match timeout(config.request_timeout, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    if first[0] == SOCKS5 {
        socks::serve(stream, config, in_use).await
    } else {
        http::serve(stream, config, in_use).await
    }
}

/// Where a program wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl Target {
    /// A host by its name, or by an address written as one, as some programs do.
    fn named(name: &str, port: u16) -> Self {
        match name.parse() {
            Ok(address) => Self::Address(SocketAddr::new(address, port)),
            Err(_) => Self::Name(name.to_owned(), port),
        }
    }
}

/// Why a program can't go there.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Opens a connection through the tunnel, trying a name's addresses one after the other.
async fn open(tunnel: &ClientTunnel, target: Target) -> Result<TunnelStream, OpenError> {
    let (name, port) = match target {
        Target::Address(address) => return Ok(tunnel.tcp_connect(address).await?),
        Target::Name(name, port) => (name, port),
    };
    let mut last = ConnectError::HostUnreachable;
    for address in tunnel.resolve(&name).await? {
        match tunnel.tcp_connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Carries bytes both ways until both directions have ended.
async fn relay(
    mut inside: TunnelStream,
    mut outside: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    copy_bidirectional_with_sizes(&mut outside, &mut inside, COPY_BUFFER, COPY_BUFFER)
        .await
        .map(drop)
}
