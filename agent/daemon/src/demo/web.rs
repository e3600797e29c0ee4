//! A web server on loopback that answers with the source address it saw, or with as many bytes as the path asks for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One frame of a download.
const BLOCK: &[u8] = &[b'x'; 64 << 10];
/// The largest download, in bytes.
const MAX_DOWNLOAD: u64 = 1 << 30;

/// A running web server; it ends when this is dropped.
pub(crate) struct Web {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Web {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            task: tokio::spawn(serve(listener)),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(async move {
            let service =
                service_fn(
                    move |request| async move { Ok::<_, Infallible>(answer(&request, peer)) },
                );
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a page was not taken to its end");
            }
        });
    }
}

fn answer<B>(request: &Request<B>, peer: SocketAddr) -> Response<Either<Full<Bytes>, Download>> {
    let path = request.uri().path();
    let Some(size) = path.strip_prefix("/bytes/") else {
        return Response::new(Either::Left(Full::new(Bytes::from(format!(
            "{}\n",
            peer.ip()
        )))));
    };
    match size.parse::<u64>() {
        Ok(size) if size <= MAX_DOWNLOAD => Response::new(Either::Right(Download { left: size })),
        _ => {
            let text = Bytes::from_static(b"write /bytes/N with N up to 1073741824\n");
            let mut response = Response::new(Either::Left(Full::new(text)));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// A body of this many bytes.
struct Download {
    left: u64,
}

impl Body for Download {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(BLOCK.len() as u64);
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
            &BLOCK[..size as usize],
        )))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads a body to its end and counts it; keeps the beginning.
pub(crate) async fn drain(mut body: hyper::body::Incoming) -> Result<(u64, Vec<u8>), hyper::Error> {
    let (mut size, mut beginning) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            size += data.len() as u64;
            if beginning.len() < 256 {
                beginning.extend_from_slice(&data[..data.len().min(256)]);
            }
        }
    }
    Ok((size, beginning))
}
