//! Sign-In with Ethereum (EIP-4361): the message a requester signs to get a session, made and checked.
//!
//! The signature is EIP-191 (`personal_sign`) over the message's text. Time is an argument everywhere.

use ipsx_metering::{Address, B256, Signature, UnixSeconds, VerifyError, keccak256, verify};
use siwe::{Message, TimeStamp, Version};
use time::OffsetDateTime;

use crate::http::{SessionNonce, SignIn};

/// Longest message that is read, in bytes.
pub const MAX_MESSAGE: usize = 4_096;
/// Longest time from issue to expiration, in seconds; also how long a nonce counts.
pub const MAX_VALIDITY: u64 = 300;
/// How far the signer's clock may be ahead, in seconds.
pub const CLOCK_SKEW: u64 = 60;

const STATEMENT: &str = "Sign in to this ipsx network. This costs nothing and moves no tokens.";

/// A sign-in does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Not an EIP-4361 message.
    #[error("not a sign-in message of EIP-4361: {0}")]
    Malformed(String),
    /// A field differs from what this broker asked for.
    #[error("the sign-in message's {field} is {found}, it must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Too old, not yet valid, or valid for too long.
    #[error("the sign-in message is not valid now, {now}: {reason}. Check this machine's clock")]
    Time {
        /// The broker's clock.
        now: UnixSeconds,
        /// Which bound it misses.
        reason: &'static str,
    },
    /// Somebody else signed.
    #[error("the sign-in message's signature: {0}")]
    Signature(#[from] VerifyError),
}

/// What a broker expects of a sign-in, apart from the nonce, which it looks up itself.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Host and port.
    pub domain: &'a str,
    /// The broker's URL.
    pub uri: &'a str,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The broker's clock.
    pub now: UnixSeconds,
}

/// A sign-in that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The wallet.
    pub wallet: Address,
    /// Must be one that was given out, not used, and not too old.
    pub nonce: String,
}

/// The message that a wallet signs, for the nonce that the broker gave; valid for five minutes.
pub fn message(
    wallet: Address,
    nonce: &SessionNonce,
    chain_id: u64,
    now: UnixSeconds,
) -> Result<String, SignInError> {
    let malformed = |what: &str| SignInError::Malformed(what.into());
    check_nonce(&nonce.nonce)?;
    let message = Message {
        domain: nonce.domain.parse().map_err(|_| malformed("bad domain"))?,
        address: wallet.into_array(),
        statement: Some(STATEMENT.into()),
        uri: nonce.uri.parse().map_err(|_| malformed("bad URI"))?,
        version: Version::V1,
        chain_id,
        nonce: nonce.nonce.clone(),
        issued_at: timestamp(now)?,
        expiration_time: Some(timestamp(now.after(MAX_VALIDITY))?),
        not_before: None,
        request_id: None,
        resources: Vec::new(),
    };
    Ok(message.to_string())
}

/// The hash that a wallet signs for a text (EIP-191, version 0x45).
pub fn personal_hash(text: &str) -> B256 {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256([prefix.as_bytes(), text.as_bytes()].concat())
}

/// Checks everything but the nonce's freshness.
pub fn check(sign_in: &SignIn, expected: &Expected<'_>) -> Result<SignedIn, SignInError> {
    let text = &sign_in.message;
    if text.len() > MAX_MESSAGE {
        return Err(SignInError::Malformed(format!(
            "longer than {MAX_MESSAGE} bytes"
        )));
    }
    let message: Message = text
        .parse()
        .map_err(|error: siwe::ParseError| SignInError::Malformed(error.to_string()))?;
    // What was signed must be what was understood: a parser that skips something would break that.
    if message.to_string() != *text {
        return Err(SignInError::Malformed("not in its canonical form".into()));
    }
    same("domain", message.domain.as_str(), expected.domain)?;
    same("URI", message.uri.as_str(), expected.uri)?;
    same(
        "chain id",
        &message.chain_id.to_string(),
        &expected.chain_id.to_string(),
    )?;
    check_nonce(&message.nonce)?;
    check_times(&message, expected.now)?;
    let wallet = Address::from(message.address);
    verify(personal_hash(text), &sign_in.signature, wallet)?;
    Ok(SignedIn {
        wallet,
        nonce: message.nonce,
    })
}

/// Signs a sign-in with a key in memory: for the requester's side and tests.
pub fn sign(message: String, sign_hash: impl FnOnce(B256) -> Signature) -> SignIn {
    let signature = sign_hash(personal_hash(&message));
    SignIn { message, signature }
}

fn same(field: &'static str, found: &str, expected: &str) -> Result<(), SignInError> {
    if found == expected {
        return Ok(());
    }
    let shorten = |text: &str| text.chars().take(200).collect();
    Err(SignInError::Field {
        field,
        found: shorten(found),
        expected: shorten(expected),
    })
}

fn check_nonce(nonce: &str) -> Result<(), SignInError> {
    let good = (8..=128).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_alphanumeric());
    good.then_some(()).ok_or_else(|| {
        SignInError::Malformed("the nonce must be 8 to 128 letters and digits".into())
    })
}

fn check_times(message: &Message, now: UnixSeconds) -> Result<(), SignInError> {
    let wrong = |reason| Err(SignInError::Time { now, reason });
    let issued = message.issued_at.as_ref().unix_timestamp();
    let clock = i64::try_from(now.0).unwrap_or(i64::MAX);
    let (skew, validity) = (CLOCK_SKEW as i64, MAX_VALIDITY as i64);
    let expires = match &message.expiration_time {
        None => return wrong("it has no expiration time"),
        Some(time) => time.as_ref().unix_timestamp(),
    };
    if issued > clock.saturating_add(skew) {
        return wrong("it is issued in the future");
    }
    if expires <= clock || issued.saturating_add(validity + skew) < clock {
        return wrong("it has expired");
    }
    if expires.saturating_sub(issued) > validity {
        return wrong("it is valid for longer than five minutes");
    }
    let begins = message
        .not_before
        .as_ref()
        .map(|time| time.as_ref().unix_timestamp());
    if begins.is_some_and(|begins| begins > clock) {
        return wrong("it is not valid yet");
    }
    Ok(())
}

fn timestamp(at: UnixSeconds) -> Result<TimeStamp, SignInError> {
    i64::try_from(at.0)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map(TimeStamp::from)
        .ok_or_else(|| SignInError::Malformed(format!("{at} is no time that can be written")))
}

#[cfg(test)]
#[path = "sign_in_tests.rs"]
mod tests;
