//! Which address the web sees: one page, fetched through the tunnel, that answers with it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper_util::rt::TokioIo;
use ipsx_agent_core::requester::ExitSeen;
use ipsx_tunnel_os::ClientTunnel;

use crate::exit_code::Failure;

/// One look takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An address is short.
const MAX_ANSWER: usize = 1_024;

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
    pub(super) async fn look(&self, tunnel: &ClientTunnel) -> ExitSeen {
        match tokio::time::timeout(PATIENCE, self.fetch(tunnel)).await {
            Ok(Ok(address)) => ExitSeen::Address(address),
            Ok(Err(reason)) => {
                tracing::debug!(%reason, "the exit's address was not found out");
                ExitSeen::Nothing
            }
            Err(_) => ExitSeen::Nothing,
        }
    }

    async fn fetch(
        &self,
        tunnel: &ClientTunnel,
    ) -> Result<IpAddr, Box<dyn std::error::Error + Send + Sync>> {
        let address = match self.host.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => *tunnel
                .resolve(&self.host)
                .await?
                .first()
                .ok_or("the name has no address")?,
        };
        let stream = tunnel
            .tcp_connect(SocketAddr::new(address, self.port))
            .await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self
            .uri
            .authority()
            .map_or(self.host.as_str(), |authority| authority.as_str());
        let request = hyper::Request::get(path)
            .header("host", host)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await?
            .to_bytes();
        connection.abort();
        Ok(std::str::from_utf8(&body)?.trim().parse()?)
    }
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
