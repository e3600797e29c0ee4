//! `ipsx deposit`: tokens into the deposit that pays for leases.

use ipsx_metering::Amount;
use ipsx_settlement::Signer;
use serde_json::json;

use crate::amount;
use crate::broker::Broker;
use crate::cli::DepositArgs;
use crate::clock::unix_now;
use crate::config::Settings;
use crate::connect::{Requester, end_unfinished};
use crate::exit_code::{ExitCode, Failure};
use crate::network::{Network, chain_failure, contract_failure};
use crate::output::Output;
use crate::wallet;

/// A permit counts this long, in seconds.
const PERMIT_SECS: u64 = 3_600;

/// Runs it.
pub(crate) async fn run(
    args: DepositArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    if args.amount == Amount::ZERO {
        return Err(Failure::usage(
            "a deposit of 0 changes nothing; name how many tokens",
        ));
    }
    // The passphrase before the network: it is what is wrong most often.
    let wallet = wallet::open(settings).await?;
    let broker = Broker::new(&settings.broker);
    let network = Network::join(settings, &broker).await?;
    let requester = Requester::new(wallet, network, broker, &settings.data).paying_from(args.payer);
    end_unfinished(&requester, &settings.data, output).await?;
    let balance = deposit(&requester, args.amount).await?;
    output.json(&json!({
        "address": requester.payer,
        "amount": args.amount,
        "deposit": balance,
    }));
    output.line(format!(
        "deposited {}; the deposit of {} is {}",
        amount::tokens(args.amount),
        requester.payer,
        amount::tokens(balance)
    ));
    Ok(())
}

/// Deposits, in one transaction with a permit. Returns the deposit's new balance.
pub(crate) async fn deposit(requester: &Requester, amount: Amount) -> Result<Amount, Failure> {
    let (contract, network) = (&requester.network.contract, requester.network.info.network);
    let owner = requester.wallet.address();
    let tokens = contract
        .token_balance(owner)
        .await
        .map_err(contract_failure)?;
    if tokens < amount {
        return Err(Failure::new(
            ExitCode::Balance,
            format!(
                "{owner} has {}, less than the {} to deposit; send it tokens first, or deposit less",
                amount::tokens(tokens),
                amount::tokens(amount)
            ),
        ));
    }
    let fees = contract.chain().fees().await.map_err(chain_failure)?;
    let gas = contract
        .chain()
        .balance(owner)
        .await
        .map_err(chain_failure)?;
    if fees.max_fee_per_gas > 0 && gas.is_zero() {
        return Err(Failure::new(
            ExitCode::Balance,
            format!(
                "{owner} has no gas money for the transaction; send it some of the chain's own coin first"
            ),
        ));
    }
    let deadline = unix_now().after(PERMIT_SECS);
    let wallet = requester.wallet.as_ref();
    let permit = contract
        .sign_permit(wallet, amount, deadline)
        .await
        .map_err(contract_failure)?;
    contract
        .deposit_with_permit(wallet, network, requester.payer, &permit)
        .await
        .map_err(contract_failure)?;
    Ok(contract
        .account(network, requester.payer)
        .await
        .map_err(contract_failure)?
        .balance)
}
