//! The server side of SOCKS5 (RFC 1928): CONNECT and UDP ASSOCIATE, without authentication.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{InUse, OpenError, ProxyConfig, SOCKS5, Target, associate, open, relay};
use crate::client::{ConnectError, ResolveError};

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;

/// A reply's code (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reply {
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

/// What a program asks for.
enum Request {
    Connect(Target),
    Associate,
}

pub(super) async fn serve(
    mut stream: TcpStream,
    config: &ProxyConfig,
    in_use: InUse,
) -> io::Result<()> {
    let request = match timeout(config.request_timeout, read_request(&mut stream)).await {
        Ok(request) => request?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let tunnel = in_use.next();
    let target = match request {
        Ok(Request::Connect(target)) => target,
        Ok(Request::Associate) => return associate::serve(stream, &tunnel).await,
        Err(Some(reply)) => return refuse(stream, reply).await,
        Err(None) => return stream.shutdown().await,
    };
    match open(&tunnel, target).await {
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
async fn read_request(stream: &mut TcpStream) -> io::Result<Result<Request, Option<Reply>>> {
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
    match command {
        CONNECT => {}
        // The address is where the program will send from, as far as it knows: its first datagram tells better.
        UDP_ASSOCIATE => return Ok(Ok(Request::Associate)),
        _ => return Ok(Err(Some(Reply::CommandNotSupported))),
    }
    let target = match name_or_address {
        Ok(address) => Target::Address(SocketAddr::new(address, port)),
        Err(name) => match std::str::from_utf8(&name) {
            Ok(name) => Target::named(name, port),
            Err(_) => return Ok(Err(Some(Reply::AddressNotSupported))),
        },
    };
    Ok(Ok(Request::Connect(target)))
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_reply(stream: &mut TcpStream, reply: Reply) -> io::Result<()> {
    // The bound address is the provider's affair: all zeros says so.
    let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    write_reply_from(stream, reply, nowhere).await
}

/// Writes a reply that tells the bound address.
pub(super) async fn write_reply_from(
    stream: &mut TcpStream,
    reply: Reply,
    bound: SocketAddr,
) -> io::Result<()> {
    let mut bytes = vec![SOCKS5, reply as u8, 0];
    write_address(&mut bytes, bound);
    stream.write_all(&bytes).await
}

/// Appends address type, address and port.
pub(super) fn write_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes.push(1);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(4);
            bytes.extend(v6.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

pub(super) async fn refuse(mut stream: TcpStream, reply: Reply) -> io::Result<()> {
    write_reply(&mut stream, reply).await?;
    stream.shutdown().await
}

fn reply_for(error: &OpenError) -> Reply {
    match error {
        OpenError::Connect(ConnectError::Refused) => Reply::Refused,
        OpenError::Connect(ConnectError::Prohibited)
        | OpenError::Resolve(ResolveError::Denied(_)) => Reply::NotAllowed,
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
