//! Records as a provider shows them to the payer whose connections they are.

use serde::{Deserialize, Serialize};

use super::{CONNECTION_BYTES, Connection};
use crate::{B256, DealId};

/// Bytes of the deal's id, which every record of a lease begins with, and which is not sent.
const DEAL: usize = 32;
/// Bytes of a record without it.
const RECORD: usize = CONNECTION_BYTES - DEAL;

/// Some records of one lease, in the order of its tree, with the key that hides their leaves from everybody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPage {
    /// The lease's log key: [`blinding`](super::blinding) makes each record's blinding of it.
    pub log_key: B256,
    /// Index of the first one.
    pub first: u64,
    /// 55 bytes each, as they are encoded, without the deal's id.
    #[serde(with = "serde_bytes")]
    pub records: Vec<u8>,
}

impl ConnectionPage {
    /// Records of a page at most: it fits a payment message.
    pub const MOST: usize = 20;

    /// A page of these records, the first [`Self::MOST`] of them.
    pub fn new<'a>(
        log_key: B256,
        first: u64,
        records: impl IntoIterator<Item = &'a Connection>,
    ) -> Self {
        let records = records.into_iter().take(Self::MOST);
        Self {
            log_key,
            first,
            records: records
                .flat_map(|record| record.encode().into_iter().skip(DEAL))
                .collect(),
        }
    }

    /// The records; `None` if one cannot be read.
    pub fn read(&self, deal: DealId) -> Option<Vec<Connection>> {
        let (records, rest) = self.records.as_chunks::<RECORD>();
        if !rest.is_empty() || records.len() > Self::MOST {
            return None;
        }
        let read = |record: &[u8; RECORD]| {
            let mut whole = [0; CONNECTION_BYTES];
            whole[..DEAL].copy_from_slice(deal.0.as_slice());
            whole[DEAL..].copy_from_slice(record);
            // Only what is written the one way leads to the leaf.
            Connection::decode(&whole).filter(|read| read.encode() == whole)
        };
        records.iter().map(read).collect()
    }
}
