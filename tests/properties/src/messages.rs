//! What agents, brokers and payers send each other: what can be read can be written and read again, and is the same.

use std::fmt::Debug;

use ipsx_market::codec;
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_metering::{Domain, Receipt, Reservation, Signed, TypedData, Voucher};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn check(input: &[u8]) {
    if let Some((prefix, content)) = input.split_first_chunk::<4>() {
        // A reader makes room for what the prefix announces.
        if let Ok(length) = codec::frame_length(*prefix) {
            assert!(length <= codec::MAX_FRAME);
        }
        both_ways::<AgentMessage>(content);
    }
    both_ways::<AgentMessage>(input);
    both_ways::<BrokerMessage>(input);
    both_ways::<PayerMessage>(input);
    both_ways::<ProviderMessage>(input);
    signed::<Voucher>(input);
    signed::<Receipt>(input);
    signed::<Reservation>(input);
}

fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let message: T = codec::decode(input).ok()?;
    // What is read from few bytes may be more when every field is named; then it is refused, not cut.
    let Ok(bytes) = codec::encode(&message) else {
        return Some(message);
    };
    assert_eq!(codec::decode::<T>(&bytes).unwrap(), message);
    Some(message)
}

/// Whoever signed a message, it is nobody else, and only for these words in this domain.
fn signed<T>(input: &[u8])
where
    T: TypedData + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let Some(signed) = both_ways::<Signed<T>>(input) else {
        return;
    };
    let domain = Domain {
        chain_id: 1,
        contract: alloy_primitives::Address::repeat_byte(7),
    };
    let hash = signed.message.signing_hash(&domain);
    if let Ok(signer) = ipsx_metering::recover(hash, &signed.signature) {
        assert!(signed.verify(&domain, signer).is_ok() || signer.is_zero());
        let mut other = signer;
        other.0[0] ^= 1;
        assert!(signed.verify(&domain, other).is_err());
    }
}
