//! Frozen encodings: what this version writes, every later one reads, and other languages can be checked against.
//!
//! Built with `IPSX_WRITE_GOLDEN=1` in the environment, the tests write the files instead of comparing them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod examples;
#[path = "golden/http.rs"]
mod http;
#[path = "golden/sealed.rs"]
mod sealed;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use alloy_sol_types::SolStruct;
use ipsx_market::codec;
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::payment::{MAX_PAYMENT_MESSAGE, ProviderMessage};
use ipsx_metering::{B256, ConnectionPage, TypedData};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use examples::DOMAIN;

// X25519 of the examples' secrets, by another library.
const PROVIDER_TUNNEL_KEY: &str =
    "0x1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a67";
const REQUESTER_TUNNEL_KEY: &str =
    "0x30d3c865a48fceb3d6118577cf2e5f228d6ff69866264757785b253cb7a4806a";
const SECOND_TUNNEL_KEY: &str =
    "0xe01e2df4f6c166cbbc2ba185bee6ab3b51d206f34fb81c5c5d1ff4668581205d";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

/// Compares a file with what it should hold, or writes it.
fn check_file(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    if option_env!("IPSX_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, content).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(kept, content, "{} has changed", path.display());
}

/// No file without an example, and no example without a file.
fn check_complete(
    name: &str,
    part: impl Fn(&Path) -> Option<&std::ffi::OsStr>,
    examples: &BTreeSet<String>,
) {
    let files = std::fs::read_dir(folder(name)).unwrap();
    let kept: BTreeSet<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            part(&path).unwrap().to_str().unwrap().to_string()
        })
        .collect();
    assert_eq!(
        &kept, examples,
        "{name}: a file without an example, or an example without a file"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_messages<T>(party: &str, messages: Vec<(&'static str, T)>) -> BTreeSet<String>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let folder = folder("messages");
    let mut names = BTreeSet::new();
    for (name, message) in messages {
        let bytes = codec::encode(&message).unwrap();
        let name = format!("{party}-{name}");
        check_file(&folder, &format!("{name}.hex"), &(hex(&bytes) + "\n"));
        let text = serde_json::to_string_pretty(&message).unwrap() + "\n";
        check_file(&folder, &format!("{name}.json"), &text);
        assert_eq!(codec::decode::<T>(&bytes).unwrap(), message, "{name}");
        assert_eq!(serde_json::from_str::<T>(&text).unwrap(), message, "{name}");
        names.insert(name);
    }
    names
}

#[test]
fn messages_are_encoded_as_ever() {
    let mut names = check_messages("agent", examples::agent_messages());
    names.extend(check_messages("broker", examples::broker_messages()));
    names.extend(check_messages("payer", examples::payer_messages()));
    names.extend(check_messages("provider", examples::provider_messages()));
    check_complete("messages", |file| file.file_stem(), &names);
}

/// Every variant has its example; a new one does not compile until it is named here.
#[test]
fn every_variant_has_an_example() {
    let agent = |message: &AgentMessage| match message {
        AgentMessage::Hello { .. } => 0,
        AgentMessage::Authenticate { .. } => 1,
        AgentMessage::PublishOffer { .. } => 2,
        AgentMessage::WithdrawOffer { .. } => 3,
        AgentMessage::AcceptDeal { .. } => 4,
        AgentMessage::DeclineDeal { .. } => 5,
        AgentMessage::LeaseReady { .. } => 6,
        AgentMessage::LeaseServing { .. } => 7,
        AgentMessage::RenewReservation { .. } => 8,
        AgentMessage::LeaseEnded { .. } => 9,
        AgentMessage::CloseChannel { .. } => 10,
        AgentMessage::Frame { .. } => 11,
        AgentMessage::Endpoint { .. } => 12,
        AgentMessage::Token { .. } => 13,
    };
    let found: Vec<_> = examples::agent_messages()
        .iter()
        .map(|(_, m)| agent(m))
        .collect();
    assert_eq!(found, (0..14).collect::<Vec<_>>());
    let broker = |message: &BrokerMessage| match message {
        BrokerMessage::Welcome { .. } => 0,
        BrokerMessage::Authenticated { .. } => 1,
        BrokerMessage::OfferPlaced { .. } => 2,
        BrokerMessage::OfferRefused { .. } => 3,
        BrokerMessage::Propose { .. } => 4,
        BrokerMessage::DealBound { .. } => 5,
        BrokerMessage::DealAborted { .. } => 6,
        BrokerMessage::ReservationRenewed { .. } => 7,
        BrokerMessage::ReservationRefused { .. } => 8,
        BrokerMessage::Forfeited { .. } => 9,
        BrokerMessage::EndLease { .. } => 10,
        BrokerMessage::Frame { .. } => 11,
        BrokerMessage::Refused { .. } => 12,
        BrokerMessage::Reached { .. } => 13,
        BrokerMessage::Punch { .. } => 14,
        BrokerMessage::Relay { .. } => 15,
    };
    let found: Vec<_> = examples::broker_messages()
        .iter()
        .map(|(_, m)| broker(m))
        .collect();
    assert_eq!(found, (0..16).collect::<Vec<_>>());
}

#[test]
fn payment_messages_fit_one_packet() {
    let payer = examples::payer_messages();
    let provider = examples::provider_messages();
    let sizes = payer.iter().map(|(_, m)| codec::encode(m).unwrap().len());
    let sizes = sizes.chain(
        provider
            .iter()
            .map(|(_, m)| codec::encode(m).unwrap().len()),
    );
    assert!(sizes.max().unwrap() <= MAX_PAYMENT_MESSAGE);
    let full = ConnectionPage {
        log_key: B256::repeat_byte(0xff),
        first: u64::MAX,
        records: vec![0xff; 55 * ConnectionPage::MOST],
    };
    let full = codec::encode(&ProviderMessage::Connections(full)).unwrap();
    assert!(full.len() <= MAX_PAYMENT_MESSAGE, "{}", full.len());
}

#[test]
fn fields_that_are_not_known_are_skipped() {
    #[derive(Serialize)]
    enum Later {
        Hello {
            version: u16,
            software: String,
            mood: Vec<Option<u8>>,
        },
    }
    let later = Later::Hello {
        version: 2,
        software: "later".into(),
        mood: vec![None, Some(1)],
    };
    let bytes = codec::encode(&later).unwrap();
    let now = AgentMessage::Hello {
        version: 2,
        software: "later".into(),
    };
    assert_eq!(codec::decode::<AgentMessage>(&bytes).unwrap(), now);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let frame = |n| AgentMessage::Frame {
        deal_id: Default::default(),
        sealed: vec![0; n],
    };
    assert!(codec::encode_frame(&frame(60_000)).is_ok());
    assert!(codec::encode_frame(&frame(70_000)).is_err());
    assert!(codec::encode(&frame(70_000)).is_err());
    let most = codec::MAX_FRAME as u32;
    assert_eq!(
        codec::frame_length(most.to_be_bytes()).unwrap(),
        codec::MAX_FRAME
    );
    assert!(codec::frame_length((most + 1).to_be_bytes()).is_err());
    assert!(codec::decode::<AgentMessage>(&vec![0; codec::MAX_FRAME + 1]).is_err());
}

/// Cut off anywhere, or with any byte changed, a message is refused or read as another, and nothing panics.
#[test]
fn damaged_messages_do_no_harm() {
    for (_, message) in examples::broker_messages() {
        let bytes = codec::encode(&message).unwrap();
        for cut in 0..bytes.len() {
            assert!(codec::decode::<BrokerMessage>(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = codec::decode::<BrokerMessage>(&damaged);
            }
        }
    }
}

/// `Name(type field,…)Other(…)` as the lists that wallets take.
fn types_of(encoded: &str) -> Value {
    let mut types = serde_json::Map::new();
    for part in encoded.split_terminator(')') {
        let (name, fields) = part.split_once('(').unwrap();
        let fields = fields.split(',').map(|field| {
            let (kind, name) = field.split_once(' ').unwrap();
            json!({ "name": name, "type": kind })
        });
        types.insert(name.into(), fields.collect());
    }
    Value::Object(types)
}

fn check_typed_data<T: TypedData>(name: &str, value: &T, message: Value) {
    let type_string = T::Sol::eip712_encode_type();
    let vector = json!({
        "primaryType": T::Sol::NAME,
        "typeString": type_string,
        "types": types_of(&type_string),
        "domain": {
            "name": "ipsx",
            "version": "1",
            "chainId": DOMAIN.chain_id,
            "verifyingContract": DOMAIN.contract,
        },
        "message": message,
        "structHash": value.struct_hash(),
        "signingHash": value.signing_hash(&DOMAIN),
    });
    let text = serde_json::to_string_pretty(&vector).unwrap() + "\n";
    check_file(&folder("market"), &format!("{name}.json"), &text);
}

// The messages are written out by hand, so that a field that is hashed in the wrong place is found by whoever hashes
// the file with another library.
#[test]
fn offers_and_requests_are_hashed_as_ever() {
    let offer = json!({
        "network": format!("0x{}", "4e".repeat(32)),
        "provider": examples::provider().address(),
        "nonce": "7",
        "prefixes": ["203.0.113.0/28", "2001:db8:1::/64"],
        "protocols": 7,
        "policyHash": format!("0x{}", "b0".repeat(32)),
        "tier": "web+udp",
        "ports": ["80", "443"],
        "services": ["insurance"],
        "leases": 16,
        "mbitUp": 50,
        "mbitDown": 200,
        "bytesPerMonth": "1099511627776",
        "pricePerSecond": "250000000000000",
        "pricePerGib": "40000000000000000",
        "minSeconds": 5,
        "maxSeconds": 86_400,
        "weeklyHours": "16777215",
        "expiresAt": 1_900_000_000u64,
    });
    check_typed_data("offer", &examples::offer(), offer);
    let mut request = json!({
        "network": format!("0x{}", "4e".repeat(32)),
        "requester": examples::requester().address(),
        "nonce": "99",
        "filter": {
            "countries": ["FR", "DE"],
            "regions": ["FR-IDF", "DE-BE"],
            "cities": ["Paris", "Berlin"],
            "circles": [{ "latitude": 48_856_600, "longitude": 2_352_200, "km": 50 }],
            "asns": [64_500],
            "prefixes": ["203.0.113.0/24"],
            "addressTypes": ["residential"],
            "ipVersion": 4,
            "protocols": 7,
            "tier": "web",
            "ports": [443],
            "services": ["insurance"],
            "mbitUp": 1,
            "mbitDown": 20,
            "maxLatencyMs": 80,
            "minReputation": 700,
            "reachability": "punched",
            "avoid": {
                "prefixes": ["203.0.113.7/32"],
                "asns": [64_501],
                "providers": [format!("0x{}", "ee".repeat(20))],
            },
        },
        "maxPricePerSecond": "250000000000000",
        "maxPricePerGib": "40000000000000000",
        "budget": "1500000000000000000",
        "numSeconds": 3_600,
        "startEarliest": 1_899_998_500u64,
        "startLatest": 1_899_999_500u64,
        "expectedBytes": "10000000000",
        "payer": examples::requester().address(),
        "payerSigner": examples::session_key().address(),
        "channelSalt": format!("0x{}", "00".repeat(32)),
        "tunnelKey": REQUESTER_TUNNEL_KEY,
        "counterSource": 0,
        "expiresAt": 1_899_999_000u64,
        "restUntil": 1_899_998_000u64,
        "bundle": { "legs": [], "distinct": "address", "allOrNothing": false },
    });
    check_typed_data("request", &examples::request(), request.clone());
    for now in ["startEarliest", "startLatest", "restUntil"] {
        request[now] = json!(0);
    }
    request["bundle"] = json!({
        "legs": [{
            "tunnelKey": SECOND_TUNNEL_KEY,
            "channelSalt": format!("0x{}", "01".repeat(32)),
        }],
        "distinct": "address",
        "allOrNothing": true,
    });
    check_typed_data("bundle-request", &examples::bundle_request(), request);
}

#[test]
fn deals_and_outcomes_are_hashed_as_ever() {
    let deal = json!({
        "network": format!("0x{}", "4e".repeat(32)),
        "request": examples::request().struct_hash(),
        "leg": 0,
        "offer": examples::offer().struct_hash(),
        "requester": examples::requester().address(),
        "provider": examples::provider().address(),
        "payer": examples::requester().address(),
        "payerSigner": examples::session_key().address(),
        "payout": examples::payout_key().address(),
        "channelSalt": format!("0x{}", "00".repeat(32)),
        "agentKey": examples::agent_key().address(),
        "providerTunnelKey": PROVIDER_TUNNEL_KEY,
        "requesterTunnelKey": REQUESTER_TUNNEL_KEY,
        "exitAddress": "203.0.113.5",
        "policyHash": format!("0x{}", "b0".repeat(32)),
        "pricePerSecond": "250000000000000",
        "pricePerGib": "40000000000000000",
        "budget": "1500000000000000000",
        "numSeconds": 3_600,
        "counterSource": 0,
        "signBy": 1_899_998_020u64,
        "startsAt": 1_899_998_500u64,
        "startBy": 1_899_998_560u64,
        "salt": format!("0x{}", "5a".repeat(32)),
    });
    check_typed_data("deal", &examples::deal(), deal);
    let outcome = json!({ "dealId": examples::deal().struct_hash(), "outcome": 1 });
    check_typed_data("outcome", &examples::outcome(), outcome);
}

#[test]
fn authentications_are_hashed_as_ever() {
    let network = format!("0x{}", "4e".repeat(32));
    let session = format!("0x{}", "e5".repeat(32));
    let agent = json!({
        "network": network,
        "provider": examples::provider().address(),
        "session": session,
    });
    check_typed_data(
        "agent-authentication",
        &examples::agent_authentication(),
        agent,
    );
    let broker = json!({ "network": network, "session": session });
    check_typed_data(
        "broker-authentication",
        &examples::broker_authentication(),
        broker,
    );
}

#[test]
fn an_echo_is_hashed_as_ever() {
    let echo = json!({
        "network": format!("0x{}", "4e".repeat(32)),
        "nonce": format!("0x{}", "ec".repeat(32)),
        "seen": "203.0.113.5",
        "at": 1_899_998_010u64,
    });
    check_typed_data("echo", &examples::echo(), echo);
}

#[test]
fn an_appeal_is_hashed_as_ever() {
    let appeal = json!({
        "network": format!("0x{}", "4e".repeat(32)),
        "provider": examples::provider().address(),
        "seen": "203.0.113.5",
        "addressType": "residential",
        "text": "A line of Example Telecom's; the bill is at hand.",
        "at": 1_899_998_020u64,
    });
    check_typed_data("appeal", &examples::appeal(), appeal);
}
