//! Services of a network that a lease can come with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most characters of a service's name.
const LONGEST: usize = 32;

/// A service's name on its network: small letters, digits and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Box<str>);

/// The text is no name of a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a service; use 1 to {LONGEST} small letters, digits and -")]
pub struct NoService(String);

impl FromStr for ServiceName {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(allowed) {
            return Err(NoService(text.chars().take(LONGEST).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NoService;

    fn try_from(text: String) -> Result<Self, NoService> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        assert!("exit-probe2".parse::<ServiceName>().is_ok());
        for text in [
            "",
            "Exit",
            "a b",
            "naïve",
            "abcdefghijklmnopqrstuvwxyz0123456",
        ] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
    }
}
