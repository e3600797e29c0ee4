//! Reading requests.

use std::str::FromStr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{AllowedIpChange, InterfaceUpdate, PeerUpdate, Request};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// What is wrong with a request. No value of a key is ever repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UapiError {
    /// It starts with neither `get=1` nor `set=1`.
    #[error("the request starts with neither get=1 nor set=1")]
    NoOperation,
    /// A line without `=`.
    #[error("line {line} is not of the form key=value")]
    NoValue {
        /// Counted from 1.
        line: usize,
    },
    /// A key that does not exist, or not here.
    #[error("line {line}: there is no key {key:?} here")]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// What was given.
        key: String,
    },
    /// A value that can't be read.
    #[error("line {line}: the value of {key} can't be read")]
    BadValue {
        /// Counted from 1.
        line: usize,
        /// Whose value.
        key: String,
    },
    /// The request has more bytes than are taken.
    #[error("the request is longer than {} bytes", super::MAX_REQUEST)]
    TooLong,
}

impl UapiError {
    /// The error number of the response, as Linux numbers them.
    pub fn errno(&self) -> i32 {
        const EPROTO: i32 = 71;
        const EINVAL: i32 = 22;
        const EMSGSIZE: i32 = 90;
        match self {
            Self::NoOperation | Self::NoValue { .. } => EPROTO,
            Self::UnknownKey { .. } | Self::BadValue { .. } => EINVAL,
            Self::TooLong => EMSGSIZE,
        }
    }
}

impl Request {
    /// Length of the first request in `bytes`, its closing empty line included; none if it is not complete yet.
    pub fn complete(bytes: &[u8]) -> Option<usize> {
        if bytes.first() == Some(&b'\n') {
            return Some(1);
        }
        bytes
            .windows(2)
            .position(|pair| pair == b"\n\n")
            .map(|at| at + 2)
    }

    /// Reads a request, with or without its closing empty line.
    pub fn parse(text: &str) -> Result<Self, UapiError> {
        let mut lines = (1..).zip(text.trim_end_matches('\n').split('\n'));
        match lines.next() {
            Some((_, "get=1")) => match lines.next() {
                None => Ok(Self::Get),
                Some((line, rest)) => Err(unknown(line, rest)),
            },
            Some((_, "set=1")) => {
                let mut update = InterfaceUpdate::default();
                for (line, text) in lines {
                    let (key, value) = text.split_once('=').ok_or(UapiError::NoValue { line })?;
                    take(&mut update, line, key, value)?;
                }
                Ok(Self::Set(update))
            }
            _ => Err(UapiError::NoOperation),
        }
    }
}

fn take(
    update: &mut InterfaceUpdate,
    line: usize,
    key: &str,
    value: &str,
) -> Result<(), UapiError> {
    let bad = || UapiError::BadValue {
        line,
        key: key.to_owned(),
    };
    if key == "public_key" {
        let bytes = key_bytes(value).ok_or_else(bad)?;
        let peer = PeerUpdate::new(PublicKey::from_bytes(*bytes));
        update.peers.push(peer);
        return Ok(());
    }
    let known = match update.peers.last_mut() {
        None => take_of_interface(update, key, value),
        Some(peer) => take_of_peer(peer, key, value),
    };
    match known {
        Some(Some(())) => Ok(()),
        Some(None) => Err(bad()),
        None => Err(unknown(line, key)),
    }
}

/// Outer `None`: no such key. Inner `None`: no such value.
fn take_of_interface(update: &mut InterfaceUpdate, key: &str, value: &str) -> Option<Option<()>> {
    Some(match key {
        "private_key" => key_bytes(value).map(|bytes| {
            update.private_key = Some(nonzero(&bytes).then(|| PrivateKey::from_bytes(*bytes)));
        }),
        "listen_port" => number(value).map(|port| update.listen_port = Some(port)),
        "fwmark" => mark(value).map(|mark| update.fwmark = Some(mark)),
        "replace_peers" => yes(value).map(|()| update.replace_peers = true),
        _ => return None,
    })
}

fn take_of_peer(peer: &mut PeerUpdate, key: &str, value: &str) -> Option<Option<()>> {
    Some(match key {
        "remove" => yes(value).map(|()| peer.remove = true),
        "update_only" => yes(value).map(|()| peer.update_only = true),
        "preshared_key" => key_bytes(value).map(|bytes| {
            peer.preshared_key = Some(nonzero(&bytes).then(|| PresharedKey::from_bytes(*bytes)));
        }),
        "endpoint" => value
            .parse()
            .ok()
            .map(|endpoint| peer.endpoint = Some(endpoint)),
        "persistent_keepalive_interval" => {
            number(value).map(|seconds| peer.keepalive = Some(seconds))
        }
        "replace_allowed_ips" => yes(value).map(|()| peer.replace_allowed_ips = true),
        "allowed_ip" => allowed_ip(value).map(|change| peer.allowed_ips.push(change)),
        "protocol_version" => (value == "1").then_some(()),
        _ => return None,
    })
}

fn unknown(line: usize, text: &str) -> UapiError {
    let key = text.split('=').next().unwrap_or_default();
    UapiError::UnknownKey {
        line,
        key: key.to_owned(),
    }
}

fn yes(value: &str) -> Option<()> {
    (value == "true").then_some(())
}

fn number<N: FromStr>(value: &str) -> Option<N> {
    // Rust also takes a sign, which nobody writes.
    value
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| value.parse().ok())?
}

fn mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => number(value),
    }
}

fn allowed_ip(value: &str) -> Option<AllowedIpChange> {
    let (text, change): (_, fn(IpNet) -> AllowedIpChange) = match value.strip_prefix('-') {
        Some(rest) => (rest, AllowedIpChange::Disallow),
        None => (value, AllowedIpChange::Allow),
    };
    text.parse().ok().map(change)
}

fn key_bytes(hex: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

fn nonzero(bytes: &[u8; 32]) -> bool {
    bytes.iter().any(|&byte| byte != 0)
}
