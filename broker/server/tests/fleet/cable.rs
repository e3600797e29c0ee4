//! A connection that can be cut, or long: what is sent while it is cut arrives when it is mended, as late as that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Where the other end is.
#[derive(Clone)]
pub enum End {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A port of its own, and whatever connects to it goes on to the other end.
pub struct Cable {
    pub address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    whole: bool,
    /// How long everything takes, each way.
    delay: Duration,
}

impl Cable {
    pub async fn lay(end: End) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, state) = watch::channel(State {
            whole: true,
            delay: Duration::ZERO,
        });
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(join(near, end.clone(), state.clone()));
            }
        });
        Self {
            address,
            state: sender,
        }
    }

    /// Nothing gets through any more, and nobody is told.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.whole = false);
    }

    pub fn mend(&self) {
        self.state.send_modify(|state| state.whole = true);
    }

    /// From now on everything takes this much longer, each way.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

async fn join(near: TcpStream, end: End, state: watch::Receiver<State>) {
    let _ = near.set_nodelay(true);
    match end {
        End::Tcp(address) => {
            if let Ok(far) = TcpStream::connect(address).await {
                let _ = far.set_nodelay(true);
                pump_both(near.into_split(), far.into_split(), state).await;
            }
        }
        End::Unix(path) => {
            if let Ok(far) = UnixStream::connect(path).await {
                pump_both(near.into_split(), far.into_split(), state).await;
            }
        }
    }
}

async fn pump_both<A, B, C, D>(near: (A, B), far: (C, D), state: watch::Receiver<State>)
where
    A: AsyncRead + Unpin,
    B: AsyncWrite + Unpin,
    C: AsyncRead + Unpin,
    D: AsyncWrite + Unpin,
{
    tokio::join!(
        pump(near.0, far.1, state.clone()),
        pump(far.0, near.1, state)
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let delay = match state.wait_for(|state| state.whole).await {
            Ok(state) => state.delay,
            Err(_) => return,
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
