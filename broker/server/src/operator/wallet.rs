//! The operator's wallet, and the passphrase that opens it.

use std::fs;
use std::io::Write;
use std::path::Path;

use ipsx_settlement::{KeystoreError, Passphrase, Wallet};

use super::random;
use crate::config::{BrokerConfig, ChainConfig, ConfigError};
use crate::error::StartError;

/// The keystore named by the configuration; with the embedded chain, one is made when there is none.
pub(super) async fn open_wallet(config: &BrokerConfig) -> Result<Wallet, StartError> {
    let default = config.data_dir.join("operator.json");
    let path = config.wallet.clone().unwrap_or(default);
    let passphrase = passphrase(config)?;
    let may_create = config.chain == ChainConfig::Embedded && config.wallet.is_none();
    // scrypt takes a good part of a second.
    let opened = tokio::task::spawn_blocking(move || {
        if may_create && !path.exists() {
            Wallet::create(&path, &passphrase)
        } else {
            Wallet::open(&path, &passphrase)
        }
    });
    let opened: Result<Wallet, KeystoreError> = opened
        .await
        .map_err(|e| StartError::Internal(e.to_string()))?;
    Ok(opened?)
}

fn passphrase(config: &BrokerConfig) -> Result<Passphrase, StartError> {
    if let Some(secret) = &config.passphrase {
        return Ok(Passphrase::new(secret.expose()));
    }
    if let Some(path) = &config.passphrase_file {
        return read_passphrase(path);
    }
    if config.chain != ChainConfig::Embedded || config.wallet.is_some() {
        return Err(StartError::Config(ConfigError::Missing {
            key: "passphrase_file".into(),
            because:
                "the operator's wallet needs its passphrase, here or in IPSX_BROKER_PASSPHRASE"
                    .into(),
            example: "\"/etc/ipsx/operator.passphrase\"".into(),
        }));
    }
    let path = config.data_dir.join("operator.passphrase");
    // Beside a wallet whose passphrase is lost, a new one would only hide what is wrong.
    if !path.exists() && !config.data_dir.join("operator.json").exists() {
        write_passphrase(&path).map_err(|error| StartError::Store {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    }
    read_passphrase(&path)
}

fn read_passphrase(path: &Path) -> Result<Passphrase, StartError> {
    let text = fs::read_to_string(path).map_err(|error| {
        StartError::Config(ConfigError::Value {
            key: "passphrase_file".into(),
            value: format!("{:?}", path.display()),
            source_name: None,
            allowed: format!("a file that this program may read ({error})"),
            example: "\"/etc/ipsx/operator.passphrase\"".into(),
        })
    })?;
    Ok(Passphrase::new(text.lines().next().unwrap_or_default()))
}

fn write_passphrase(path: &Path) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    writeln!(file, "{}", hex::encode(random::<24>()))?;
    file.sync_all()
}
