//! The bodies and messages that are frozen, to begin with.

use ipsx_market::http::{EndDeal, PostRequest};
use ipsx_market::messages::{AgentMessage, EndReport, Ready};
use ipsx_market::offer::Offer;
use ipsx_market::request::SignedRequest;

/// One of each.
pub(super) struct Examples {
    pub(super) offer: Offer,
    pub(super) request: SignedRequest,
    pub(super) ready: Ready,
    pub(super) report: EndReport,
}

impl Examples {
    pub(super) fn new() -> Self {
        let offer = include_str!("../../../golden/messages/agent-publish-offer.json");
        let AgentMessage::PublishOffer { offer } = serde_json::from_str(offer).unwrap() else {
            panic!("that is an offer");
        };
        let request = include_str!("../../../golden/http/request.json");
        let ready = include_str!("../../../golden/messages/agent-lease-ready.json");
        let AgentMessage::LeaseReady { ready, .. } = serde_json::from_str(ready).unwrap() else {
            panic!("that is a lease that is ready");
        };
        let report = include_str!("../../../golden/http/end-deal.json");
        Self {
            offer: offer.message,
            request: serde_json::from_str::<PostRequest>(request)
                .unwrap()
                .request,
            ready,
            report: serde_json::from_str::<EndDeal>(report).unwrap().report,
        }
    }
}
