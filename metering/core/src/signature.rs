//! secp256k1 signatures over EIP-712 hashes: 65 bytes `r ‖ s ‖ v`, low s only (EIP-2).

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256, hex, keccak256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SECP256K1};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Domain, TypedData};

/// The text or bytes are no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 65 bytes, r then s then v, written as 130 hex digits")]
pub struct MalformedSignature;

/// A signature as it is sent: `r` (32 bytes), `s` (32 bytes), `v` (27 or 28).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 65]);

/// A signature did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a point on the curve, a high `s`, or a `v` other than 27 and 28.
    #[error("the signature is not a valid low-s secp256k1 signature")]
    Invalid,
    /// Somebody else signed, or something else was signed.
    #[error("signed by {recovered}, expected {expected}")]
    WrongSigner {
        /// Who the message should be from.
        expected: Address,
        /// Who the signature is from, if the message is the one that was signed.
        recovered: Address,
    },
}

/// The address that signed `hash`.
pub fn recover(hash: B256, signature: &Signature) -> Result<Address, VerifyError> {
    recover_key(hash, signature).map(|(_, address)| address)
}

/// The public key that signed `hash`, with its address.
pub(crate) fn recover_key(
    hash: B256,
    signature: &Signature,
) -> Result<(PublicKey, Address), VerifyError> {
    let id = match signature.0[64] {
        27 => RecoveryId::Zero,
        28 => RecoveryId::One,
        _ => return Err(VerifyError::Invalid),
    };
    let recoverable = RecoverableSignature::from_compact(&signature.0[..64], id)
        .map_err(|_| VerifyError::Invalid)?;
    let standard = recoverable.to_standard();
    let mut normalized = standard;
    normalized.normalize_s();
    if normalized != standard {
        return Err(VerifyError::Invalid);
    }
    let key = SECP256K1
        .recover_ecdsa(Message::from_digest(hash.0), &recoverable)
        .map_err(|_| VerifyError::Invalid)?;
    Ok((key, address_of(&key)))
}

/// Checks that `expected` signed `hash`.
pub fn verify(hash: B256, signature: &Signature, expected: Address) -> Result<(), VerifyError> {
    let recovered = recover(hash, signature)?;
    if recovered == expected && !expected.is_zero() {
        Ok(())
    } else {
        Err(VerifyError::WrongSigner {
            expected,
            recovered,
        })
    }
}

/// The Ethereum address of a public key: the last 20 bytes of the keccak of its 64 coordinate bytes.
fn address_of(key: &PublicKey) -> Address {
    Address::from_slice(&keccak256(&key.serialize_uncompressed()[1..])[12..])
}

/// A secp256k1 secret key held in memory for signing: session keys, agent keys, tests.
///
/// Erased when dropped; never printed.
pub struct SecretKey(secp256k1::SecretKey);

impl SecretKey {
    /// The key with these bytes, or `None` if they are zero or not below the curve's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        secp256k1::SecretKey::from_byte_array(*bytes).ok().map(Self)
    }

    /// The key's address.
    pub fn address(&self) -> Address {
        address_of(&self.0.public_key(SECP256K1))
    }

    /// Signs 32 bytes, deterministically (RFC 6979), with low `s`.
    pub fn sign_hash(&self, hash: B256) -> Signature {
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(Message::from_digest(hash.0), &self.0)
            .serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = if id == RecoveryId::Zero { 27 } else { 28 };
        Signature(bytes)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.address())
    }
}

/// A message with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Signed<T> {
    /// What was signed.
    pub message: T,
    /// The signature over the message's EIP-712 hash.
    pub signature: Signature,
}

impl<T: TypedData> Signed<T> {
    /// Signs with a key in memory.
    pub fn sign(message: T, domain: &Domain, key: &SecretKey) -> Self {
        let signature = key.sign_hash(message.signing_hash(domain));
        Self { message, signature }
    }

    /// Checks that `expected` signed the message for this domain.
    pub fn verify(&self, domain: &Domain, expected: Address) -> Result<(), VerifyError> {
        verify(self.message.signing_hash(domain), &self.signature, expected)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_prefixed(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = MalformedSignature;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 65];
        let digits = text.strip_prefix("0x").unwrap_or(text);
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| MalformedSignature)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

struct BytesVisitor;

impl serde::de::Visitor<'_> for BytesVisitor {
    type Value = Signature;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("65 bytes of signature")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Signature, E> {
        bytes
            .try_into()
            .map(Signature)
            .map_err(|_| E::custom(MalformedSignature))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Amount, ChannelId, Voucher};
    use alloy_primitives::address;

    fn domain() -> Domain {
        Domain {
            chain_id: 31_337,
            contract: address!("00000000000000000000000000000000000000aa"),
        }
    }

    fn voucher() -> Voucher {
        Voucher {
            channel_id: ChannelId(B256::repeat_byte(7)),
            cumulative: Amount(9),
            receipt_hash: B256::ZERO,
        }
    }

    #[test]
    fn a_signature_names_its_signer_and_nothing_else() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let signed = Signed::sign(voucher(), &domain(), &key);
        assert_eq!(signed.verify(&domain(), key.address()), Ok(()));
        let elsewhere = Domain {
            chain_id: 1,
            ..domain()
        };
        assert!(signed.verify(&elsewhere, key.address()).is_err());
        let other = SecretKey::from_bytes(&[2; 32]).unwrap();
        assert!(signed.verify(&domain(), other.address()).is_err());
    }

    #[test]
    fn a_high_s_or_odd_v_is_refused() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let hash = B256::repeat_byte(3);
        let signature = key.sign_hash(hash);
        let order = alloy_primitives::U256::from_be_bytes(secp256k1::constants::CURVE_ORDER);
        let s = alloy_primitives::U256::from_be_slice(&signature.0[32..64]);
        let mut high = signature;
        high.0[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        high.0[64] = 27 + 28 - high.0[64];
        assert_eq!(recover(hash, &high), Err(VerifyError::Invalid));
        let mut odd = signature;
        odd.0[64] = 0;
        assert_eq!(recover(hash, &odd), Err(VerifyError::Invalid));
    }

    #[test]
    fn text_and_bytes_round_trip() {
        let signature = SecretKey::from_bytes(&[1; 32])
            .unwrap()
            .sign_hash(B256::ZERO);
        assert_eq!(signature.to_string().parse(), Ok(signature));
        let json = serde_json::to_string(&signature).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
    }
}
