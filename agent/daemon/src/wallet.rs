//! The wallet in the data folder, and the passphrase that opens it.

mod hand_over;
mod phrase;
mod session_keys;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;

use ipsx_settlement::{KeystoreError, Passphrase, Phrase, Signer, Wallet};
use zeroize::Zeroizing;

use crate::amount;
use crate::broker::Broker;
use crate::cli::{ImportArgs, WalletCommand};
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, chain_failure, contract_failure};
use crate::output::Output;
pub(crate) use hand_over::HandOver;

/// Environment variable with the passphrase itself.
const PASSPHRASE_ENV: &str = "IPSX_PASSPHRASE";
/// The shortest passphrase that a new wallet may have, in characters.
const SHORTEST_PASSPHRASE: usize = 8;

/// Runs `ipsx wallet …`.
pub(crate) async fn run(
    command: WalletCommand,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        WalletCommand::New(args) if args.phrase => phrase::create(settings, output).await,
        WalletCommand::New(_) => {
            let path = settings.wallet_file();
            refuse_existing(&path)?;
            let passphrase = new_passphrase(settings)?;
            let wallet = blocking(move || Wallet::create(&path, &passphrase)).await?;
            created(&wallet, settings, output);
            Ok(())
        }
        WalletCommand::Import(args) => import(args, settings, output).await,
        WalletCommand::Authorize(args) => session_keys::authorize(args, settings, output).await,
        WalletCommand::Revoke(args) => session_keys::revoke(args, settings, output).await,
        WalletCommand::Show => show(settings, output).await,
    }
}

/// Opens the wallet of the data folder.
pub(crate) async fn open(settings: &Settings) -> Result<Arc<Wallet>, Failure> {
    let path = settings.wallet_file();
    if !path.exists() {
        return Err(KeystoreError::Missing(path).into());
    }
    let passphrase = passphrase(settings, "Passphrase: ")?;
    blocking(move || Wallet::open(&path, &passphrase))
        .await
        .map(Arc::new)
}

impl From<KeystoreError> for Failure {
    fn from(error: KeystoreError) -> Self {
        let hint = match &error {
            KeystoreError::WrongPassphrase(_) => {
                "; check --passphrase-file, IPSX_PASSPHRASE or what you typed: nobody can recover it"
            }
            _ => "",
        };
        Self::new(ExitCode::Wallet, format!("{error}{hint}"))
    }
}

/// Key derivation takes a second of one core: kept off the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeystoreError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Failure::from),
        Err(error) => Err(Failure::internal(format!(
            "the wallet's key derivation failed: {error}"
        ))),
    }
}

async fn import(args: ImportArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    let path = settings.wallet_file();
    refuse_existing(&path)?;
    let wallet = if let Some(source) = args.key {
        let key = read_secret(&source, "the private key")?;
        let passphrase = new_passphrase(settings)?;
        blocking(move || Wallet::import_key(&path, &key, &passphrase)).await?
    } else if let Some(source) = args.phrase_file {
        let phrase = Phrase::parse(&read_secret(&source, "the phrase")?)?;
        let passphrase = new_passphrase(settings)?;
        blocking(move || Wallet::import_phrase(&path, &phrase, &passphrase)).await?
    } else {
        let source = args
            .keystore
            .ok_or_else(|| Failure::usage("name --key, --phrase-file or --keystore"))?;
        let theirs = match args.keystore_passphrase_file {
            Some(file) => passphrase_from(&file)?,
            None => prompt(&format!("Passphrase of {}: ", source.display()))?,
        };
        let passphrase = new_passphrase(settings)?;
        blocking(move || Wallet::import_keystore(&path, &source, &theirs, &passphrase)).await?
    };
    created(&wallet, settings, output);
    Ok(())
}

fn created(wallet: &Wallet, settings: &Settings, output: &Output) {
    let path = settings.wallet_file();
    output.json(&serde_json::json!({ "address": wallet.address(), "file": path }));
    output.line(format!("wallet   {}", wallet.address()));
    output.line(format!("file     {}", path.display()));
    output.line("Keep a copy of the file and its passphrase: nobody else can restore them.");
}

async fn show(settings: &Settings, output: &Output) -> Result<(), Failure> {
    let wallet = open(settings).await?;
    let owner = wallet.address();
    let network = match Network::join(settings, &Broker::new(&settings.broker)).await {
        Ok(network) => network,
        // The address is worth showing without a network.
        Err(failure) if failure.code == ExitCode::Unreachable => {
            output.json(&serde_json::json!({ "address": owner, "file": settings.wallet_file() }));
            output.line(format!("address  {owner}"));
            output.note(format!("balances are unknown: {failure}"));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let contract = &network.contract;
    let account = contract
        .account(network.info.network, owner)
        .await
        .map_err(contract_failure)?;
    let tokens = contract
        .token_balance(owner)
        .await
        .map_err(contract_failure)?;
    let gas = contract
        .chain()
        .balance(owner)
        .await
        .map_err(chain_failure)?;
    output.json(&serde_json::json!({
        "address": owner,
        "file": settings.wallet_file(),
        "network": network.info.network,
        "deposit": account.balance,
        "pending": account.pending,
        "tokens": tokens,
        "gas_wei": gas.to_string(),
    }));
    output.line(format!("address  {owner}"));
    output.line(format!("network  {}", network.info.network));
    output.line(format!("deposit  {}", amount::tokens(account.balance)));
    if account.pending.0 > 0 {
        output.line(format!("leaving  {}", amount::tokens(account.pending)));
    }
    output.line(format!("tokens   {}", amount::tokens(tokens)));
    output.line(format!("gas      {gas} wei"));
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        Err(KeystoreError::Exists(path.into()).into())
    } else {
        Ok(())
    }
}

/// The passphrase by file, environment or prompt, in this order.
pub(crate) fn passphrase(settings: &Settings, question: &str) -> Result<Passphrase, Failure> {
    if let Some(file) = &settings.passphrase_file {
        return passphrase_from(file);
    }
    if let Ok(text) = std::env::var(PASSPHRASE_ENV) {
        return Ok(Passphrase::new(text));
    }
    prompt(question)
}

/// The passphrase of a wallet that is being made: long enough and, when typed, typed twice.
fn new_passphrase(settings: &Settings) -> Result<Passphrase, Failure> {
    let given = match &settings.passphrase_file {
        Some(file) => Some(read_secret(file, "the passphrase")?),
        None => std::env::var(PASSPHRASE_ENV).ok().map(Zeroizing::new),
    };
    let text = match given {
        Some(text) => text,
        None => {
            let first = ask("New passphrase: ")?;
            if *first != *ask("The same again: ")? {
                return Err(Failure::new(
                    ExitCode::Wallet,
                    "the two passphrases differ; no wallet was made",
                ));
            }
            first
        }
    };
    if text.chars().count() < SHORTEST_PASSPHRASE {
        return Err(Failure::new(
            ExitCode::Wallet,
            format!(
                "the passphrase is shorter than {SHORTEST_PASSPHRASE} characters; no wallet was made, choose a longer one"
            ),
        ));
    }
    Ok(Passphrase::from(text))
}

fn passphrase_from(file: &Path) -> Result<Passphrase, Failure> {
    read_secret(file, "the passphrase").map(Passphrase::from)
}

/// The first line of a file, or of standard input for `-`.
fn read_secret(file: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::new(
            ExitCode::Wallet,
            format!("{what} cannot be read from {}: {error}", file.display()),
        )
    })?;
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_string(),
    ))
}

fn prompt(question: &str) -> Result<Passphrase, Failure> {
    ask(question).map(Passphrase::from)
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    let nobody = || {
        Failure::new(
            ExitCode::Wallet,
            "the wallet needs a passphrase and there is no terminal to ask; use --passphrase-file or IPSX_PASSPHRASE",
        )
    };
    if !std::io::stdin().is_terminal() {
        return Err(nobody());
    }
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|_| nobody())
}
