//! The connection record: which connections a lease has made, as an append-only Merkle tree over blinded records.
//!
//! Its root stands in each receipt, so that provider and payer both sign it, and one record can be shown later with
//! the hashes beside its path, which tell nothing of any other. `docs/connections.md` has the encoding.

mod audit;
mod fault;
mod page;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::{DealId, UnixSeconds};

pub use audit::{CheckResult, ConnectionAudit, ConnectionsChecked, OwnConnections, OwnReading};
pub use fault::ConnectionFault;
pub use page::ConnectionPage;

/// Levels between a leaf and the root: room for 2^32 records of one lease.
pub const CONNECTION_DEPTH: usize = 32;

/// Bytes of an encoded [`Connection`].
pub const CONNECTION_BYTES: usize = 87;

const LEAF: u8 = 0;
const NODE: u8 = 1;
const BLINDING: &[u8] = b"ipsx connection record blinding 1";

/// What a connection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 1 (ICMP), for both IP versions: echo requests, whose identifier stands for the source port.
    Icmp,
}

impl Transport {
    /// By its IANA protocol number.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP echo",
        })
    }
}

/// One connection of a lease; no content. Recorded when it opens, and again when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Connection {
    /// The lease.
    pub deal_id: DealId,
    /// What it is made of.
    pub transport: Transport,
    /// Port that it left from: with the leased address, what the destination saw. The identifier of an echo.
    pub source_port: u16,
    /// Where it went; an echo to port 0.
    pub destination: SocketAddr,
    /// When it was opened, by the provider's clock.
    pub opened_at: UnixSeconds,
    /// How it ended; `None` in the record of its opening.
    pub end: Option<ConnectionEnd>,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionEnd {
    /// When, by the provider's clock.
    pub at: UnixSeconds,
    /// Bytes to the destination: of the payload, or of IP packets where a kernel counted them.
    pub bytes_up: u64,
    /// Bytes from the destination.
    pub bytes_down: u64,
}

impl Connection {
    /// The record as it is hashed and stored; integers big-endian, in the order of the fields.
    pub fn encode(&self) -> [u8; CONNECTION_BYTES] {
        let (family, address) = match self.destination.ip() {
            IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
            IpAddr::V6(address) => (6, address),
        };
        let end = self.end.unwrap_or(ConnectionEnd {
            at: UnixSeconds(0),
            bytes_up: 0,
            bytes_down: 0,
        });
        let mut bytes = [0; CONNECTION_BYTES];
        let mut rest = bytes.as_mut_slice();
        let mut put = |part: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        };
        put(self.deal_id.0.as_slice());
        put(&[self.transport.number()]);
        put(&self.source_port.to_be_bytes());
        put(&[family]);
        put(&address.octets());
        put(&self.destination.port().to_be_bytes());
        put(&self.opened_at.0.to_be_bytes());
        put(&[u8::from(self.end.is_some())]);
        put(&end.at.0.to_be_bytes());
        put(&end.bytes_up.to_be_bytes());
        put(&end.bytes_down.to_be_bytes());
        bytes
    }

    /// Reads what [`Self::encode`] wrote; `None` if it did not.
    pub fn decode(bytes: &[u8; CONNECTION_BYTES]) -> Option<Self> {
        let mut rest = bytes.as_slice();
        let deal_id = DealId(B256::new(take(&mut rest)?));
        let transport = match take(&mut rest)? {
            [6] => Transport::Tcp,
            [17] => Transport::Udp,
            [1] => Transport::Icmp,
            _ => return None,
        };
        let source_port = u16::from_be_bytes(take(&mut rest)?);
        let family: [u8; 1] = take(&mut rest)?;
        let address = Ipv6Addr::from(take::<16>(&mut rest)?);
        let address = match family {
            [4] => IpAddr::V4(address.to_ipv4_mapped()?),
            [6] => IpAddr::V6(address),
            _ => return None,
        };
        let destination = SocketAddr::new(address, u16::from_be_bytes(take(&mut rest)?));
        let opened_at = UnixSeconds(u64::from_be_bytes(take(&mut rest)?));
        let ended: [u8; 1] = take(&mut rest)?;
        let end = ConnectionEnd {
            at: UnixSeconds(u64::from_be_bytes(take(&mut rest)?)),
            bytes_up: u64::from_be_bytes(take(&mut rest)?),
            bytes_down: u64::from_be_bytes(take(&mut rest)?),
        };
        Some(Self {
            deal_id,
            transport,
            source_port,
            destination,
            opened_at,
            end: (ended == [1]).then_some(end),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// What hides record `index` of a lease: a keyed hash, so that a leaf tells nothing to who guesses its record.
///
/// Keccak needs no nested HMAC: its sponge has no length extension, and the key has a fixed length.
pub fn blinding(log_key: &[u8; 32], index: u64) -> B256 {
    keccak256([BLINDING, log_key, &index.to_be_bytes()].concat())
}

/// The leaf of a record: `keccak(0, blinding, record)`.
pub fn connection_leaf(blinding: B256, record: &Connection) -> B256 {
    keccak256([&[LEAF], blinding.as_slice(), &record.encode()].concat())
}

fn node(left: B256, right: B256) -> B256 {
    keccak256([&[NODE], left.as_slice(), right.as_slice()].concat())
}

/// An append-only tree of fixed depth; absent leaves are zero. Holds one hash for each level.
#[derive(Clone, Debug)]
pub struct ConnectionTree {
    /// For each level the latest left sibling whose right one is not complete.
    frontier: [B256; CONNECTION_DEPTH],
    /// For each level the root of a tree without leaves.
    empty: [B256; CONNECTION_DEPTH],
    len: u64,
}

impl Default for ConnectionTree {
    fn default() -> Self {
        let mut empty = [B256::ZERO; CONNECTION_DEPTH];
        for level in 1..CONNECTION_DEPTH {
            empty[level] = node(empty[level - 1], empty[level - 1]);
        }
        Self {
            frontier: [B256::ZERO; CONNECTION_DEPTH],
            empty,
            len: 0,
        }
    }
}

impl ConnectionTree {
    /// How many leaves it has: the index of the next.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no leaf yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a leaf and returns its index; `None` when the tree is full.
    pub fn push(&mut self, leaf: B256) -> Option<u64> {
        let index = self.len;
        if index >> CONNECTION_DEPTH != 0 {
            return None;
        }
        let (mut hash, mut place) = (leaf, index);
        for level in 0..CONNECTION_DEPTH {
            if place.is_multiple_of(2) {
                self.frontier[level] = hash;
                break;
            }
            hash = node(self.frontier[level], hash);
            place /= 2;
        }
        self.len += 1;
        Some(index)
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> B256 {
        let (mut hash, mut place) = (B256::ZERO, self.len);
        for level in 0..CONNECTION_DEPTH {
            hash = if place.is_multiple_of(2) {
                node(hash, self.empty[level])
            } else {
                node(self.frontier[level], hash)
            };
            place /= 2;
        }
        hash
    }
}

/// The siblings on the way from leaf `index` to the root of the tree of `leaves`, lowest first; `None` if there is no
/// such leaf.
pub fn connection_path(leaves: &[B256], index: u64) -> Option<Vec<B256>> {
    let mut place = usize::try_from(index)
        .ok()
        .filter(|place| *place < leaves.len())?;
    let mut level = leaves.to_vec();
    let mut absent = B256::ZERO;
    let mut path = Vec::with_capacity(CONNECTION_DEPTH);
    for _ in 0..CONNECTION_DEPTH {
        path.push(level.get(place ^ 1).copied().unwrap_or(absent));
        level = level
            .chunks(2)
            .map(|pair| node(pair[0], pair.get(1).copied().unwrap_or(absent)))
            .collect();
        absent = node(absent, absent);
        place /= 2;
    }
    Some(path)
}

/// The root that a leaf and the siblings on its path lead to; `None` if the path has another length than the tree.
pub fn connection_root(leaf: B256, index: u64, path: &[B256]) -> Option<B256> {
    if path.len() != CONNECTION_DEPTH || index >> CONNECTION_DEPTH != 0 {
        return None;
    }
    let (root, _) = path.iter().fold((leaf, index), |(hash, place), sibling| {
        let parent = if place.is_multiple_of(2) {
            node(hash, *sibling)
        } else {
            node(*sibling, hash)
        };
        (parent, place / 2)
    });
    Some(root)
}
