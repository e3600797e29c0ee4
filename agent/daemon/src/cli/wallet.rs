//! The wallet, its deposit, and what was earned: `wallet`, `deposit`, `settle`, `withdraw`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipsx_metering::{Address, Amount};

use super::{address, duration};
use crate::amount;

/// `ipsx wallet …`
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// Draw a new key and seal it with a passphrase
    New(NewWalletArgs),
    /// Import a private key, a recovery phrase or another keystore file
    Import(ImportArgs),
    /// Let session keys spend from a deposit: this wallet's own, or another payer's, who then executes what is printed
    Authorize(AuthorizeArgs),
    /// Take back the session keys that may spend from the deposit
    Revoke(RevokeArgs),
    /// Show the address, the deposit, the tokens and the gas
    Show,
}

/// `ipsx wallet new`
#[derive(Debug, Args)]
pub struct NewWalletArgs {
    /// Derive it from 24 words that are shown once, to be written down (BIP-39)
    #[arg(long)]
    pub phrase: bool,
}

/// `ipsx wallet import …`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// File with a private key in hex; `-` reads it from standard input
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["keystore", "phrase_file"],
        conflicts_with_all = ["keystore", "phrase_file"]
    )]
    pub key: Option<PathBuf>,
    /// File with the words of a recovery phrase on one line (BIP-39, English); `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "keystore")]
    pub phrase_file: Option<PathBuf>,
    /// An encrypted keystore (Web3 Secret Storage, version 3)
    #[arg(long, value_name = "FILE")]
    pub keystore: Option<PathBuf>,
    /// File with the other keystore's passphrase [default: asked for]
    #[arg(long, value_name = "FILE", requires = "keystore")]
    pub keystore_passphrase_file: Option<PathBuf>,
}

/// `ipsx wallet authorize`
#[derive(Clone, Debug, Args)]
pub struct AuthorizeArgs {
    /// Session keys, by address [default: those of this wallet]
    #[arg(value_name = "KEY", value_parser = address::parse)]
    pub keys: Vec<Address>,
    /// Whose deposit they may spend: prints the transactions for that wallet to execute [default: this wallet, at once]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub payer: Option<Address>,
    /// How long, such as 12h or 30d; a lease needs a key that lasts a day longer
    #[arg(long = "for", value_name = "TIME", default_value = "30d", value_parser = duration::parse)]
    pub seconds: u32,
    /// How many leases this wallet may run at once: each needs a key of its own
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "keys",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::store::SLOTS)))]
    pub leases: u32,
}

/// `ipsx wallet revoke`
#[derive(Clone, Debug, Default, Args)]
pub struct RevokeArgs {
    /// Session keys, by address [default: those of this wallet]
    #[arg(value_name = "KEY", value_parser = address::parse)]
    pub keys: Vec<Address>,
    /// Whose deposit they may spend: prints the transactions for that wallet to execute [default: this wallet, at once]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub payer: Option<Address>,
}

/// `ipsx deposit`
#[derive(Clone, Debug, Args)]
pub struct DepositArgs {
    /// How many tokens
    #[arg(value_name = "AMOUNT", value_parser = amount::parse)]
    pub amount: Amount,
    /// Whose deposit [default: this wallet's]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub payer: Option<Address>,
}

/// `ipsx settle`
#[derive(Clone, Debug, Args)]
pub struct SettleArgs {
    /// Submit without asking
    #[arg(long)]
    pub yes: bool,
    /// Show what would be claimed, the fee and the gas, and submit nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
}

/// `ipsx withdraw …`
#[derive(Debug, Subcommand)]
pub enum WithdrawCommand {
    /// Take the deposit back: at once with the operator's consent, or within 48 hours without
    Deposit(WithdrawDepositArgs),
    /// Take what was earned from the payout addresses
    Credits(WithdrawCreditsArgs),
}

/// `ipsx withdraw deposit`
#[derive(Clone, Debug, Args)]
pub struct WithdrawDepositArgs {
    /// How many tokens; all that is free when left out
    #[arg(value_name = "AMOUNT", value_parser = amount::parse)]
    pub amount: Option<Amount>,
    /// Who receives them [default: this wallet]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub to: Option<Address>,
    /// Do it against the operator: request now, run again after 48 h to take
    #[arg(long)]
    pub without_operator: bool,
    /// Whose deposit: prints the transaction for that wallet to execute, now and again after 48 h [default: this wallet's]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub payer: Option<Address>,
}

/// `ipsx withdraw credits`
#[derive(Clone, Debug, Args)]
pub struct WithdrawCreditsArgs {
    /// Who receives the tokens [default: this wallet]
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    pub to: Option<Address>,
}
