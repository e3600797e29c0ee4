//! Leases that are over, and what the broker is told about them, now or when it asks again.

use std::collections::{HashMap, VecDeque};

use ipsx_market::deal::Deal;
use ipsx_market::messages::{AgentMessage, EndCause, EndReport};
use ipsx_metering::{Amount, Close, DealId, Signed};

use super::command::Command;
use super::event::ProviderEvent;
use super::machine::Provider;

/// Ended leases that are kept in memory, for a broker that asks again.
const MOST: usize = 4_096;

/// What was said about the latest leases that are over.
#[derive(Debug, Default)]
pub(super) struct Ended {
    leases: HashMap<DealId, (EndReport, Deal)>,
    order: VecDeque<DealId>,
}

impl Ended {
    fn remember(&mut self, id: DealId, report: EndReport, deal: Deal) {
        if self.leases.insert(id, (report, deal)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.leases.remove(&oldest);
        }
    }
}

impl Provider {
    /// Says to the broker where a deal stands that it holds for unfinished.
    pub(super) fn account_for(&mut self, deal_id: DealId) {
        if let Some(lease) = self.leases.get(&deal_id) {
            let said = lease.announcement();
            self.commands.extend(said);
            return;
        }
        if let Some((report, deal)) = self.ended.leases.get(&deal_id).cloned() {
            return self.report_end(deal_id, report, &deal);
        }
        let report = EndReport {
            cause: EndCause::Restarted,
            usage: Default::default(),
            amount: Amount::ZERO,
            voucher: None,
        };
        let message = AgentMessage::LeaseEnded { deal_id, report };
        self.commands.push_back(Command::Send(message));
    }

    /// A lease is over and nothing more will come of it.
    pub(super) fn handle_gone(&mut self, id: DealId, report: EndReport, deal: Deal) {
        self.report_end(id, report.clone(), &deal);
        self.ended.remember(id, report, deal);
    }

    /// Ends a lease that was open when the program ended.
    pub(super) fn end_restarted(&mut self, deal: Deal) {
        let lease = deal.id();
        let state = self.channels.state(deal.channel().id());
        let progress = state.deal.filter(|progress| progress.deal_id == lease);
        let usage = progress.map(|progress| progress.usage).unwrap_or_default();
        let amount = deal.prices.due(&usage).unwrap_or(Amount::MAX);
        let base = progress.map_or(state.cumulative(), |progress| progress.base);
        let paid = state.cumulative().saturating_sub(base);
        let report = EndReport {
            cause: EndCause::Restarted,
            usage,
            amount,
            voucher: progress.and(state.voucher),
        };
        self.commands.push_back(Command::StoreEnd {
            lease,
            report: Box::new(report.clone()),
            answered: progress.and(state.answered).map(Box::new),
        });
        self.tell(ProviderEvent::LeaseEnded {
            lease,
            cause: EndCause::Restarted,
            usage,
            amount,
            paid,
        });
        self.ended.remember(lease, report, deal);
    }

    /// Tells the broker how a lease ended, and that its channel will not be claimed any further, which frees the
    /// rest of the payer's deposit.
    fn report_end(&mut self, deal_id: DealId, report: EndReport, deal: &Deal) {
        let message = AgentMessage::LeaseEnded { deal_id, report };
        self.commands.push_back(Command::Send(message));
        let channel_id = deal.channel().id();
        let reused = self
            .leases
            .values()
            .any(|lease| lease.channel_id == channel_id);
        if reused {
            return;
        }
        let close = Close {
            channel_id,
            cumulative: self.channels.state(channel_id).cumulative(),
        };
        let network = self.settings.network;
        let key = self.keys.payout_key(network.id, deal.requester);
        let close = Signed::sign(close, &network.domain, &key);
        let message = AgentMessage::CloseChannel { deal_id, close };
        self.commands.push_back(Command::Send(message));
    }
}
