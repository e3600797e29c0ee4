//! `ipsx withdraw`: tokens out of the deposit, or out of what was earned.

use std::collections::HashMap;

use ipsx_market::http::{PostWithdrawal, ProblemKind};
use ipsx_metering::{Amount, CLAIM_WINDOW, ChannelId, CreditsTransfer, EXIT_DELAY, Signed};
use ipsx_settlement::{Signer, Wallet};
use serde_json::json;

use crate::amount;
use crate::broker::Broker;
use crate::cli::{WithdrawCommand, WithdrawCreditsArgs, WithdrawDepositArgs};
use crate::clock::unix_now;
use crate::config::Settings;
use crate::connect::{self, Requester};
use crate::earnings;
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, contract_failure};
use crate::output::Output;
use crate::wallet::{self, HandOver};

/// A signed payout of credits counts this long, in seconds.
const TRANSFER_SECS: u64 = 3_600;

/// Runs it.
pub(crate) async fn run(
    command: WithdrawCommand,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        WithdrawCommand::Deposit(args) if args.without_operator || args.payer.is_some() => {
            alone(args, settings, output).await
        }
        WithdrawCommand::Deposit(args) => with_operator(args, settings, output).await,
        WithdrawCommand::Credits(args) => credits(args, settings, output).await,
    }
}

async fn with_operator(
    args: WithdrawDepositArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let requester = connect::open(settings, output).await?;
    let (mut amount, to) = wanted(&requester, &args).await?;
    let ask = async |amount| {
        requester
            .session
            .withdrawal(&PostWithdrawal { to, amount })
            .await
    };
    let withdrawal = match ask(amount).await {
        Err(error) if error.kind() == Some(ProblemKind::InsufficientDeposit) => {
            let promised = promised(&requester).await?;
            let free = amount.saturating_sub(promised);
            if args.amount.is_some() || free == Amount::ZERO || promised == Amount::ZERO {
                return Err(Failure::new(
                    ExitCode::Balance,
                    format!(
                        "the network has promised {} of the deposit to providers of the last leases; ask for less, wait up to 48 h until the promises lapse, or use --without-operator",
                        amount::tokens(promised)
                    ),
                ));
            }
            output.note(format!(
                "{} stay promised to providers of the last leases for up to 48 h",
                amount::tokens(promised)
            ));
            amount = free;
            ask(amount).await?
        }
        answer => answer?,
    };
    let signed = &withdrawal.message;
    let as_asked = signed.owner == requester.wallet.address()
        && signed.to == to
        && signed.amount == amount
        && signed.network == requester.network.info.network;
    if !as_asked {
        return Err(Failure::new(
            ExitCode::Refused,
            "the broker signed another withdrawal than was asked for; nothing was submitted, use --without-operator",
        ));
    }
    let contract = &requester.network.contract;
    contract
        .withdraw_with_operator(requester.wallet.as_ref(), &withdrawal)
        .await
        .map_err(contract_failure)?;
    output.json(&json!({ "amount": amount, "to": to }));
    output.line(format!("withdrew {} to {to}", amount::tokens(amount)));
    Ok(())
}

/// What the reservations of the last leases still promise beyond what was claimed.
async fn promised(requester: &Requester) -> Result<Amount, Failure> {
    let now = unix_now();
    let mut highest: HashMap<ChannelId, Amount> = HashMap::new();
    for record in requester.store.leases()? {
        let Some(reservation) = record
            .reservation
            .filter(|_| record.network == requester.network.info.network)
            .filter(|_| record.deal.payer == requester.wallet.address())
        else {
            continue;
        };
        let reservation = reservation.message;
        if reservation.valid_until.after(CLAIM_WINDOW) >= now {
            let capacity = highest.entry(reservation.channel_id).or_default();
            *capacity = (*capacity).max(reservation.capacity);
        }
    }
    let mut promised = Amount::ZERO;
    for (channel, capacity) in highest {
        let claimed = requester
            .network
            .contract
            .claimed(channel)
            .await
            .map_err(contract_failure)?;
        promised = promised.saturating_add(capacity.saturating_sub(claimed));
    }
    Ok(promised)
}

/// What is asked for, within what there is.
async fn wanted(
    requester: &Requester,
    args: &WithdrawDepositArgs,
) -> Result<(Amount, ipsx_metering::Address), Failure> {
    let owner = requester.wallet.address();
    let account = requester
        .network
        .contract
        .account(requester.network.info.network, owner)
        .await;
    let balance = account.map_err(contract_failure)?.balance;
    let amount = args.amount.unwrap_or(balance);
    if amount == Amount::ZERO || amount > balance {
        return Err(Failure::new(
            ExitCode::Balance,
            format!(
                "the deposit of {owner} is {}; there is no more to withdraw",
                amount::tokens(balance)
            ),
        ));
    }
    Ok((amount, args.to.unwrap_or(owner)))
}

/// Against the operator: the first run asks, a run after 48 hours takes.
async fn alone(
    args: WithdrawDepositArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    // Another payer's transactions are its own to sign.
    let wallet = match args.payer {
        None => Some(wallet::open(settings).await?),
        Some(_) => None,
    };
    let network = Network::join(settings, &Broker::new(&settings.broker)).await?;
    let (contract, id) = (&network.contract, network.info.network);
    let own = wallet.as_ref().map(|wallet| wallet.address());
    let owner = args.payer.or(own).unwrap_or_default();
    let hand_over = |what: String, transaction| {
        let calls = vec![(what, transaction)];
        let payer = owner;
        HandOver { payer, calls }.show(&network, output);
    };
    let account = contract
        .account(id, owner)
        .await
        .map_err(contract_failure)?;
    let now = contract
        .chain()
        .head()
        .await
        .map_err(crate::network::chain_failure)?
        .timestamp;
    let possible = account.requested_at.after(EXIT_DELAY);
    if account.pending > Amount::ZERO && now > possible {
        let to = args.to.unwrap_or(owner);
        let amount = account.pending.min(account.balance);
        let Some(wallet) = &wallet else {
            let what = format!("withdraw {} to {to}", amount::tokens(amount));
            hand_over(what, contract.withdraw_transaction(id, to));
            return Ok(());
        };
        contract
            .withdraw(wallet.as_ref(), id, to)
            .await
            .map_err(contract_failure)?;
        output.json(&json!({ "amount": amount, "to": to }));
        output.line(format!("withdrew {} to {to}", amount::tokens(amount)));
        return Ok(());
    }
    let amount = args.amount.unwrap_or(account.balance);
    if account.pending == amount && amount > Amount::ZERO {
        output.json(&json!({ "pending": amount, "possible_from": possible }));
        let wait = crate::cli::duration::format(possible.since(now));
        output.line(format!(
            "{} can be taken in {wait}; run the same command again then",
            amount::tokens(amount)
        ));
        return Ok(());
    }
    if amount == Amount::ZERO || amount > account.balance {
        return Err(Failure::new(
            ExitCode::Balance,
            format!(
                "the deposit of {owner} is {}; ask for no more than that",
                amount::tokens(account.balance)
            ),
        ));
    }
    let Some(wallet) = &wallet else {
        let what = format!("ask for {}", amount::tokens(amount));
        hand_over(what, contract.request_withdraw_transaction(id, amount));
        output.line("Run the same command again in 48 h for the transaction that takes it; nobody can refuse.");
        return Ok(());
    };
    contract
        .request_withdraw(wallet.as_ref(), id, amount)
        .await
        .map_err(contract_failure)?;
    output.json(&json!({ "pending": amount, "possible_from": now.after(EXIT_DELAY) }));
    output.line(format!(
        "asked for {}; run the same command again in 48 h to take it, nobody can refuse",
        amount::tokens(amount)
    ));
    Ok(())
}

async fn credits(
    args: WithdrawCreditsArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let wallet = wallet::open(settings).await?;
    let network = Network::join(settings, &Broker::new(&settings.broker)).await?;
    let to = args.to.unwrap_or_else(|| wallet.address());
    let mut paid = Vec::new();
    for key in earnings::payout_keys(&wallet, settings, &network).await? {
        if let Some(amount) = pay_out(&wallet, &network, &key, to).await? {
            output.line(format!(
                "{:>16}  from {}",
                amount::tokens(amount),
                key.address()
            ));
            paid.push((key.address(), amount));
        }
    }
    let total: Amount = paid.iter().map(|(_, amount)| *amount).sum();
    let rows: Vec<_> = paid
        .iter()
        .map(|(from, amount)| json!({ "from": from, "amount": amount }))
        .collect();
    output.json(&json!({ "amount": total, "to": to, "payouts": rows }));
    output.line(format!("withdrew {} to {to}", amount::tokens(total)));
    Ok(())
}

/// Pays one address's credits out: it signs, the wallet submits and pays the gas.
async fn pay_out(
    wallet: &Wallet,
    network: &Network,
    key: &Wallet,
    to: ipsx_metering::Address,
) -> Result<Option<Amount>, Failure> {
    let contract = &network.contract;
    let credits = contract
        .credits(key.address())
        .await
        .map_err(contract_failure)?;
    if credits.amount == Amount::ZERO {
        return Ok(None);
    }
    let transfer = CreditsTransfer {
        owner: key.address(),
        to,
        amount: credits.amount,
        nonce: credits.nonce,
        deadline: unix_now().after(TRANSFER_SECS),
    };
    let signed = Signed::sign(transfer, &network.info.domain, key.key());
    contract
        .transfer_credits(wallet, &signed)
        .await
        .map_err(contract_failure)?;
    Ok(Some(credits.amount))
}
