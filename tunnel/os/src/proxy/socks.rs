//! The server side of SOCKS5 (RFC 1928): CONNECT, without authentication.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{OpenError, ProxyConfig, SOCKS5, Target, open, relay};
use crate::client::{ClientTunnel, ConnectError, ResolveError};

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// A reply's code (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

pub(super) async fn serve(
    mut stream: TcpStream,
    config: &ProxyConfig,
    tunnel: &ClientTunnel,
) -> io::Result<()> {
    let request = match timeout(config.request_timeout, read_request(&mut stream)).await {
        Ok(request) => request?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let target = match request {
        Ok(target) => target,
        Err(Some(reply)) => return refuse(stream, reply).await,
        Err(None) => return stream.shutdown().await,
    };
    match open(tunnel, target).await {
        Ok(inside) => {
            write_reply(&mut stream, Reply::Succeeded).await?;
            relay(inside, stream).await
        }
        Err(error) => {
            tracing::debug!(%error, "SOCKS request failed");
            refuse(stream, reply_for(&error)).await
        }
    }
}

/// Reads greeting and request. The inner error is the reply to give, or none if the greeting was refused already.
async fn read_request(stream: &mut TcpStream) -> io::Result<Result<Target, Option<Reply>>> {
    let [version, count] = read(stream).await?;
    let mut methods = vec![0; usize::from(count)];
    stream.read_exact(&mut methods).await?;
    if version != SOCKS5 || !methods.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[SOCKS5, NO_ACCEPTABLE_METHOD]).await?;
        return Ok(Err(None));
    }
    stream.write_all(&[SOCKS5, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read(stream).await?;
    if version != SOCKS5 {
        return Ok(Err(Some(Reply::GeneralFailure)));
    }
    let name_or_address = match kind {
        1 => Ok(IpAddr::from(Ipv4Addr::from(read::<4>(stream).await?))),
        4 => Ok(IpAddr::from(Ipv6Addr::from(read::<16>(stream).await?))),
        3 => {
            let [len] = read(stream).await?;
            let mut name = vec![0; usize::from(len)];
            stream.read_exact(&mut name).await?;
            Err(name)
        }
        _ => return Ok(Err(Some(Reply::AddressNotSupported))),
    };
    let port = u16::from_be_bytes(read(stream).await?);
    if command != CONNECT {
        return Ok(Err(Some(Reply::CommandNotSupported)));
    }
    Ok(match name_or_address {
        Ok(address) => Ok(Target::Address(SocketAddr::new(address, port))),
        Err(name) => match String::from_utf8(name) {
            // Some programs send addresses as names.
            Ok(name) => Ok(match name.parse::<IpAddr>() {
                Ok(address) => Target::Address(SocketAddr::new(address, port)),
                Err(_) => Target::Name(name, port),
            }),
            Err(_) => Err(Some(Reply::AddressNotSupported)),
        },
    })
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_reply(stream: &mut TcpStream, reply: Reply) -> io::Result<()> {
    // The bound address is the provider's affair: all zeros says so.
    stream
        .write_all(&[SOCKS5, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
}

async fn refuse(mut stream: TcpStream, reply: Reply) -> io::Result<()> {
    write_reply(&mut stream, reply).await?;
    stream.shutdown().await
}

fn reply_for(error: &OpenError) -> Reply {
    match error {
        OpenError::Connect(ConnectError::Refused) => Reply::Refused,
        OpenError::Connect(ConnectError::Prohibited) => Reply::NotAllowed,
        OpenError::Connect(ConnectError::NetworkUnreachable) => Reply::NetworkUnreachable,
        OpenError::Connect(ConnectError::HostUnreachable) => Reply::HostUnreachable,
        OpenError::Connect(ConnectError::TimedOut) => Reply::TtlExpired,
        OpenError::Connect(ConnectError::NoAddress) => Reply::AddressNotSupported,
        OpenError::Connect(ConnectError::NoPort | ConnectError::Stopped) => Reply::GeneralFailure,
        OpenError::Resolve(ResolveError::NotFound(_) | ResolveError::BadName(_)) => {
            Reply::HostUnreachable
        }
        OpenError::Resolve(_) => Reply::GeneralFailure,
    }
}
