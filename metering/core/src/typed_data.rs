//! The signed messages of the payment channel, as EIP-712 typed data.
//!
//! The plain structs carry this project's own types; [`TypedData`] turns them into what is hashed and signed.
//! Field names and order on the Solidity side are the contract's.

use std::any::TypeId;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use alloy_primitives::{Address, B256, Keccak256, U256, aliases::U40, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct};
use serde::{Deserialize, Serialize};

use crate::{Amount, ChannelId, DealId, NetworkId, UnixSeconds, Usage};

/// Solidity's view of the messages; their names and fields make the EIP-712 type hashes.
mod sol {
    #![allow(missing_docs)]
    alloy_sol_types::sol! {
        struct Authorization { bytes32 network; address payer; address signer; uint40 validTo; uint64 nonce; }
        struct Channel { bytes32 network; address payer; address payerSigner; address provider; bytes32 salt; }
        struct Reservation { bytes32 channelId; uint128 capacity; uint40 validUntil; }
        struct Voucher { bytes32 channelId; uint128 cumulative; bytes32 receiptHash; }
        struct Receipt {
            bytes32 channelId; bytes32 dealId; uint64 seq; uint64 secs; uint64 bytesUp; uint64 bytesDown;
            uint128 dealAmount; uint128 cumulative; uint64 observedAt; bytes32 connectionsRoot;
        }
        struct Close { bytes32 channelId; uint128 cumulative; }
        struct Withdrawal {
            bytes32 network; address owner; address to; uint128 amount; uint64 nonce; uint40 deadline;
        }
        struct CreditsTransfer { address owner; address to; uint128 amount; uint64 nonce; uint40 deadline; }
    }
}

/// The EIP-712 domain of one deployed `Centralizer`: nothing signed for one replays on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Domain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Address of the `Centralizer`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::AddressText))]
    pub contract: Address,
}

impl Domain {
    /// The domain as the hashing library takes it: name `ipsx`, version `1`.
    pub fn eip712(&self) -> Eip712Domain {
        Eip712Domain::new(
            Some("ipsx".into()),
            Some("1".into()),
            Some(U256::from(self.chain_id)),
            Some(self.contract),
            None,
        )
    }

    /// EIP-712 `domainSeparator`; remembered, since a program signs for one contract.
    pub fn separator(&self) -> B256 {
        thread_local! {
            static LATEST: Cell<Option<(Domain, B256)>> = const { Cell::new(None) };
        }
        match LATEST.get() {
            Some((domain, separator)) if domain == *self => separator,
            _ => {
                let separator = self.eip712().hash_struct();
                LATEST.set(Some((*self, separator)));
                separator
            }
        }
    }
}

/// A message that is signed as EIP-712 typed data.
pub trait TypedData {
    /// The Solidity struct that is hashed.
    type Sol: SolStruct + 'static;

    /// The message as that struct.
    fn to_sol(&self) -> Self::Sol;

    /// EIP-712 `hashStruct`: names the message, independent of chain and contract.
    fn struct_hash(&self) -> B256 {
        let sol = self.to_sol();
        let mut hasher = Keccak256::new();
        hasher.update(type_hash(&sol));
        hasher.update(sol.eip712_encode_data());
        hasher.finalize()
    }

    /// The 32 bytes that are signed.
    fn signing_hash(&self, domain: &Domain) -> B256 {
        self.hash_within(&domain.separator())
    }

    /// The 32 bytes that are signed, given the [`Domain::separator`].
    fn hash_within(&self, separator: &B256) -> B256 {
        let mut bytes = [0; 66];
        bytes[..2].copy_from_slice(&[0x19, 0x01]);
        bytes[2..34].copy_from_slice(&separator.0);
        bytes[34..].copy_from_slice(&self.struct_hash().0);
        keccak256(bytes)
    }
}

/// EIP-712 `typeHash`, which the library makes anew for each message, from a text of up to a thousand letters.
fn type_hash<S: SolStruct + 'static>(sol: &S) -> B256 {
    static KNOWN: LazyLock<RwLock<HashMap<TypeId, B256>>> = LazyLock::new(RwLock::default);
    let id = TypeId::of::<S>();
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(hash) = known.get(&id) {
        return *hash;
    }
    drop(known);
    let hash = sol.eip712_type_hash();
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    *known.entry(id).or_insert(hash)
}

/// A session key's permission to sign vouchers for a payer on one network; signed by the payer's wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Authorization {
    /// Network whose deposit the key may spend from.
    pub network: NetworkId,
    /// Owner of the deposit.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::AddressText))]
    pub payer: Address,
    /// The session key.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::AddressText))]
    pub signer: Address,
    /// Last second at which the key counts.
    pub valid_to: UnixSeconds,
    /// The payer's next authorization number on this network.
    pub nonce: u64,
}

/// One payment channel between a pair. Not signed: its struct hash is the [`ChannelId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Channel {
    /// Network whose deposits pay.
    pub network: NetworkId,
    /// Owner of the deposit.
    pub payer: Address,
    /// Session key that signs the vouchers.
    pub payer_signer: Address,
    /// Payout address of the provider: fresh for each requester.
    pub provider: Address,
    /// Distinguishes channels of the same pair.
    pub salt: B256,
}

impl Channel {
    /// The channel's id.
    pub fn id(&self) -> ChannelId {
        ChannelId(self.struct_hash())
    }
}

/// The operator's promise that the payer's deposit covers a channel up to `capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reservation {
    /// The channel.
    pub channel_id: ChannelId,
    /// Highest cumulative amount that is covered.
    pub capacity: Amount,
    /// Until when vouchers may be signed against it; claimable for 24 h more.
    pub valid_until: UnixSeconds,
}

/// The payer's promise: the provider may claim `cumulative` in all from this channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Voucher {
    /// The channel.
    pub channel_id: ChannelId,
    /// Total of all vouchers so far, this one included.
    pub cumulative: Amount,
    /// Signing hash of the receipt it answers; zero for the first of a deal.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::HashText))]
    pub receipt_hash: B256,
}

/// The provider's account of what a lease has used, signed each second by the agent key named in the deal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The channel that pays.
    pub channel_id: ChannelId,
    /// The deal that is served.
    pub deal_id: DealId,
    /// Grows by one with each receipt of the channel.
    pub seq: u64,
    /// Totals of the deal.
    pub usage: Usage,
    /// What the deal's totals cost.
    pub deal_amount: Amount,
    /// What the channel's voucher must reach for this receipt to be paid.
    pub cumulative: Amount,
    /// The provider's wall clock, in seconds.
    pub observed_at: UnixSeconds,
    /// Root of the provider's connection record; zero while none is kept.
    pub connections_root: B256,
}

/// The provider's statement that it will claim no more than `cumulative`; frees the rest of the capacity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The channel.
    pub channel_id: ChannelId,
    /// The most that will ever be claimed.
    pub cumulative: Amount,
}

/// The operator's consent to an immediate withdrawal of a deposit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Withdrawal {
    /// Network of the deposit.
    pub network: NetworkId,
    /// Owner of the deposit.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::AddressText))]
    pub owner: Address,
    /// Who receives the tokens.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::AddressText))]
    pub to: Address,
    /// How much.
    pub amount: Amount,
    /// The owner's next withdrawal number on this network.
    pub nonce: u64,
    /// Last second at which it can be executed.
    pub deadline: UnixSeconds,
}

/// An owner's order to pay its credits out to any address, so that anyone may submit it and pay the gas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditsTransfer {
    /// Owner of the credits.
    pub owner: Address,
    /// Who receives the tokens.
    pub to: Address,
    /// How much.
    pub amount: Amount,
    /// The owner's next credits-transfer number.
    pub nonce: u64,
    /// Last second at which it can be executed.
    pub deadline: UnixSeconds,
}

/// A `uint40`; later times are the latest that fits, which no chain reaches.
fn uint40(time: UnixSeconds) -> U40 {
    U40::from(time.0.min(UnixSeconds::MAX.0))
}

impl TypedData for Authorization {
    type Sol = sol::Authorization;

    fn to_sol(&self) -> sol::Authorization {
        sol::Authorization {
            network: self.network.0,
            payer: self.payer,
            signer: self.signer,
            validTo: uint40(self.valid_to),
            nonce: self.nonce,
        }
    }
}

impl TypedData for Channel {
    type Sol = sol::Channel;

    fn to_sol(&self) -> sol::Channel {
        sol::Channel {
            network: self.network.0,
            payer: self.payer,
            payerSigner: self.payer_signer,
            provider: self.provider,
            salt: self.salt,
        }
    }
}

impl TypedData for Reservation {
    type Sol = sol::Reservation;

    fn to_sol(&self) -> sol::Reservation {
        sol::Reservation {
            channelId: self.channel_id.0,
            capacity: self.capacity.0,
            validUntil: uint40(self.valid_until),
        }
    }
}

/// EIP-712 `typeHash` of a voucher.
static VOUCHER_TYPE: LazyLock<B256> =
    LazyLock::new(|| keccak256(sol::Voucher::eip712_encode_type().as_bytes()));

impl TypedData for Voucher {
    type Sol = sol::Voucher;

    /// Hashed by the million: the same words as the general way, without its allocations.
    fn struct_hash(&self) -> B256 {
        let mut words = [0; 4 * 32];
        words[..32].copy_from_slice(&VOUCHER_TYPE.0);
        words[32..64].copy_from_slice(&self.channel_id.0.0);
        words[80..96].copy_from_slice(&self.cumulative.0.to_be_bytes());
        words[96..].copy_from_slice(&self.receipt_hash.0);
        keccak256(words)
    }

    fn to_sol(&self) -> sol::Voucher {
        sol::Voucher {
            channelId: self.channel_id.0,
            cumulative: self.cumulative.0,
            receiptHash: self.receipt_hash,
        }
    }
}

impl TypedData for Receipt {
    type Sol = sol::Receipt;

    fn to_sol(&self) -> sol::Receipt {
        sol::Receipt {
            channelId: self.channel_id.0,
            dealId: self.deal_id.0,
            seq: self.seq,
            secs: self.usage.secs,
            bytesUp: self.usage.bytes_up,
            bytesDown: self.usage.bytes_down,
            dealAmount: self.deal_amount.0,
            cumulative: self.cumulative.0,
            observedAt: self.observed_at.0,
            connectionsRoot: self.connections_root,
        }
    }
}

impl TypedData for Close {
    type Sol = sol::Close;

    fn to_sol(&self) -> sol::Close {
        sol::Close {
            channelId: self.channel_id.0,
            cumulative: self.cumulative.0,
        }
    }
}

impl TypedData for Withdrawal {
    type Sol = sol::Withdrawal;

    fn to_sol(&self) -> sol::Withdrawal {
        sol::Withdrawal {
            network: self.network.0,
            owner: self.owner,
            to: self.to,
            amount: self.amount.0,
            nonce: self.nonce,
            deadline: uint40(self.deadline),
        }
    }
}

impl TypedData for CreditsTransfer {
    type Sol = sol::CreditsTransfer;

    fn to_sol(&self) -> sol::CreditsTransfer {
        sol::CreditsTransfer {
            owner: self.owner,
            to: self.to,
            amount: self.amount.0,
            nonce: self.nonce,
            deadline: uint40(self.deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Amount;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The short way to a voucher's hash leads where the hashing library's leads.
        #[test]
        fn a_vouchers_hash_is_the_librarys(
            channel: [u8; 32], cumulative: u128, receipt: [u8; 32], chain_id: u64, contract: [u8; 20],
        ) {
            let voucher = Voucher {
                channel_id: ChannelId(channel.into()),
                cumulative: Amount(cumulative),
                receipt_hash: receipt.into(),
            };
            let domain = Domain { chain_id, contract: contract.into() };
            let sol = voucher.to_sol();
            prop_assert_eq!(voucher.struct_hash(), sol.eip712_hash_struct());
            prop_assert_eq!(voucher.signing_hash(&domain), sol.eip712_signing_hash(&domain.eip712()));
        }
    }
}
