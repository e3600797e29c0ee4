//! Claims: the rows that `settle` takes and what became of each.

use alloy_primitives::B256;
use alloy_sol_types::{SolCall, SolEvent};
use ipsx_metering::{
    Amount, Channel, ChannelId, Reservation, Signature, Signed, TypedData, Voucher,
};
use serde::{Deserialize, Serialize};

use super::{Centralizer, ContractError, amount};
use crate::bindings::{self, Centralizer as abi};
use crate::chain::{Call, TransactionReceipt};
use crate::wallet::Signer;

/// One claim: a channel with a reservation and a voucher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// The channel.
    pub channel: Channel,
    /// The operator's promise that the deposit covers it.
    pub reservation: Signed<Reservation>,
    /// The payer's promise.
    pub voucher: Signed<Voucher>,
}

/// Why the contract skipped a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SkipReason {
    /// More than 24 h after the reservation.
    #[error("the reservation ended more than 24 h ago")]
    Expired,
    /// The session key ends before the reservation, or was never authorised.
    #[error("the session key is not authorised for as long as the reservation lasts")]
    SignerExpired,
    /// The reservation is not the operator's.
    #[error("the reservation is not signed by the network's operator")]
    NotOperator,
    /// The voucher is not the session key's.
    #[error("the voucher is not signed by the channel's session key")]
    NotPayerSigner,
    /// All of it was paid before.
    #[error("nothing is due: it was claimed before")]
    NothingDue,
    /// No money is left for it.
    #[error("neither deposit nor bond has anything left for it")]
    Unfunded,
    /// A reason that a newer contract has added.
    #[error("for a reason that this version does not know")]
    Unknown,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowOutcome {
    /// Paid, wholly or in part.
    Settled {
        /// Moved now, fee included.
        paid: Amount,
        /// The network's part of it.
        fee: Amount,
        /// Moved in all so far.
        claimed: Amount,
        /// Due but not covered.
        unpaid: Amount,
        /// The part that came out of the operator's bond.
        from_bond: Amount,
    },
    /// Nothing changed.
    Skipped(SkipReason),
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// One outcome for each row, in order.
    pub outcomes: Vec<RowOutcome>,
    /// The transaction.
    pub receipt: TransactionReceipt,
}

impl Centralizer {
    /// Claims a batch; anyone may. Read the outcomes: a row that can't be paid is skipped, not an error.
    pub async fn settle(
        &self,
        submitter: &dyn Signer,
        rows: &[ClaimRow],
    ) -> Result<Settlement, ContractError> {
        let receipt = self.write(submitter, "settle", settle_call(rows)).await?;
        let outcomes = self.outcomes(&receipt, rows)?;
        Ok(Settlement { outcomes, receipt })
    }

    /// Gas that a batch would need now.
    pub async fn settle_gas(
        &self,
        submitter: alloy_primitives::Address,
        rows: &[ClaimRow],
    ) -> Result<u64, ContractError> {
        let call = Call {
            from: submitter,
            ..Call::read(
                self.deployment().centralizer,
                settle_call(rows).abi_encode(),
            )
        };
        self.chain
            .estimate_gas(&call)
            .await
            .map_err(ContractError::at("settle"))
    }

    /// Sets a reservation's uncovered capacity aside for its channel, by the provider.
    pub async fn hold(
        &self,
        provider: &dyn Signer,
        row: &ClaimRow,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::holdCall {
            row: bindings::Row::from(row),
        };
        self.write(provider, "hold the capacity", call).await
    }

    /// Gives a hold back to the payer: by anyone once its time is over, by the provider at any time.
    pub async fn release_hold(
        &self,
        submitter: &dyn Signer,
        channel: &Channel,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::releaseHoldCall {
            c: bindings::Channel::from(channel),
        };
        self.write(submitter, "release the hold", call).await
    }

    /// The rows' outcomes, from the one event that each of them emitted.
    fn outcomes(
        &self,
        receipt: &TransactionReceipt,
        rows: &[ClaimRow],
    ) -> Result<Vec<RowOutcome>, ContractError> {
        let unreadable = |reason: String| ContractError::Unreadable {
            action: "settle",
            reason,
        };
        let mut outcomes = Vec::with_capacity(rows.len());
        for log in &receipt.logs {
            if log.address != self.deployment().centralizer {
                continue;
            }
            let Some((channel, outcome)) = outcome(log).map_err(|e| unreadable(e.to_string()))?
            else {
                continue;
            };
            let row = rows.get(outcomes.len());
            if row.map(|row| row.channel.id()) != Some(channel) {
                return Err(unreadable(format!("an event for channel {channel}")));
            }
            outcomes.push(outcome);
        }
        if outcomes.len() != rows.len() {
            return Err(unreadable(format!(
                "{} events for {} rows",
                outcomes.len(),
                rows.len()
            )));
        }
        Ok(outcomes)
    }
}

fn settle_call(rows: &[ClaimRow]) -> abi::settleCall {
    abi::settleCall {
        rows: rows.iter().map(bindings::Row::from).collect(),
    }
}

fn outcome(
    log: &crate::chain::Log,
) -> Result<Option<(ChannelId, RowOutcome)>, alloy_sol_types::Error> {
    let topics = || log.topics.iter().copied();
    match log.topics.first() {
        Some(&abi::Settled::SIGNATURE_HASH) => {
            let e = abi::Settled::decode_raw_log(topics(), &log.data)?;
            let outcome = RowOutcome::Settled {
                paid: amount(e.paid),
                fee: amount(e.fee),
                claimed: amount(e.claimed),
                unpaid: amount(e.unpaid),
                from_bond: amount(e.fromBond),
            };
            Ok(Some((ChannelId(e.channelId), outcome)))
        }
        Some(&abi::Skipped::SIGNATURE_HASH) => {
            let e = abi::Skipped::decode_raw_log(topics(), &log.data)?;
            let outcome = RowOutcome::Skipped(e.reason.into());
            Ok(Some((ChannelId(e.channelId), outcome)))
        }
        _ => Ok(None),
    }
}

/// The two words of ERC-2098. A high `s` has the highest bit set already and comes out as an invalid signature.
pub(super) fn compact(signature: &Signature) -> bindings::CompactSignature {
    let mut vs = B256::from_slice(&signature.0[32..64]);
    if signature.0[64] == 28 {
        vs[0] |= 0x80;
    }
    bindings::CompactSignature {
        r: B256::from_slice(&signature.0[..32]),
        vs,
    }
}

impl From<&Channel> for bindings::Channel {
    fn from(channel: &Channel) -> Self {
        Self {
            network: channel.network.0,
            payer: channel.payer,
            payerSigner: channel.payer_signer,
            provider: channel.provider,
            salt: channel.salt,
        }
    }
}

impl From<&ClaimRow> for bindings::Row {
    fn from(row: &ClaimRow) -> Self {
        let reservation = row.reservation.message.to_sol();
        let voucher = row.voucher.message.to_sol();
        Self {
            channel: (&row.channel).into(),
            capacity: reservation.capacity,
            validUntil: reservation.validUntil,
            reservation: compact(&row.reservation.signature),
            cumulative: voucher.cumulative,
            receiptHash: voucher.receiptHash,
            voucher: compact(&row.voucher.signature),
        }
    }
}
