//! What anybody may see of the network: what is on the chain, and what the operator has promised, without names.

use std::collections::BTreeMap;
use std::time::Duration;

use ipsx_market::evidence::DatabaseBuild;
use ipsx_market::status::DealStatus;
use ipsx_metering::openapi::{AddressText, HashText};
use ipsx_metering::{Address, Amount, B256, ChannelId, Domain, NetworkId, UnixSeconds};
use ipsx_settlement::Totals;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Desk, DeskError};

/// It is computed anew at most this often, whoever asks.
const FRESH: Duration = Duration::from_secs(2);
/// Most channels and claims that are listed; sums are over all.
const LISTED: usize = 200;
/// Claims are looked for in so many of the newest blocks of a chain that others run.
const BLOCKS: u64 = 10_000;

/// The latest overview, and when it was made.
pub(super) type Cached = Option<(Instant, Overview)>;

/// The network at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Overview {
    /// The network.
    pub(crate) network: NetworkId,
    /// Chain and contract.
    pub(crate) domain: Domain,
    /// The operator's wallet.
    #[schema(value_type = AddressText)]
    pub(crate) operator: Address,
    /// Who receives the fees.
    #[schema(value_type = AddressText)]
    pub(crate) treasury: Address,
    /// The fee in basis points.
    pub(crate) fee_bps: u16,
    /// What covers the operator's mistakes.
    pub(crate) bond: Amount,
    /// The part of it that notice was given for.
    pub(crate) bond_leaving: Amount,
    /// Height of the newest block.
    pub(crate) height: u64,
    /// Its time.
    pub(crate) block_time: UnixSeconds,
    /// Everything the contract holds; `None` on a chain that others run, where adding it up would read all its history.
    #[schema(value_type = Option<BTreeMap<String, Amount>>)]
    pub(crate) totals: Option<Totals>,
    /// Offers in the book.
    pub(crate) offers: usize,
    /// Those that need no proof of their address, or have one.
    pub(crate) for_sale: u64,
    /// The databases that say where addresses are.
    #[schema(max_items = 3)]
    pub(crate) databases: Vec<DatabaseBuild>,
    /// Deals that are going on, by status.
    pub(crate) deals: BTreeMap<String, usize>,
    /// Deposits that the operator watches.
    pub(crate) payers: usize,
    /// What it has promised of them.
    pub(crate) promised: Amount,
    /// Channels with promises that can still be claimed, the one that ends last first.
    pub(crate) channels: Vec<ChannelLine>,
    /// Claims that were paid, the newest first.
    pub(crate) claims: Vec<ClaimLine>,
    /// Moved by the claims that are listed.
    pub(crate) claimed: Amount,
    /// The network's part of it.
    pub(crate) fees: Amount,
}

/// A channel with its latest reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ChannelLine {
    /// Its id; whose it is, is not said.
    pub(crate) channel: ChannelId,
    /// Highest amount that is promised to be covered.
    pub(crate) capacity: Amount,
    /// Claimed so far.
    pub(crate) claimed: Amount,
    /// Set aside on the chain.
    pub(crate) held: Amount,
    /// Until when vouchers may be signed against it.
    pub(crate) valid_until: UnixSeconds,
}

/// A claim as the contract logged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ClaimLine {
    /// The channel.
    pub(crate) channel: ChannelId,
    /// Its transaction.
    #[schema(value_type = HashText)]
    pub(crate) transaction: B256,
    /// Height of its block.
    pub(crate) block: u64,
    /// Moved by it, fee included.
    pub(crate) paid: Amount,
    /// The network's part of it.
    pub(crate) fee: Amount,
}

impl Desk {
    /// The network now, or a moment ago.
    pub(crate) async fn overview(&self) -> Result<Overview, DeskError> {
        let mut cached = self.overview.lock().await;
        if let Some((made, overview)) = cached.as_ref()
            && made.elapsed() < FRESH
        {
            return Ok(overview.clone());
        }
        let overview = self.look_over().await?;
        *cached = Some((Instant::now(), overview.clone()));
        Ok(overview)
    }

    async fn look_over(&self) -> Result<Overview, DeskError> {
        let contract = self.operator.centralizer();
        let network = self.operator.network();
        let head = contract.chain().head().await;
        let head = head.map_err(ipsx_settlement::ContractError::Chain)?;
        let state = contract.network(network).await?;
        let own_chain = self.operator.embedded().is_some();
        let totals = if own_chain {
            Some(contract.totals().await?)
        } else {
            None
        };
        let from = if own_chain {
            0
        } else {
            head.number.saturating_sub(BLOCKS)
        };
        let mut claims: Vec<_> = contract.claims_since(from).await?;
        claims.reverse();
        claims.truncate(LISTED);
        let claims: Vec<_> = claims
            .into_iter()
            .map(|(channel, claim)| ClaimLine {
                channel,
                transaction: claim.transaction,
                block: claim.block,
                paid: claim.paid,
                fee: claim.fee,
            })
            .collect();
        let books = self.books().await?;
        let mut deals = BTreeMap::new();
        for record in books.market.deals() {
            *deals.entry(name(record.status())).or_default() += 1;
        }
        let accounts = || books.ledger.accounts().map(|(_, account)| account);
        let mut channels: Vec<_> = accounts()
            .flat_map(|account| account.channels.iter())
            .map(|(channel, exposure)| ChannelLine {
                channel: *channel,
                capacity: exposure.capacity(),
                claimed: exposure.claimed,
                held: exposure.held,
                valid_until: exposure
                    .promises
                    .iter()
                    .map(|p| p.valid_until)
                    .max()
                    .unwrap_or_default(),
            })
            .collect();
        channels.sort_by_key(|line| std::cmp::Reverse((line.valid_until, line.channel)));
        channels.truncate(LISTED);
        Ok(Overview {
            network,
            domain: self.operator.domain(),
            operator: state.operator,
            treasury: state.treasury,
            fee_bps: state.fee_bps,
            bond: state.bond,
            bond_leaving: state.bond_pending,
            height: head.number,
            block_time: head.timestamp,
            totals,
            offers: books.market.book().len(),
            for_sale: books.market.book().for_sale(),
            databases: self.placer.builds(),
            deals,
            payers: accounts().count(),
            promised: accounts().map(|account| account.committed()).sum(),
            channels,
            claimed: claims.iter().map(|claim| claim.paid).sum(),
            fees: claims.iter().map(|claim| claim.fee).sum(),
            claims,
        })
    }
}

/// The status as JSON has it.
fn name(status: DealStatus) -> String {
    let value = serde_json::to_value(status).ok();
    let name = value.as_ref().and_then(|value| value.as_str());
    name.unwrap_or("unknown").to_string()
}
