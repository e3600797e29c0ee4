//! The HTTP proxy: CONNECT, and requests with an absolute URI (RFC 9110, sections 7.1 and 9.3.6).

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    client::conn::http1 as client,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1 as server,
    service::service_fn,
    upgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{InUse, OpenError, ProxyConfig, Target, open, relay};
use crate::client::{ClientTunnel, ConnectError, ResolveError, TunnelStream};

/// Headers that concern one connection only (RFC 9110, section 7.6.1), and the proxy's own.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Body = Either<Incoming, Full<Bytes>>;

/// A CONNECT that was answered: what the program will send next belongs to this stream.
type Accepted = Arc<Mutex<Option<(upgrade::OnUpgrade, TunnelStream)>>>;

pub(super) async fn serve(
    stream: TcpStream,
    config: &ProxyConfig,
    in_use: InUse,
) -> io::Result<()> {
    let accepted = Accepted::default();
    let service = service_fn(|request| {
        // A program may send requests over one connection for longer than a tunnel is in use.
        let (tunnel, accepted) = (in_use.next(), Arc::clone(&accepted));
        async move { Ok::<_, Infallible>(answer(request, &tunnel, &accepted).await) }
    });
    server::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.request_timeout)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    let taken = accepted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some((upgraded, inside)) = taken else {
        return Ok(());
    };
    let outside = upgraded.await.map_err(io::Error::other)?;
    relay(inside, TokioIo::new(outside)).await
}

async fn answer(
    mut request: Request<Incoming>,
    tunnel: &ClientTunnel,
    accepted: &Accepted,
) -> Response<Body> {
    let Some(target) = target(request.uri(), request.method() == Method::CONNECT) else {
        return say(
            StatusCode::BAD_REQUEST,
            "this is a proxy: ask for http://host/path, or use CONNECT host:port".to_owned(),
        );
    };
    let inside = match open(tunnel, target).await {
        Ok(inside) => inside,
        Err(error) => return say(status_for(&error), error.to_string()),
    };
    if request.method() == Method::CONNECT {
        let upgraded = upgrade::on(&mut request);
        *accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgraded, inside));
        return Response::new(Either::Right(Full::default()));
    }
    forward(request, TokioIo::new(inside))
        .await
        .unwrap_or_else(|error| {
            say(
                StatusCode::BAD_GATEWAY,
                format!("the destination did not answer in HTTP: {error}"),
            )
        })
}

/// Passes one request on over a connection of its own.
async fn forward(
    request: Request<Incoming>,
    inside: TokioIo<TunnelStream>,
) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = client::Builder::new()
        .preserve_header_case(true)
        .handshake(inside)
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the destination ended early");
        }
    });
    let response = sender.send_request(origin_form(request)).await?;
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    Ok(Response::from_parts(parts, Either::Left(body)))
}

/// Turns a request to a proxy into one to the destination itself.
fn origin_form(request: Request<Incoming>) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    // One request per connection.
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Request::from_parts(parts, body)
}

/// Removes the headers that end at a proxy.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn target(uri: &Uri, connect: bool) -> Option<Target> {
    let authority = uri.authority()?;
    let port = match (authority.port_u16(), connect, uri.scheme_str()) {
        (Some(port), ..) => port,
        (None, false, Some("http")) => 80,
        _ => return None,
    };
    if !connect && uri.scheme_str() != Some("http") {
        return None;
    }
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some(match bare.parse::<IpAddr>() {
        Ok(address) => Target::Address(SocketAddr::new(address, port)),
        Err(_) => Target::Name(bare.to_owned(), port),
    })
}

fn status_for(error: &OpenError) -> StatusCode {
    match error {
        OpenError::Connect(ConnectError::Prohibited)
        | OpenError::Resolve(ResolveError::Denied(_)) => StatusCode::FORBIDDEN,
        OpenError::Connect(ConnectError::TimedOut)
        | OpenError::Resolve(ResolveError::TimedOut(_)) => StatusCode::GATEWAY_TIMEOUT,
        OpenError::Connect(ConnectError::Stopped) | OpenError::Resolve(ResolveError::Stopped) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn say(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text + "\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
