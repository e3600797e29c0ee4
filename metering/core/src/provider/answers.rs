//! Which receipts a voucher may answer: what is paid and what was served are tied to each other by hash.

use std::collections::VecDeque;

use crate::{B256, Domain, Receipt, Signature, Signed, TypedData};

/// Receipts that are remembered without a voucher that answers one. Without vouchers service stops, and receipts are
/// repeated once a second, for a minute; a payer that looks at the connection record first may be that much behind, at ten
/// receipts a second.
const MOST: usize = 1_024;

/// The receipts since the one that was answered last, oldest first.
#[derive(Debug, Default)]
pub(super) struct Answerable {
    receipts: VecDeque<Sent>,
    /// The deal's opening voucher, which answers none, came to this meter. After a restart, or a loss of the disk,
    /// the payer may answer a receipt of before.
    opened: bool,
}

#[derive(Debug)]
struct Sent {
    receipt: Receipt,
    /// Once it was asked for.
    hash: Option<B256>,
    signature: Option<Signature>,
}

impl Answerable {
    /// A receipt goes out.
    pub(super) fn sent(&mut self, receipt: Receipt) {
        if self.receipts.len() == MOST {
            self.receipts.pop_front();
        }
        self.receipts.push_back(Sent {
            receipt,
            hash: None,
            signature: None,
        });
    }

    /// A receipt that went out, with its signature.
    pub(super) fn signed(&mut self, signed: Signed<Receipt>) {
        let newest_first = self.receipts.iter_mut().rev();
        let sent = newest_first
            .take_while(|sent| sent.receipt.seq >= signed.message.seq)
            .find(|sent| sent.receipt == signed.message);
        if let Some(sent) = sent {
            sent.signature = Some(signed.signature);
        }
    }

    /// The receipt with this hash, signed, if a voucher was accepted that answers it.
    pub(super) fn answered(&self, hash: B256) -> Option<Signed<Receipt>> {
        let sent = self.receipts.front()?;
        let signature = sent.signature.filter(|_| sent.hash == Some(hash))?;
        Some(Signed {
            message: sent.receipt.clone(),
            signature,
        })
    }

    /// Takes the answer of a voucher that is higher than the one before; false if it may not answer that.
    pub(super) fn accept(&mut self, answered: B256, opening: bool, domain: &Domain) -> bool {
        if opening && answered == B256::ZERO {
            self.opened = true;
            return true;
        }
        let hash = |sent: &mut Sent| {
            *sent
                .hash
                .get_or_insert_with(|| sent.receipt.signing_hash(domain))
        };
        let mut newest_first = self.receipts.iter_mut().enumerate().rev();
        let place =
            newest_first.find_map(|(place, kept)| (hash(kept) == answered).then_some(place));
        match place {
            Some(place) => {
                // A later voucher may answer the same one, when the payer has measured more since.
                self.receipts.drain(..place);
                true
            }
            None => !self.opened,
        }
    }
}
