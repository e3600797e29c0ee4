//! A control socket that only tells: an operator watches an endpoint's peers with `wg show`.

use std::{io, time::Duration};

use ipsx_tunnel_core::uapi::{NOT_PERMITTED, Request, respond_done};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{
    provider::Provider,
    uapi_socket::{self, SocketPath, UapiSocketError},
};

/// Longest request that is read: a question has few bytes, and what is refused need not be read to its end.
const LONGEST: usize = 4 << 10;

/// How long somebody may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Connections at once, at most; more are closed.
const MOST: usize = 16;

/// A socket by which an endpoint can be watched; it goes when this is dropped.
pub struct Watch {
    provider: Provider,
    listener: UnixListener,
    _path: SocketPath,
}

impl Watch {
    /// Makes `/var/run/wireguard/NAME.sock`, which `wg show NAME` looks for. To be called inside a tokio runtime.
    pub fn open(provider: Provider, name: &str) -> Result<Self, UapiSocketError> {
        let (listener, path) = uapi_socket::listen(name)?;
        let listener =
            UnixListener::from_std(listener).map_err(|source| UapiSocketError::Make {
                path: path.to_path_buf(),
                source,
            })?;
        Ok(Self {
            provider,
            listener,
            _path: path,
        })
    }

    /// Answers whoever asks, for as long as this is polled.
    pub async fn serve(self) {
        let mut clients = JoinSet::new();
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Too many open files, perhaps: that passes.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            while clients.try_join_next().is_some() {}
            if clients.len() < MOST {
                let provider = self.provider.clone();
                clients.spawn(async move {
                    // Whoever is gone, silent or confused is not served any longer.
                    let _ = converse(stream, &provider).await;
                });
            }
        }
    }
}

/// Answers requests until the other side ends.
async fn converse(mut stream: UnixStream, provider: &Provider) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        while let Some(len) = Request::complete(&request) {
            // An empty line between requests is none.
            if len > 1 {
                let answer = answer(&request[..len], provider).await?;
                stream.write_all(answer.as_bytes()).await?;
            }
            request.drain(..len);
        }
        if request.starts_with(b"set=") || request.len() > LONGEST {
            // What may follow are keys: they are not even read.
            let refused = respond_done(NOT_PERMITTED);
            return stream.write_all(refused.as_bytes()).await;
        }
        let mut chunk = [0; 1024];
        let len = timeout(SILENCE, stream.read(&mut chunk)).await??;
        if len == 0 {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..len]);
    }
}

async fn answer(request: &[u8], provider: &Provider) -> io::Result<Zeroizing<String>> {
    let parsed = std::str::from_utf8(request).map(Request::parse);
    match parsed {
        Ok(Ok(Request::Get)) => provider.describe().await.map_err(io::Error::other),
        Ok(Ok(Request::Set(_))) => Ok(Zeroizing::new(respond_done(NOT_PERMITTED))),
        Ok(Err(error)) => Ok(Zeroizing::new(respond_done(error.errno()))),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}
