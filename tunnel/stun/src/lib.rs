//! STUN (RFC 8489), as far as finding out needs it what a NAT shows of a socket: binding requests and their answers, and
//! binding indications, which want none. No authentication, no other attribute than `XOR-MAPPED-ADDRESS` (§14.2).
//!
//! The first two bits of a STUN message are zero and its fifth to eighth bytes a constant (§5), by which it is told from
//! WireGuard's datagrams on the same socket.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

/// Bytes of a message without attributes.
pub const HEADER: usize = 20;
/// Bytes of a [`Message::Request`] as it is written here: as many as of the longest answer, so that nobody is sent more
/// than was sent in its name.
pub const REQUEST: usize = 44;

/// The magic cookie (§5).
const COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
/// Message types (§5, §18.2): class and method.
const REQUEST_TYPE: u16 = 0x0001;
const INDICATION_TYPE: u16 = 0x0011;
const SUCCESS_TYPE: u16 = 0x0101;
/// Attribute types (§18.3).
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
/// Below it, an attribute that is not understood makes the message one that is not (§14).
const OPTIONAL: u16 = 0x8000;
/// The attribute that makes a request as long as its answer.
const PADDING: &[u8; REQUEST - HEADER - 4] = b"ipsx asks for itself";

/// What ties an answer to its request; drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction(pub [u8; 12]);

/// A transaction that carries a number, which an indication brings to whom it reaches.
impl From<u64> for Transaction {
    fn from(token: u64) -> Self {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&token.to_be_bytes());
        Self(bytes)
    }
}

impl Transaction {
    /// The number that it carries.
    pub fn token(self) -> u64 {
        let [_, _, _, _, token @ ..] = self.0;
        u64::from_be_bytes(token)
    }
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Which address and port do you see?
    Request,
    /// These.
    Mapped(SocketAddr),
    /// Nothing; it wants no answer.
    Indication,
}

/// Whether a datagram claims to be a STUN message.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] & 0xC0 == 0 && datagram[4..8] == COOKIE
}

impl Message {
    /// Reads a datagram; `None` for whatever is no message of these.
    pub fn parse(datagram: &[u8]) -> Option<(Self, Transaction)> {
        if !is_stun(datagram) {
            return None;
        }
        let (header, attributes) = datagram.split_at(HEADER);
        if usize::from(u16_at(header, 2)?) != attributes.len() {
            return None;
        }
        let transaction = Transaction(header[8..].try_into().ok()?);
        let mapped = read_attributes(attributes, transaction)?;
        let message = match u16_at(header, 0)? {
            REQUEST_TYPE => Self::Request,
            INDICATION_TYPE => Self::Indication,
            SUCCESS_TYPE => Self::Mapped(mapped?),
            _ => return None,
        };
        Some((message, transaction))
    }

    /// Writes the datagram: [`REQUEST`] bytes at most.
    pub fn write(&self, transaction: Transaction) -> Vec<u8> {
        let mut attributes = Vec::with_capacity(REQUEST - HEADER);
        let kind = match self {
            Self::Request => {
                push(&mut attributes, SOFTWARE, PADDING);
                REQUEST_TYPE
            }
            Self::Mapped(address) => {
                let value = xor_address(*address, transaction);
                push(&mut attributes, XOR_MAPPED_ADDRESS, &value);
                SUCCESS_TYPE
            }
            Self::Indication => INDICATION_TYPE,
        };
        let length = attributes.len() as u16;
        let mut datagram = Vec::with_capacity(HEADER + attributes.len());
        datagram.extend(kind.to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend(COOKIE);
        datagram.extend(transaction.0);
        datagram.extend(attributes);
        datagram
    }
}

/// Adds an attribute whose value is a multiple of four bytes long.
fn push(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attributes.extend(kind.to_be_bytes());
    attributes.extend((value.len() as u16).to_be_bytes());
    attributes.extend(value);
}

/// The address among the attributes, if there is one; `None` if they are malformed or one has to be understood and is not.
fn read_attributes(mut rest: &[u8], transaction: Transaction) -> Option<Option<SocketAddr>> {
    let mut mapped = None;
    while !rest.is_empty() {
        let (kind, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        match kind {
            // Of several, the first counts (§14).
            XOR_MAPPED_ADDRESS if mapped.is_none() => {
                mapped = Some(read_address(value, transaction)?);
            }
            XOR_MAPPED_ADDRESS => {}
            other if other >= OPTIONAL => {}
            _ => return None,
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    Some(mapped)
}

fn read_address(value: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    let port = u16_at(&masked(value.get(2..4)?, transaction), 0)?;
    let address = masked(value.get(4..)?, transaction);
    let ip = match *value.get(1)? {
        1 if value.len() == 8 => IpAddr::V4(<[u8; 4]>::try_from(address).ok()?.into()),
        2 if value.len() == 20 => IpAddr::V6(<[u8; 16]>::try_from(address).ok()?.into()),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor_address(address: SocketAddr, transaction: Transaction) -> Vec<u8> {
    let (family, ip) = match address.ip() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend(masked(&address.port().to_be_bytes(), transaction));
    value.extend(masked(&ip, transaction));
    value
}

/// Bytes under the cookie and the transaction (§14.2), which translators that rewrite addresses do not recognise; what is
/// masked twice is what it was.
fn masked(bytes: &[u8], transaction: Transaction) -> Vec<u8> {
    let mask = COOKIE.iter().chain(&transaction.0);
    bytes
        .iter()
        .zip(mask)
        .map(|(byte, mask)| byte ^ mask)
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests;
