#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// Every implementation that this build and this processor have.
fn implementations(key: &[u8; 32]) -> Vec<Key> {
    vec![Key::new(key), Key::of_ring(key)]
}

fn sealed(key: &Key, counter: u64, data: &[u8]) -> Vec<u8> {
    let mut sealed = data.to_vec();
    let tag = key.seal(counter, &mut sealed);
    sealed.extend_from_slice(&tag);
    sealed
}

/// With the feature, on a processor that has what it wants, the tests below compare two libraries.
#[test]
#[cfg(feature = "ipsec-mb")]
fn the_feature_is_used_where_the_processor_allows() {
    let faster = matches!(Key::new(&[0; 32]).0, Cipher::IpsecMb(_));
    assert_eq!(faster, std::arch::is_x86_feature_detected!("avx512f"));
}

/// The keystream's first block of RFC 8439, A.3: key and counter of zeros, the packet's data begins with block 1.
#[test]
fn zeros_are_sealed_as_the_rfc_says() {
    for key in implementations(&[0; 32]) {
        let sealed = sealed(&key, 0, &[0; 16]);
        assert_eq!(
            sealed[..16],
            [
                0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d,
                0x08, 0x0d
            ]
        );
    }
}

proptest! {
    #[test]
    fn every_implementation_says_the_same(
        key: [u8; 32],
        counter: u64,
        data in proptest::collection::vec(any::<u8>(), 0..3000),
        flip: proptest::sample::Index,
        room in 0_usize..64,
    ) {
        let keys = implementations(&key);
        let first = sealed(&keys[0], counter, &data);
        for other in &keys {
            prop_assert_eq!(&sealed(other, counter, &data), &first);
            let mut plain = vec![0xa5; first.len() + room];
            prop_assert_eq!(&*other.open(counter, &first, &mut plain).unwrap(), &data[..]);
            prop_assert!(plain[first.len()..].iter().all(|byte| *byte == 0xa5));
            prop_assert_eq!(other.open(counter ^ 1, &first, &mut plain), Err(Forged));
            let mut forged = first.clone();
            forged[flip.index(first.len())] ^= 0x40;
            prop_assert_eq!(other.open(counter, &forged, &mut plain), Err(Forged));
            prop_assert_eq!(other.open(counter, &first[..first.len().min(15)], &mut plain), Err(Forged));
        }
    }
}
