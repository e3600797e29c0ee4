//! `ipsx appeal`: tells the operator what this provider's address is, when the databases have it wrong.

use ipsx_market::proof::Appeal;
use ipsx_metering::Signed;
use serde_json::json;

use crate::broker::Broker;
use crate::cli::AppealArgs;
use crate::clock::unix_now;
use crate::config::Settings;
use crate::exit_code::Failure;
use crate::network::Network;
use crate::output::Output;
use crate::wallet;

/// Runs it.
pub(crate) async fn run(
    args: AppealArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    let wallet = wallet::open(settings).await?;
    let broker = Broker::new(&settings.broker);
    let network = Network::join(settings, &broker).await?;
    let appeal = Appeal {
        network: network.info.network,
        provider: ipsx_settlement::Signer::address(wallet.as_ref()),
        address: args.address,
        address_type: args.address_type,
        text: args.text,
        at: unix_now(),
    };
    let signed = Signed::sign(appeal, &network.info.domain, wallet.key());
    broker.appeal(&signed).await?;
    output.json(&json!({ "appeal": signed }));
    output.line(format!(
        "the operator has it: {} is {}; what it says to that comes with the offer's place",
        signed.message.address, signed.message.address_type
    ));
    Ok(())
}
