//! What is known of addresses.

use std::net::IpAddr;
use std::str::FromStr;

use ipsx_market::IpNet;
use ipsx_market::proof::{Proof, Subject};
use ipsx_metering::Address;

use super::rows::{hex, seconds};
use super::{Row, Store, StoreError, Tx, Value};

/// Everything, as [`Store::proof`] reads it.
pub(super) const SELECT: &str = "SELECT provider, address, prefix, proof FROM proofs";

/// Keeps what is known of an address, or drops it.
pub(super) async fn save_proof(
    tx: &mut Tx,
    subject: &Subject,
    proof: Option<&Proof>,
) -> Result<(), StoreError> {
    let key: [Value; 3] = [
        hex(subject.provider).into(),
        subject.address.to_string().into(),
        subject.prefix.to_string().into(),
    ];
    let Some(proof) = proof else {
        let sql = "DELETE FROM proofs WHERE provider = $1 AND address = $2 AND prefix = $3";
        return tx.execute(sql, key).await.map(drop);
    };
    let [provider, address, prefix] = key;
    let values = [
        provider,
        address,
        prefix,
        seconds(proof.at).into(),
        tx.json("proof", proof)?.into(),
    ];
    tx.execute(
        "INSERT INTO proofs (provider, address, prefix, at, proof) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (provider, address, prefix) DO UPDATE SET at = excluded.at, proof = excluded.proof
         WHERE proofs.at <= excluded.at",
        values,
    )
    .await
    .map(drop)
}

impl Store {
    /// What is known of all addresses.
    pub(crate) async fn proofs(&self) -> Result<Vec<(Subject, Proof)>, StoreError> {
        let rows = self.rows(SELECT, []);
        rows.await?.iter().map(|row| self.proof(row)).collect()
    }

    pub(super) fn proof(&self, row: &Row) -> Result<(Subject, Proof), StoreError> {
        let provider = Address::from_str(&self.text("proof", row, 0)?);
        let address = IpAddr::from_str(&self.text("proof", row, 1)?);
        let prefix = IpNet::from_str(&self.text("proof", row, 2)?);
        let subject = Subject {
            provider: provider.map_err(|e| self.damaged("proof", e))?,
            address: address.map_err(|e| self.damaged("proof", e))?,
            prefix: prefix.map_err(|e| self.damaged("proof", e))?,
        };
        Ok((subject, self.json("proof", row, 3)?))
    }
}
