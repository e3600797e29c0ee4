//! Transactions for a payer that this program has no key of, a contract wallet most often: printed for it to execute.

use ipsx_metering::Address;
use ipsx_settlement::Transaction;
use serde_json::json;

use crate::network::Network;
use crate::output::Output;

/// What a payer is to execute, each transaction under a line that says what it does.
pub(crate) struct HandOver {
    pub(crate) payer: Address,
    pub(crate) calls: Vec<(String, Transaction)>,
}

impl HandOver {
    /// Prints them for people, or for programs.
    pub(crate) fn show(&self, network: &Network, output: &Output) {
        let chain_id = network.info.domain.chain_id;
        output.line(format!("{} must execute, on chain {chain_id}:", self.payer));
        let mut transactions = Vec::new();
        for (what, call) in &self.calls {
            let to = call.to.unwrap_or_default();
            output.line(format!("\n{what}"));
            output.line(format!("to     {to}"));
            output.line(format!("value  {}", call.value));
            output.line(format!("data   {}", call.data));
            transactions.push(json!({
                "description": what,
                "to": to,
                "value": call.value.to_string(),
                "data": call.data,
            }));
        }
        output.line("");
        output.json(&json!({
            "payer": self.payer,
            "chain_id": chain_id,
            "transactions": transactions,
        }));
    }
}
