//! What has changed, for whoever waits for it, and for the operator's figures.

use ipsx_market::record::{DealRecord, Transition};
use ipsx_market::resting::{RequestRecord, RequestStatus};
use ipsx_metering::{Address, DealId, RequestId};
use serde::{Deserialize, Serialize};

use super::Desk;

/// Something has changed, and the change is on disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) of: Changed,
    pub(crate) requester: Address,
}

impl News {
    /// Something that another broker told is lost.
    pub(crate) const LOST: Self = Self {
        of: Changed::Anything,
        requester: Address::ZERO,
    };
}

/// What news are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Changed {
    Deal(DealId),
    Request(RequestId),
    /// Nobody knows what: something that another broker said is lost.
    Anything,
}

impl Desk {
    pub(super) fn report(&self, record: &DealRecord, transitions: &[Transition]) {
        self.metrics.transitions.inc_by(transitions.len() as u64);
        for t in transitions {
            tracing::info!(
                deal = %t.deal_id, side = ?t.side, status = %t.status(), cause = %t.cause, "deal changed"
            );
        }
        let ended_now =
            !transitions.is_empty() && record.over_at == transitions.last().map(|t| t.at);
        let was_over = transitions
            .first()
            .is_some_and(|t| record.over_at.is_some_and(|at| at < t.at));
        if record.status().is_over() && ended_now && !was_over {
            let status = record.status();
            self.metrics
                .deals_over
                .with_label_values(&[status.as_str()])
                .inc();
        }
        if record.status().is_over() {
            self.mailboxes.close(record.deal_id);
            if let Some(relay) = &self.relay {
                relay.close(record.deal_id);
            }
        }
        self.announce(News {
            of: Changed::Deal(record.deal_id),
            requester: record.deal.requester,
        });
    }

    /// Tells whoever waits, here and at other brokers.
    fn announce(&self, news: News) {
        if let Some(fleet) = &self.fleet {
            fleet.tell(news);
        }
        self.spread(news);
    }

    /// Tells whoever waits at this broker.
    pub(crate) fn spread(&self, news: News) {
        // Nobody may be waiting.
        let _ = self.news.send(news);
    }

    pub(super) fn report_request(&self, record: &RequestRecord) {
        let (id, status) = (record.id(), record.status.as_str());
        tracing::info!(request = %id, status, "request changed");
        if record.status != RequestStatus::Resting && record.has_rested() {
            self.metrics.resting_over(status);
        }
        self.announce(News {
            of: Changed::Request(id),
            requester: record.request.message.requester,
        });
    }
}
