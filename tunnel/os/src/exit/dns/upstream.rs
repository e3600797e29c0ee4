//! The host's own resolvers: those of its `resolv.conf`, asked in plain DNS, so that every name on the way to an address
//! is seen. What only this host knows, such as its hosts file, is none of a peer's business.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::PORT;

const FILE: &str = "/etc/resolv.conf";

/// Resolvers that are asked, as everywhere (resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// How long each of them may take, the first and the second time.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

/// How long an answer may be kept, seconds: longer than a day is somebody's mistake.
const LONGEST_TTL: u32 = 86_400;

/// The longest message without extensions, plus one to see that it was longer.
const DATAGRAM: usize = 513;

/// Links from a name to the one that has addresses: a longer chain is nobody's need, and following it costs time.
const LONGEST_CHAIN: usize = 16;

/// What a name leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// No error, or that the name does not exist.
    pub(super) code: ResponseCode,
    /// Names that stand for the one that was asked for.
    pub(super) names: Vec<Name>,
    pub(super) addresses: Vec<IpAddr>,
    /// How long this holds, in seconds.
    pub(super) ttl: u32,
}

/// The addresses of one family that a name has. Blocks for some seconds if nobody answers.
pub(super) fn look_up(name: &Name, kind: RecordType) -> Result<Found, ResponseCode> {
    if let Some(found) = known(name, kind) {
        return Ok(found);
    }
    let servers = servers(&fs::read_to_string(FILE).unwrap_or_default());
    let mut query = Query::query(name.clone(), kind);
    query.name.set_fqdn(true);
    for patience in PATIENCE {
        for &server in &servers {
            match ask(server, &query, patience) {
                Ok(answer) => match answer.metadata.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => {
                        return Ok(follow(&answer, name));
                    }
                    code => tracing::debug!(%server, %code, "the resolver could not answer"),
                },
                Err(error) => tracing::debug!(%server, %error, "the resolver did not answer"),
            }
        }
    }
    Err(ResponseCode::ServFail)
}

/// Names that no resolver is asked for: this host's own (RFC 6761, section 6.3), and addresses.
fn known(name: &Name, kind: RecordType) -> Option<Found> {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let last = text.rsplit('.').next().unwrap_or_default();
    let (code, addresses) = if last == "localhost" {
        let loopback = match kind {
            RecordType::A => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        (ResponseCode::NoError, vec![loopback])
    } else if last.is_empty() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        (ResponseCode::NXDomain, Vec::new())
    } else {
        return None;
    };
    Some(Found {
        code,
        names: Vec::new(),
        addresses,
        ttl: LONGEST_TTL,
    })
}

/// The resolvers that the file names: the one of this host if it names none.
fn servers(file: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let text = words
            .next()
            .filter(|&word| word == "nameserver")
            .and(words.next())?;
        parse_server(text)
    };
    let mut servers: Vec<_> = file.lines().filter_map(address).take(MAX_SERVERS).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

/// An address, with the number of its interface if it has link scope: `fe80::1%2`.
fn parse_server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, interface) = text.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| {
        let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"));
        index.ok()?.trim().parse().ok()
    })?;
    let address: Ipv6Addr = address.parse().ok()?;
    Some(std::net::SocketAddrV6::new(address, PORT, 0, scope).into())
}

/// Asks one resolver: by datagram, and again by a connection if the answer is too long for that.
fn ask(server: SocketAddr, query: &Query, patience: Duration) -> io::Result<Message> {
    let mut question = Message::query();
    question.metadata.id = rand::random();
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let answer = ask_by_datagram(server, &question, &bytes, patience)?;
    if answer.metadata.truncation {
        return ask_by_connection(server, &question, &bytes, patience);
    }
    Ok(answer)
}

fn ask_by_datagram(
    server: SocketAddr,
    question: &Message,
    bytes: &[u8],
    patience: Duration,
) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own, and only this resolver's answers.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(bytes)?;
    let until = Instant::now() + patience;
    let mut buffer = [0; DATAGRAM];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut buffer)?;
        if let Some(answer) = answer_to(question, &buffer[..len]) {
            return Ok(answer);
        }
    }
}

fn ask_by_connection(
    server: SocketAddr,
    question: &Message,
    bytes: &[u8],
    patience: Duration,
) -> io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer)?;
    answer_to(question, &buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A message that answers the question, and not another.
fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let answers = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries;
    answers.then_some(answer)
}

/// The addresses of a name, and the names that stand for it on the way to them.
fn follow(answer: &Message, name: &Name) -> Found {
    let mut found = Found {
        code: answer.metadata.response_code,
        names: Vec::new(),
        addresses: Vec::new(),
        ttl: LONGEST_TTL,
    };
    let mut current = name.clone();
    // Past the end of these links no address is taken, so none is told whose names were not all seen.
    for _ in 0..LONGEST_CHAIN {
        let link = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == current => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = link.filter(|(target, _)| !found.names.contains(target)) else {
            break;
        };
        found.ttl = found.ttl.min(ttl);
        found.names.push(target.clone());
        current = target;
    }
    for record in answer
        .answers
        .iter()
        .filter(|record| record.name == current)
    {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => continue,
        };
        found.ttl = found.ttl.min(record.ttl);
        found.addresses.push(address);
    }
    found
}

#[cfg(test)]
mod tests;
