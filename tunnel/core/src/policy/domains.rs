//! Lists of domains by category, as files have them.

mod set;

use std::sync::Arc;

pub use set::{DomainSet, DomainSetBuilder};

/// Domains that an exit treats alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainList {
    /// What they have in common, such as `gambling`.
    pub category: String,
    /// The domains; each stands for everything below it, too.
    pub names: Arc<DomainSet>,
}

/// A line of a domain file that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// It names no domain.
    #[error(
        "'{0}' is no domain; write one domain a line (example.org), or lines of a hosts file (0.0.0.0 example.org)"
    )]
    Name(String),
    /// All names together are too long.
    #[error("the list is longer than 2 GiB; split it or leave domains out")]
    TooLong,
}

/// The longest name, without the dot at its end (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// The longest label.
const MAX_LABEL: usize = 63;

/// The domains that a line names: none if it is empty or a comment, one if it is a plain list's, several at most if it
/// is a hosts file's, whose names for this host and its network are left out.
fn names(line: &str) -> Result<Vec<String>, DomainError> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Ok(Vec::new());
    };
    if first.parse::<std::net::IpAddr>().is_ok() {
        return words.filter(|name| !is_local(name)).map(domain).collect();
    }
    match words.next() {
        None => Ok(vec![domain(first)?]),
        Some(_) => Err(DomainError::Name(line.trim().to_owned())),
    }
}

/// What a hosts file says besides: names without a dot, and addresses again.
fn is_local(name: &str) -> bool {
    !name.contains('.')
        || name == "localhost.localdomain"
        || name.parse::<std::net::IpAddr>().is_ok()
}

/// The domain as questions spell it: in lower case, in ASCII, without a dot at its end. `*.` or a dot at the front say
/// what is meant anyway.
fn domain(text: &str) -> Result<String, DomainError> {
    let wrong = || DomainError::Name(text.to_owned());
    let name = text.strip_prefix('*').unwrap_or(text);
    let name = name.strip_prefix('.').unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(name).map_err(|_| wrong())?
    };
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // An address is no name: it would be asked for by itself.
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() <= MAX_NAME && name.split('.').all(label) && !numeric {
        Ok(name)
    } else {
        Err(wrong())
    }
}
