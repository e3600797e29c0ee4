//! The frozen EIP-712 encodings in `tests/golden/metering`.
//!
//! Built with `IPSX_WRITE_GOLDEN=1` in the environment, the tests write the files instead of comparing them.

use std::path::PathBuf;

use alloy_sol_types::SolStruct;
use serde_json::{Value, json};

use super::fixtures::domain;
use crate::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/metering")
        .join(format!("{name}.json"))
}

/// `Name(type field,…)` as the list that wallets take.
fn types_of(encoded: &str) -> Value {
    let (name, fields) = encoded
        .strip_suffix(')')
        .and_then(|text| text.split_once('('))
        .unwrap();
    let fields = fields.split(',').map(|field| {
        let (kind, name) = field.split_once(' ').unwrap();
        json!({ "name": name, "type": kind })
    });
    json!({ name: fields.collect::<Value>() })
}

fn golden<T: TypedData>(name: &str, message: &T, fields: &Value) {
    let type_string = T::Sol::eip712_encode_type();
    let expected = json!({
        "primaryType": T::Sol::NAME,
        "typeString": type_string,
        "types": types_of(&type_string),
        "domain": {
            "name": "ipsx",
            "version": "1",
            "chainId": domain().chain_id,
            "verifyingContract": domain().contract,
        },
        "message": fields,
        "structHash": message.struct_hash(),
        "signingHash": message.signing_hash(&domain()),
    });
    let expected = serde_json::to_string_pretty(&expected).unwrap() + "\n";
    if option_env!("IPSX_WRITE_GOLDEN").is_some() {
        std::fs::write(path(name), &expected).unwrap();
    }
    let frozen = std::fs::read_to_string(path(name))
        .unwrap_or_else(|error| panic!("{name}: {error}; expected:\n{expected}"));
    assert_eq!(frozen, expected, "{name} is not what it was");
}

fn word(byte: u8) -> B256 {
    B256::repeat_byte(byte)
}

fn account(byte: u8) -> Address {
    Address::repeat_byte(byte)
}

#[test]
fn authorization() {
    let message = Authorization {
        network: NetworkId(word(0x11)),
        payer: account(0xa1),
        signer: account(0xa2),
        valid_to: UnixSeconds(1_900_000_000),
        nonce: 7,
    };
    let fields = json!({
        "network": word(0x11), "payer": account(0xa1), "signer": account(0xa2),
        "validTo": 1_900_000_000u64, "nonce": "7",
    });
    golden("authorization", &message, &fields);
}

#[test]
fn channel() {
    let message = Channel {
        network: NetworkId(word(0x11)),
        payer: account(0xa1),
        payer_signer: account(0xa2),
        provider: account(0xa3),
        salt: word(0x22),
    };
    let fields = json!({
        "network": word(0x11), "payer": account(0xa1), "payerSigner": account(0xa2),
        "provider": account(0xa3), "salt": word(0x22),
    });
    golden("channel", &message, &fields);
}

#[test]
fn reservation() {
    let message = Reservation {
        channel_id: ChannelId(word(0x33)),
        capacity: Amount(u128::MAX),
        valid_until: UnixSeconds::MAX,
    };
    let fields = json!({
        "channelId": word(0x33), "capacity": u128::MAX.to_string(), "validUntil": 1_099_511_627_775u64,
    });
    golden("reservation", &message, &fields);
}

#[test]
fn voucher() {
    let message = Voucher {
        channel_id: ChannelId(word(0x33)),
        cumulative: Amount(123_456_789_000_000_000_000),
        receipt_hash: word(0x44),
    };
    let fields = json!({
        "channelId": word(0x33), "cumulative": "123456789000000000000", "receiptHash": word(0x44),
    });
    golden("voucher", &message, &fields);
}

#[test]
fn receipt() {
    let message = Receipt {
        channel_id: ChannelId(word(0x33)),
        deal_id: DealId(word(0x55)),
        seq: 42,
        usage: Usage {
            secs: 3_600,
            bytes_up: 1 << 33,
            bytes_down: u64::MAX,
        },
        deal_amount: Amount(1_000_000),
        cumulative: Amount(5_000_000),
        observed_at: UnixSeconds(1_800_000_000),
        connections_root: word(0x66),
    };
    let fields = json!({
        "channelId": word(0x33), "dealId": word(0x55), "seq": "42", "secs": "3600",
        "bytesUp": "8589934592", "bytesDown": "18446744073709551615",
        "dealAmount": "1000000", "cumulative": "5000000", "observedAt": "1800000000",
        "connectionsRoot": word(0x66),
    });
    golden("receipt", &message, &fields);
}

#[test]
fn close() {
    let message = Close {
        channel_id: ChannelId(word(0x33)),
        cumulative: Amount(5_000_000),
    };
    let fields = json!({ "channelId": word(0x33), "cumulative": "5000000" });
    golden("close", &message, &fields);
}

#[test]
fn withdrawal() {
    let message = Withdrawal {
        network: NetworkId(word(0x11)),
        owner: account(0xa1),
        to: account(0xa4),
        amount: Amount(77),
        nonce: 3,
        deadline: UnixSeconds(1_900_000_000),
    };
    let fields = json!({
        "network": word(0x11), "owner": account(0xa1), "to": account(0xa4),
        "amount": "77", "nonce": "3", "deadline": 1_900_000_000u64,
    });
    golden("withdrawal", &message, &fields);
}

#[test]
fn credits_transfer() {
    let message = CreditsTransfer {
        owner: account(0xa1),
        to: account(0xa4),
        amount: Amount(77),
        nonce: 3,
        deadline: UnixSeconds(1_900_000_000),
    };
    let fields = json!({
        "owner": account(0xa1), "to": account(0xa4), "amount": "77", "nonce": "3",
        "deadline": 1_900_000_000u64,
    });
    golden("credits-transfer", &message, &fields);
}
