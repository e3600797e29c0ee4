//! What a client has done on each of its flows, for who wants to compare the provider's record with it.

use std::time::Instant;

use super::Device;
use crate::own_flows::{OwnFlows, OwnTraffic};

impl Device {
    /// Follows the flows from here on. Costs two look-ups for a packet.
    pub fn follow_flows(&mut self) {
        self.own_flows = Some(Box::new(OwnFlows::new(self.config.gateway_v4)));
    }

    /// Notes a packet that was delivered, if flows are followed; those that are sent are noted by themselves.
    pub fn note_received(&mut self, packet: &[u8], now: Instant) {
        if let Some(flows) = &mut self.own_flows {
            flows.note_received(packet, now);
        }
    }

    /// What happened on the flows since the last time.
    pub fn own_traffic(&mut self, now: Instant) -> OwnTraffic {
        let flows = self.own_flows.as_mut();
        flows.map_or_else(OwnTraffic::default, |flows| flows.take(now))
    }

    pub(super) fn note_sent(&mut self, packet: &[u8], now: Instant) {
        if let Some(flows) = &mut self.own_flows {
            flows.note_sent(packet, now);
        }
    }
}
