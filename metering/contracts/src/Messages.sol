// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// A session key's permission to sign vouchers for a payer on one network.
struct Authorization {
    bytes32 network;
    address payer;
    address signer;
    uint40 validTo;
    uint64 nonce;
}

/// A payment channel between one payer and one provider. Its struct hash is the channel id.
struct Channel {
    bytes32 network;
    address payer;
    address payerSigner;
    address provider;
    bytes32 salt;
}

/// The operator's consent to an immediate withdrawal of a deposit.
struct Withdrawal {
    bytes32 network;
    address owner;
    address to;
    uint128 amount;
    uint64 nonce;
    uint40 deadline;
}

/// An owner's order to pay credits out, so that anyone may submit it and pay the gas.
struct CreditsTransfer {
    address owner;
    address to;
    uint128 amount;
    uint64 nonce;
    uint40 deadline;
}

/// An ECDSA signature in the two words of ERC-2098: `vs` is `s` with the recovery bit in its highest bit.
struct CompactSignature {
    bytes32 r;
    bytes32 vs;
}

/// What a claim consists of: a channel, its reservation and its voucher, each with its signature.
struct Row {
    Channel channel;
    uint128 capacity;
    uint40 validUntil;
    CompactSignature reservation;
    uint128 cumulative;
    bytes32 receiptHash;
    CompactSignature voucher;
}

/// @title EIP-712 struct hashes of everything that is signed for the `Centralizer`.
library Messages {
    bytes32 private constant AUTHORIZATION =
        keccak256("Authorization(bytes32 network,address payer,address signer,uint40 validTo,uint64 nonce)");
    bytes32 private constant CHANNEL =
        keccak256("Channel(bytes32 network,address payer,address payerSigner,address provider,bytes32 salt)");
    bytes32 private constant RESERVATION =
        keccak256("Reservation(bytes32 channelId,uint128 capacity,uint40 validUntil)");
    bytes32 private constant VOUCHER = keccak256("Voucher(bytes32 channelId,uint128 cumulative,bytes32 receiptHash)");
    bytes32 private constant WITHDRAWAL = keccak256(
        "Withdrawal(bytes32 network,address owner,address to,uint128 amount,uint64 nonce,uint40 deadline)"
    );
    bytes32 private constant CREDITS_TRANSFER =
        keccak256("CreditsTransfer(address owner,address to,uint128 amount,uint64 nonce,uint40 deadline)");

    function hash(Authorization calldata a) internal pure returns (bytes32) {
        return keccak256(abi.encode(AUTHORIZATION, a));
    }

    function hash(Channel calldata c) internal pure returns (bytes32) {
        return keccak256(abi.encode(CHANNEL, c));
    }

    function hash(Withdrawal calldata w) internal pure returns (bytes32) {
        return keccak256(abi.encode(WITHDRAWAL, w));
    }

    function hash(CreditsTransfer calldata t) internal pure returns (bytes32) {
        return keccak256(abi.encode(CREDITS_TRANSFER, t));
    }

    function reservation(bytes32 channelId, uint256 capacity, uint256 validUntil) internal pure returns (bytes32) {
        return keccak256(abi.encode(RESERVATION, channelId, capacity, validUntil));
    }

    function voucher(bytes32 channelId, uint256 cumulative, bytes32 receiptHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(VOUCHER, channelId, cumulative, receiptHash));
    }
}
