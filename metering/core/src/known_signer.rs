//! A signer that is met again and again: one that signs a voucher each second.

use alloy_primitives::{Address, B256};
use secp256k1::ecdsa::Signature as Ecdsa;
use secp256k1::{Message, PublicKey, SECP256K1};

use crate::signature::{VerifyError, recover, recover_key};
use crate::{Domain, Signature, Signed, TypedData};

/// That somebody's signature was checked: who is handed it beside the message need not check it once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedSignature {
    signer: Address,
    hash: B256,
    signature: Signature,
}

impl CheckedSignature {
    /// Whether it is of this signer, over this hash, and of this very signature.
    pub fn covers(&self, signer: Address, hash: B256, signature: &Signature) -> bool {
        (self.signer, self.hash, &self.signature) == (signer, hash, signature)
    }
}

/// A signer known by its address, and from its first good signature on by its public key.
///
/// An address alone takes a key recovery for each signature; the key takes a plain verification, which is faster by a
/// fifth. A plain verification does not look at `v`, the bit that recovery starts from: [`check`](Self::check) takes
/// either value, and [`canonical`](Self::canonical) gives the one that the contract needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSigner {
    address: Address,
    key: Option<PublicKey>,
}

impl KnownSigner {
    /// The signer with this address.
    pub fn new(address: Address) -> Self {
        Self { address, key: None }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Whether its public key is known, so that the next check is a plain verification.
    pub fn is_known(&self) -> bool {
        self.key.is_some()
    }

    /// Checks that this signer signed `hash`, whatever `v` says as long as it is 27 or 28.
    pub fn check(&mut self, hash: B256, signature: &Signature) -> Result<(), VerifyError> {
        let Some(key) = &self.key else {
            let (key, _) = self.recover_either(hash, signature)?;
            self.key = Some(key);
            return Ok(());
        };
        if !matches!(signature.0[64], 27 | 28) {
            return Err(VerifyError::Invalid);
        }
        let plain = Ecdsa::from_compact(&signature.0[..64]).map_err(|_| VerifyError::Invalid)?;
        // The library refuses a high s by itself.
        SECP256K1
            .verify_ecdsa(Message::from_digest(hash.0), &plain, key)
            .map_err(|_| self.refusal(hash, signature))
    }

    /// The same signature with the `v` from which the signer's address is recovered, as contracts do.
    pub fn canonical(&self, hash: B256, signature: &Signature) -> Result<Signature, VerifyError> {
        self.recover_either(hash, signature).map(|(_, good)| good)
    }

    /// A signed message, checked.
    pub fn check_signed<T: TypedData>(
        &mut self,
        signed: &Signed<T>,
        domain: &Domain,
    ) -> Result<CheckedSignature, VerifyError> {
        let hash = signed.message.signing_hash(domain);
        self.check(hash, &signed.signature)?;
        Ok(CheckedSignature {
            signer: self.address,
            hash,
            signature: signed.signature,
        })
    }

    /// A signed message with the [`canonical`](Self::canonical) signature, for who recovers its signer.
    pub fn canonical_signed<T: TypedData>(
        &self,
        signed: Signed<T>,
        domain: &Domain,
    ) -> Result<Signed<T>, VerifyError> {
        let hash = signed.message.signing_hash(domain);
        Ok(Signed {
            signature: self.canonical(hash, &signed.signature)?,
            message: signed.message,
        })
    }

    fn recover_either(
        &self,
        hash: B256,
        signature: &Signature,
    ) -> Result<(PublicKey, Signature), VerifyError> {
        let mut other = *signature;
        other.0[64] = match signature.0[64] {
            27 => 28,
            28 => 27,
            _ => return Err(VerifyError::Invalid),
        };
        if !self.address.is_zero() {
            for candidate in [*signature, other] {
                // One of the two may be no point on the curve.
                if let Ok((key, address)) = recover_key(hash, &candidate)
                    && address == self.address
                {
                    return Ok((key, candidate));
                }
            }
        }
        Err(self.refusal(hash, signature))
    }

    fn refusal(&self, hash: B256, signature: &Signature) -> VerifyError {
        match recover(hash, signature) {
            Ok(recovered) => VerifyError::WrongSigner {
                expected: self.address,
                recovered,
            },
            Err(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Amount, ChannelId, SecretKey, Voucher};
    use proptest::prelude::*;

    fn domain() -> Domain {
        Domain {
            chain_id: 5,
            contract: Address::repeat_byte(6),
        }
    }

    fn signed(key: &SecretKey, cumulative: u128) -> Signed<Voucher> {
        let voucher = Voucher {
            channel_id: ChannelId(B256::repeat_byte(7)),
            cumulative: Amount(cumulative),
            receipt_hash: B256::repeat_byte(8),
        };
        Signed::sign(voucher, &domain(), key)
    }

    fn other_v(signature: &Signature) -> Signature {
        let mut other = *signature;
        other.0[64] = 27 + 28 - other.0[64];
        other
    }

    #[test]
    fn knowing_the_key_changes_no_verdict() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let stranger = SecretKey::from_bytes(&[2; 32]).unwrap();
        let fresh = KnownSigner::new(key.address());
        let mut known = fresh;
        known.check_signed(&signed(&key, 1), &domain()).unwrap();
        assert!(known.is_known() && !fresh.is_known());
        let good = signed(&key, 2);
        let hash = good.message.signing_hash(&domain());
        let order = alloy_primitives::U256::from_be_bytes(secp256k1::constants::CURVE_ORDER);
        let s = alloy_primitives::U256::from_be_slice(&good.signature.0[32..64]);
        let mut high = good.signature;
        high.0[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        let mut odd = good.signature;
        odd.0[64] = 0;
        let cases = [
            (good.signature, true),
            (other_v(&good.signature), true),
            (stranger.sign_hash(hash), false),
            (high, false),
            (other_v(&high), false),
            (odd, false),
            (Signature([0; 65]), false),
            (Signature([27; 65]), false),
            (Signature([0xff; 65]), false),
        ];
        for (signature, holds) in cases {
            for mut signer in [fresh, known] {
                assert_eq!(signer.check(hash, &signature).is_ok(), holds, "{signature}");
                assert_eq!(signer.canonical(hash, &signature).is_ok(), holds);
            }
        }
        let mut nobody = KnownSigner::new(Address::ZERO);
        assert!(nobody.check(hash, &good.signature).is_err());
    }

    #[test]
    fn a_refusal_names_who_signed() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let stranger = SecretKey::from_bytes(&[2; 32]).unwrap();
        let mut signer = KnownSigner::new(key.address());
        let expected = Err(VerifyError::WrongSigner {
            expected: key.address(),
            recovered: stranger.address(),
        });
        let forged = signed(&stranger, 3);
        assert_eq!(signer.check_signed(&forged, &domain()), expected);
        signer.check_signed(&signed(&key, 1), &domain()).unwrap();
        assert_eq!(signer.check_signed(&forged, &domain()), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever `v` says, what is handed on is what the contract recovers the signer from.
        #[test]
        fn the_canonical_signature_is_the_one_that_was_made(seed in 1u8..=254, cumulative: u128, flip: bool) {
            let key = SecretKey::from_bytes(&[seed; 32]).unwrap();
            let made = signed(&key, cumulative);
            let hash = made.message.signing_hash(&domain());
            let shown = if flip { other_v(&made.signature) } else { made.signature };
            let signer = KnownSigner::new(key.address());
            prop_assert_eq!(signer.canonical(hash, &shown), Ok(made.signature));
        }
    }
}
