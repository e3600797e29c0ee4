//! `ipsx-broker check`: reads everything that a stopped broker keeps, and says what is wrong with it.

use std::path::Path;
use std::sync::Arc;

use ipsx_metering::{Address, Domain};
use ipsx_settlement::{EmbeddedChain, VoucherStore};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

use crate::clock;
use crate::config::{BrokerConfig, StoreConfig};
use crate::error::StartError;
use crate::store::Store;

/// Reads everything that the stopped broker of this configuration keeps. Returns a line for each thing that is wrong.
///
/// # Errors
///
/// When a broker uses the data directory, or there is none: then nothing was checked.
pub async fn check(config: &BrokerConfig) -> Result<Vec<String>, StartError> {
    let sqlite = config.store == StoreConfig::Sqlite;
    let needed = config.data_dir.join("broker.db");
    if sqlite && !needed.exists() {
        return Err(StartError::Store {
            path: needed,
            reason: "it is not there; check data_dir".into(),
        });
    }
    let _lock = crate::prepare(&config.data_dir)?;
    let mut findings = Vec::new();
    match Store::open(&config.store, &config.data_dir).await {
        Ok(store) => {
            match store.inspect(clock::now()).await {
                Ok(found) => findings.extend(found),
                Err(error) => findings.push(error.to_string()),
            }
            store.close().await;
        }
        Err(error) => findings.push(StartError::from(error).to_string()),
    }
    let vouchers = config.data_dir.join("vouchers.db");
    if vouchers.exists() {
        findings.extend(check_vouchers(&vouchers).await.err());
    }
    let journal = config.data_dir.join("chain.journal");
    if journal.exists() {
        let opened = tokio::task::spawn_blocking(move || {
            EmbeddedChain::open(&journal, Arc::new(clock::now)).map(drop)
        });
        match opened.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => findings.push(error.to_string()),
            Err(error) => findings.push(format!("the chain's journal: {error}")),
        }
    }
    let default = config.data_dir.join("operator.json");
    let wallet = config.wallet.as_ref().unwrap_or(&default);
    findings.extend(check_keystore(wallet).err());
    Ok(findings)
}

async fn check_vouchers(path: &Path) -> Result<(), String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let domain = contract(path).await.map_err(|e| failed(e.to_string()))?;
    // Without a contract, nothing has ever been written to it.
    let Some(domain) = domain else { return Ok(()) };
    let store = VoucherStore::open(path, domain).await;
    store.map_err(|error| error.to_string())?.close().await;
    Ok(())
}

/// Whose vouchers a file holds.
async fn contract(path: &Path) -> Result<Option<Domain>, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await?;
    let row = sqlx::query("SELECT chain_id, address FROM contract")
        .fetch_optional(&mut connection)
        .await?;
    connection.close().await?;
    let Some(row) = row else { return Ok(None) };
    let (chain_id, address): (Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    let read = || {
        Some(Domain {
            chain_id: u64::from_be_bytes(chain_id.try_into().ok()?),
            contract: Address::try_from(address.as_slice()).ok()?,
        })
    };
    let domain = read().ok_or_else(|| sqlx::Error::Decode("the contract can't be read".into()))?;
    Ok(Some(domain))
}

fn check_keystore(path: &Path) -> Result<(), String> {
    let failed = |reason: String| format!("the operator's wallet {}: {reason}", path.display());
    let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    let keystore: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
    let sealed = keystore.get("crypto").or_else(|| keystore.get("Crypto"));
    sealed
        .map(drop)
        .ok_or_else(|| failed("it is no keystore".into()))
}
