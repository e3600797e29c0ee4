//! How connections to a node, or to whoever else speaks HTTP, are opened.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Opens TCP connections in a way of its own.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to a host, by name or address, at this port.
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream>;
}

/// Opens the connections of an HTTP client. Cheap to clone.
#[derive(Clone)]
pub enum Connector {
    /// As the system does it.
    System(HttpConnector),
    /// Otherwise.
    Own(Arc<dyn Dial>),
}

impl Default for Connector {
    fn default() -> Self {
        let mut system = HttpConnector::new();
        // TLS may come on top.
        system.enforce_http(false);
        system.set_nodelay(true);
        system.set_connect_timeout(Some(std::time::Duration::from_secs(10)));
        Self::System(system)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Reason;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Reason>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        match self {
            Self::System(system) => system.poll_ready(cx).map_err(Into::into),
            Self::Own(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::System(system) => {
                let connecting = system.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Own(dial) => {
                let dial = dial.clone();
                Box::pin(async move {
                    let host = uri.host().ok_or("the URL names no host")?;
                    let default = if uri.scheme_str() == Some("https") {
                        443
                    } else {
                        80
                    };
                    // An IPv6 address stands in brackets.
                    let host = host.trim_matches(['[', ']']);
                    let stream = dial.dial(host, uri.port_u16().unwrap_or(default)).await?;
                    stream.set_nodelay(true)?;
                    Ok(TokioIo::new(stream))
                })
            }
        }
    }
}
