//! Ids, times and values as columns hold them.

use ipsx_metering::{Address, UnixSeconds};
use serde::Serialize;

use super::{StoreError, Tx};

pub(super) fn seconds(at: UnixSeconds) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(super) fn hex(address: Address) -> String {
    // Lower case: the checksummed form would make two texts of one address.
    format!("{address:#x}")
}

impl Tx {
    /// A value as JSON.
    pub(super) fn json<T: Serialize>(
        &self,
        what: &'static str,
        value: &T,
    ) -> Result<String, StoreError> {
        serde_json::to_string(value).map_err(|e| self.damaged(what, e))
    }

    /// A unit variant's name.
    pub(super) fn word<T: Serialize>(&self, value: &T) -> Result<String, StoreError> {
        let text = self.json("status", value)?;
        Ok(text.trim_matches('"').into())
    }
}
