//! Datagrams from the network, at both ends of an established session.
//!
//! The peer is a plain WireGuard interface, which sends whatever it is given: what it seals reaches the provider's
//! checks of the inner packet.

use std::time::Duration;

use crate::bytes::Bytes;
use crate::pair::{Datagrams, Pair, datagrams, with_pair};

/// Steps of one input.
const STEPS: usize = 64;

pub(crate) fn check(input: &[u8]) {
    with_pair(None, input, |pair| check_with(pair, Bytes(input)));
}

fn check_with(pair: &mut Pair, mut bytes: Bytes<'_>) {
    let mut last = Datagrams::new();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        match bytes.u8() % 7 {
            // Anything from anywhere.
            0 => {
                let from = bytes.u8();
                let delivered = pair.up(from, bytes.block());
                assert_eq!(delivered, None, "nobody can seal without the keys");
            }
            1 => pair.down(bytes.block()),
            // A packet of the peer's own making.
            2 => {
                let _ = pair.peer.handle_packet(bytes.block(), pair.now);
                last = datagrams(&mut pair.peer);
                for datagram in last.clone() {
                    pair.up(2, &datagram);
                }
            }
            // The same again.
            3 => {
                for datagram in last.clone() {
                    let delivered = pair.up(bytes.u8(), &datagram);
                    assert_eq!(delivered, None, "a datagram was delivered twice");
                }
            }
            // Changed on the way.
            4 => {
                let _ = pair.peer.handle_packet(bytes.block(), pair.now);
                let (at, change) = (bytes.u16(), bytes.u8().max(1));
                last.clear();
                for mut datagram in datagrams(&mut pair.peer) {
                    let at = usize::from(at) % datagram.len();
                    datagram[at] ^= change;
                    let delivered = pair.up(2, &datagram);
                    // Three reserved bytes are not sealed; WireGuard's are zero, and others are refused.
                    assert_eq!(delivered, None, "a changed datagram was delivered");
                }
            }
            5 => {
                let _ = pair.provider.handle_packet(bytes.block(), pair.now);
                for datagram in datagrams(&mut pair.provider) {
                    pair.down(&datagram);
                }
            }
            _ => {
                pair.wait(pause(bytes.u16()));
                pair.settle();
                last.clear();
            }
        }
    }
    pair.settle();
}

/// How long to wait: mostly moments, and now and then so long that keys have to be renewed, which takes longer than all
/// the rest of an input.
fn pause(choice: u16) -> Duration {
    let millis = match choice {
        0xfc00.. => choice,
        _ => choice & 0xff,
    };
    Duration::from_millis(millis.into())
}
