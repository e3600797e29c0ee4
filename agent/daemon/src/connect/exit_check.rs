//! Which address the web sees: one page, fetched through the tunnel, that answers with it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, Uri};
use hyper_util::rt::TokioIo;
use ipsx_agent_core::requester::ExitSeen;
use ipsx_tunnel_os::ClientTunnel;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::exit_code::Failure;

/// One look takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An address is short.
const MAX_ANSWER: usize = 1_024;
/// Fewer bytes say nothing of a rate.
const FEWEST: u64 = 64 << 10;
/// What a name may lack.
const NO_ADDRESS: &str = "the name has no address";

pub(crate) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// How the page is reached.
pub(super) enum Way {
    /// By a connection inside the tunnel.
    Tunnel(ClientTunnel),
    /// By this host's own connection, through this interface alone.
    #[cfg(target_os = "linux")]
    Interface(String),
}

/// A page that answers with the address it saw, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitPage {
    uri: Uri,
    host: String,
    port: u16,
}

impl ExitPage {
    /// Takes an `http://` URL.
    pub fn parse(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!(
                "--exit-check {url:?} {why}; write an http:// URL that answers with the address it saw"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("does not begin with http://"));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("names no host"))?;
        let host = host.trim_matches(['[', ']']).to_string();
        Ok(Self {
            port: uri.port_u16().unwrap_or(80),
            host,
            uri,
        })
    }

    /// Looks once.
    pub(super) async fn look(&self, way: &Way) -> ExitSeen {
        let look = async {
            let body = whole(self.fetch(way).await?).await?;
            Ok::<IpAddr, Reason>(std::str::from_utf8(&body)?.trim().parse()?)
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(address)) => ExitSeen::Address(address),
            Ok(Err(reason)) => {
                tracing::debug!(%reason, "the exit's address was not found out");
                ExitSeen::Nothing
            }
            Err(_) => ExitSeen::Nothing,
        }
    }

    /// What it says through a tunnel.
    pub(crate) async fn read(&self, tunnel: &ClientTunnel) -> Result<Bytes, Reason> {
        let way = Way::Tunnel(tunnel.clone());
        let read = async { whole(self.fetch(&way).await?).await };
        tokio::time::timeout(PATIENCE, read).await?
    }

    /// How fast it comes through a tunnel, in Mbit/s, by its first bytes, at most so many of them.
    pub(crate) async fn download_rate(
        &self,
        tunnel: &ClientTunnel,
        most: u64,
    ) -> Result<u32, Reason> {
        let way = Way::Tunnel(tunnel.clone());
        let mut body = self.fetch(&way).await?.into_body();
        let begun = Instant::now();
        let mut bytes = 0;
        while bytes < most
            && let Ok(Some(frame)) = tokio::time::timeout(PATIENCE, body.frame()).await
        {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            if begun.elapsed() > PATIENCE {
                break;
            }
        }
        mbit(bytes, begun)
    }

    /// How fast so many bytes are taken through a tunnel, in Mbit/s, until what took them answers.
    pub(crate) async fn upload_rate(
        &self,
        tunnel: &ClientTunnel,
        bytes: u64,
    ) -> Result<u32, Reason> {
        let way = Way::Tunnel(tunnel.clone());
        let body = Bytes::from(vec![0; usize::try_from(bytes)?]);
        let begun = Instant::now();
        let answer = tokio::time::timeout(PATIENCE * 2, self.send(&way, Method::POST, body));
        let answer = answer.await??;
        if !answer.status().is_success() {
            return Err(format!("what was sent was answered with {}", answer.status()).into());
        }
        mbit(bytes, begun)
    }

    async fn fetch(&self, way: &Way) -> Result<Response<Incoming>, Reason> {
        self.send(way, Method::GET, Bytes::new()).await
    }

    async fn send(
        &self,
        way: &Way,
        method: Method,
        body: Bytes,
    ) -> Result<Response<Incoming>, Reason> {
        match way {
            Way::Tunnel(tunnel) => {
                let address = match self.host.parse::<IpAddr>() {
                    Ok(address) => address,
                    Err(_) => *tunnel
                        .resolve(&self.host)
                        .await?
                        .first()
                        .ok_or(NO_ADDRESS)?,
                };
                let address = SocketAddr::new(address, self.port);
                let stream = tunnel.tcp_connect(address).await?;
                self.ask(stream, method, body).await
            }
            #[cfg(target_os = "linux")]
            Way::Interface(name) => {
                let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
                // The lease's IPv4 address is the one that was sold.
                let address = found.min_by_key(SocketAddr::is_ipv6).ok_or(NO_ADDRESS)?;
                let socket = match address {
                    SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
                };
                socket.bind_device(Some(name.as_bytes()))?;
                let stream = socket.connect(address).await?;
                self.ask(stream, method, body).await
            }
        }
    }

    async fn ask<S>(
        &self,
        stream: S,
        method: Method,
        body: Bytes,
    ) -> Result<Response<Incoming>, Reason>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer.
        tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self
            .uri
            .authority()
            .map_or(self.host.as_str(), |authority| authority.as_str());
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .body(Full::new(body))?;
        Ok(sender.send_request(request).await?)
    }
}

/// The rate at which bytes came or went since then.
fn mbit(bytes: u64, begun: Instant) -> Result<u32, Reason> {
    if bytes < FEWEST {
        return Err("too little came to measure by it".into());
    }
    let micros = begun.elapsed().as_micros().max(1);
    Ok(u32::try_from(u128::from(bytes) * 8 / micros)?)
}

/// A short answer.
async fn whole(response: Response<Incoming>) -> Result<Bytes, Reason> {
    let body = Limited::new(response.into_body(), MAX_ANSWER);
    Ok(body.collect().await?.to_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_is_an_http_url() {
        let page = ExitPage::parse("http://[2001:db8::1]:8080/ip?x=1").unwrap();
        assert_eq!((page.host.as_str(), page.port), ("2001:db8::1", 8080));
        assert_eq!(ExitPage::parse("http://example.org").unwrap().port, 80);
        for url in ["https://example.org", "example.org", "http://", ""] {
            assert!(ExitPage::parse(url).is_err(), "{url}");
        }
    }
}
