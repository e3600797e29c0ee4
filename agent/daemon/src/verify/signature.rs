//! Whose signature it is, computed with the curve's library.

use ipsx_metering::{Address, B256, Domain, Signature, Signed, TypedData, keccak256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1};

/// Half of the curve's order, big-endian: a larger `s` would be a second signature of the same message (EIP-2).
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// Whether `signer` signed the message for this chain and contract.
pub(super) fn is_from<T: TypedData>(signed: &Signed<T>, domain: &Domain, signer: Address) -> bool {
    signed_by(&signed.message, &signed.signature, domain, signer)
}

/// The same for a signature that is kept apart from its message.
pub(super) fn signed_by(
    message: &impl TypedData,
    signature: &Signature,
    domain: &Domain,
    signer: Address,
) -> bool {
    signer != Address::ZERO && recover(message.signing_hash(domain), signature) == Some(signer)
}

fn recover(hash: B256, signature: &Signature) -> Option<Address> {
    let (scalars, v) = signature.0.split_at(64);
    let parity = match v {
        [27] => RecoveryId::Zero,
        [28] => RecoveryId::One,
        _ => return None,
    };
    if scalars[32..] > HALF_ORDER[..] {
        return None;
    }
    let signature = RecoverableSignature::from_compact(scalars, parity).ok()?;
    let key = SECP256K1
        .recover_ecdsa(Message::from_digest(hash.0), &signature)
        .ok()?;
    let point = key.serialize_uncompressed();
    Some(Address::from_slice(&keccak256(&point[1..])[12..]))
}
