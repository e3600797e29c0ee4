//! Sealed frames, frozen in `tests/golden/sealed` with every step of their making.

use std::collections::BTreeSet;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ipsx_market::codec;
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::sealed::{Direction, FrameSealer, MAX_SEALED, NONCE_BYTES};
use ipsx_metering::keccak256;
use serde_json::json;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{check_complete, check_file, examples, folder, hex};
use examples::{PROVIDER_TUNNEL, REQUESTER_TUNNEL, tunnel_key};

const LABEL: &str = "ipsx sealed payment frame 1";
const NONCE: [u8; NONCE_BYTES] = *b"only ever used this once";

/// The provider's receipt, sealed for the payer.
pub(super) fn frame_to_payer() -> Vec<u8> {
    let text = codec::encode(&ProviderMessage::Receipt(examples::receipt())).unwrap();
    provider().seal(Direction::ToPayer, NONCE, &text).unwrap()
}

fn provider() -> FrameSealer {
    let deal = examples::deal();
    FrameSealer::new(PROVIDER_TUNNEL, deal.requester_tunnel_key, deal.id())
}

fn payer() -> FrameSealer {
    let deal = examples::deal();
    FrameSealer::new(REQUESTER_TUNNEL, deal.provider_tunnel_key, deal.id())
}

fn check(name: &str, direction: Direction, byte: u8, text: &[u8], frame: &[u8]) -> String {
    let deal_id = examples::deal_id();
    let provider_key = PublicKey::from(tunnel_key(PROVIDER_TUNNEL).0.0);
    let shared = StaticSecret::from(REQUESTER_TUNNEL).diffie_hellman(&provider_key);
    let material = [
        LABEL.as_bytes(),
        shared.as_bytes(),
        deal_id.0.as_slice(),
        &[byte],
    ]
    .concat();
    let key = keccak256(material);
    let cipher = XChaCha20Poly1305::new(&key.0.into());
    let (nonce, sealed) = frame.split_at(NONCE_BYTES);
    let opened = cipher.decrypt(XNonce::from_slice(nonce), sealed).unwrap();
    assert_eq!(opened, text, "{name}: not sealed as the file says");
    let (sender, receiver) = match direction {
        Direction::ToProvider => (payer(), provider()),
        Direction::ToPayer => (provider(), payer()),
    };
    assert_eq!(sender.seal(direction, NONCE, text).unwrap(), frame);
    assert_eq!(receiver.open(direction, frame).unwrap(), text);
    assert!(frame.len() <= MAX_SEALED);
    let file = format!("{name}.json");
    let steps = json!({
        "payerTunnelSecret": hex(&REQUESTER_TUNNEL),
        "payerTunnelKey": hex(tunnel_key(REQUESTER_TUNNEL).0.as_slice()),
        "providerTunnelSecret": hex(&PROVIDER_TUNNEL),
        "providerTunnelKey": hex(tunnel_key(PROVIDER_TUNNEL).0.as_slice()),
        "sharedSecret": hex(shared.as_bytes()),
        "label": LABEL,
        "dealId": hex(deal_id.0.as_slice()),
        "direction": byte,
        "key": hex(key.as_slice()),
        "nonce": hex(nonce),
        "text": hex(text),
        "frame": hex(frame),
    });
    let text = serde_json::to_string_pretty(&steps).unwrap() + "\n";
    check_file(&folder("sealed"), &file, &text);
    file
}

#[test]
fn frames_are_sealed_as_ever() {
    let text = codec::encode(&PayerMessage::Voucher(examples::voucher())).unwrap();
    let frame = payer().seal(Direction::ToProvider, NONCE, &text).unwrap();
    let voucher = check("to-provider", Direction::ToProvider, 0, &text, &frame);
    let frame = frame_to_payer();
    let text = codec::encode(&ProviderMessage::Receipt(examples::receipt())).unwrap();
    let receipt = check("to-payer", Direction::ToPayer, 1, &text, &frame);
    let files = BTreeSet::from([voucher, receipt]);
    check_complete("sealed", |file| file.file_name(), &files);
}
