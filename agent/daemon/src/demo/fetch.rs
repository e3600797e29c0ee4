//! What a browser does with a proxy: pages by SOCKS5 (RFC 1928), by HTTP proxying and by CONNECT (RFC 9110).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::web::drain;
use crate::exit_code::{ExitCode, Failure};

/// The way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Socks5,
    Http,
    Connect,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Socks5 => "socks5",
            Self::Http => "http",
            Self::Connect => "connect",
        })
    }
}

/// A page that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Bytes of its body.
    pub(crate) size: u64,
    /// The address that the server saw, if the page says one.
    pub(crate) seen: Option<IpAddr>,
}

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Fetches `path` of `server` through `proxy`.
pub(crate) async fn fetch(
    proxy: SocketAddr,
    way: Way,
    server: SocketAddr,
    path: &str,
) -> Result<Page, Failure> {
    exchange(proxy, way, server, path).await.map_err(|error| {
        Failure::new(
            ExitCode::LeaseFailed,
            format!("http://{server}{path} could not be fetched through the proxy {proxy} by {way}: {error}"),
        )
    })
}

async fn exchange(
    proxy: SocketAddr,
    way: Way,
    server: SocketAddr,
    path: &str,
) -> Result<Page, Trouble> {
    let mut stream = TcpStream::connect(proxy).await?;
    match way {
        Way::Socks5 => socks5(&mut stream, server).await?,
        Way::Connect => connect(&mut stream, server).await?,
        Way::Http => {}
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let uri = if way == Way::Http {
        format!("http://{server}{path}")
    } else {
        path.into()
    };
    let request = Request::get(uri)
        .header("host", server.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("the answer is {status}").into());
    }
    let (size, beginning) = drain(response.into_body()).await?;
    connection.abort();
    let seen = std::str::from_utf8(&beginning)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Ok(Page { size, seen })
}

/// Greeting without authentication, then a CONNECT to an IPv4 address.
async fn socks5(stream: &mut TcpStream, server: SocketAddr) -> Result<(), Trouble> {
    let SocketAddr::V4(server) = server else {
        return Err("the demo's server is on IPv4".into());
    };
    stream.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, 0] {
        return Err("the proxy wants a password".into());
    }
    let mut wanted = vec![5, 1, 0, 1];
    wanted.extend_from_slice(&server.ip().octets());
    wanted.extend_from_slice(&server.port().to_be_bytes());
    stream.write_all(&wanted).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(format!("the proxy refused with code {}", reply[1]).into());
    }
    // Bound address and port, of no interest.
    let rest = match reply[3] {
        1 => 6,
        4 => 18,
        _ => return Err("the proxy's answer is not SOCKS5".into()),
    };
    stream.read_exact(&mut vec![0; rest]).await?;
    Ok(())
}

async fn connect(stream: &mut TcpStream, server: SocketAddr) -> Result<(), Trouble> {
    stream
        .write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 4_096 {
            return Err("the proxy's answer is too long".into());
        }
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&head)
            .lines()
            .next()
            .unwrap_or_default()
            .to_string()
            .into())
    }
}
