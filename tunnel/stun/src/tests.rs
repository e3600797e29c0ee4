#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

/// The sample responses of RFC 5769 §2.2 and §2.3, without what authenticates them at their end.
const SAMPLE_V4: &str = "0101 001c 2112a442 b7e7a701bc34d686fa87dfae \
     8022 000b 7465737420766563746f7220 0020 0008 0001 a147 e112a643";
const SAMPLE_V6: &str = "0101 0028 2112a442 b7e7a701bc34d686fa87dfae \
     8022 000b 7465737420766563746f7220 0020 0014 0002 a147 0113a9faa5d3f179bc25f4b5bed2b9d9";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[test]
fn the_samples_of_the_standard_are_read() {
    for (sample, mapped) in [
        (SAMPLE_V4, "192.0.2.1:32853"),
        (SAMPLE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let (message, _) = Message::parse(&bytes(sample)).unwrap();
        assert_eq!(message, Message::Mapped(mapped.parse().unwrap()));
    }
}

#[test]
fn an_attribute_that_must_be_understood_and_is_not_makes_it_no_message() {
    let unknown = "0001 0008 2112a442 000000000000000000000000 0003 0004 00000006";
    assert_eq!(Message::parse(&bytes(unknown)), None);
    let optional = "0001 0008 2112a442 000000000000000000000000 8003 0004 00000006";
    let transaction = Transaction([0; 12]);
    let read = Message::parse(&bytes(optional));
    assert_eq!(read, Some((Message::Request, transaction)));
}

#[test]
fn no_answer_is_longer_than_its_request() {
    let longest = "[2001:db8::1]:51820".parse().unwrap();
    let transaction = Transaction([7; 12]);
    assert_eq!(Message::Request.write(transaction).len(), REQUEST);
    assert_eq!(Message::Mapped(longest).write(transaction).len(), REQUEST);
}

#[test]
fn a_token_travels_in_the_transaction() {
    let datagram = Message::Indication.write(Transaction::from(u64::MAX - 7));
    assert_eq!(datagram.len(), HEADER);
    let (message, transaction) = Message::parse(&datagram).unwrap();
    assert_eq!(
        (message, transaction.token()),
        (Message::Indication, u64::MAX - 7)
    );
}

#[test]
fn wireguard_is_not_taken_for_it() {
    for kind in 1..=4u8 {
        let mut datagram = vec![0; 148];
        datagram[0] = kind;
        assert!(!is_stun(&datagram));
    }
}

fn message() -> impl Strategy<Value = Message> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    let v6 = (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![
        Just(Message::Request),
        Just(Message::Indication),
        v4.prop_map(Message::Mapped),
        v6.prop_map(Message::Mapped),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message(), transaction in any::<[u8; 12]>()) {
        let transaction = Transaction(transaction);
        let datagram = message.write(transaction);
        prop_assert!(is_stun(&datagram) && datagram.len() <= REQUEST);
        prop_assert_eq!(Message::parse(&datagram), Some((message, transaction)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut datagram in prop::collection::vec(any::<u8>(), 0..96), framed: bool) {
        if let (true, [_, _, _, _, a, b, c, d, ..]) = (framed, datagram.as_mut_slice()) {
            [*a, *b, *c, *d] = COOKIE;
        }
        if framed && datagram.len() >= HEADER {
            let length = (datagram.len() - HEADER) as u16;
            datagram[2..4].copy_from_slice(&length.to_be_bytes());
            datagram[..2].copy_from_slice(&SUCCESS_TYPE.to_be_bytes());
        }
        if let Some((message, transaction)) = Message::parse(&datagram) {
            let again = Message::parse(&message.write(transaction));
            prop_assert_eq!(again, Some((message, transaction)));
        }
    }

    #[test]
    fn a_truncated_message_is_none(message in message(), transaction in any::<[u8; 12]>(), cut in 1usize..44) {
        let mut datagram = message.write(Transaction(transaction));
        datagram.truncate(datagram.len().saturating_sub(cut));
        prop_assert_eq!(Message::parse(&datagram), None);
    }
}
