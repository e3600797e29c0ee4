//! Control datagrams: UDP between the peer's and the gateway's inner IPv4 address, at the control port.
//!
//! Their payload is opaque here. They pass a closed gate and are never part of usage, so their size and rate are
//! limited.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    time::Instant,
};

use crate::{
    drops::DropReason,
    gate::Bucket,
    packet::{Content, Headers},
};

/// Largest payload of a control datagram, in bytes.
pub const MAX_CONTROL_PAYLOAD: usize = 1200;

/// Control datagrams per second and direction.
const RATE: u64 = 50;

/// Control datagrams at once and per direction.
const BURST: u64 = 100;

/// A control datagram found in a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ControlPacket {
    pub(crate) payload: Range<usize>,
    pub(crate) source_port: u16,
}

/// Whether `packet`, travelling from or to the gateway, is a control datagram.
pub(crate) fn find(
    packet: &[u8],
    gateway: Ipv4Addr,
    port: u16,
    to_gateway: bool,
) -> Option<ControlPacket> {
    // Version 4, protocol UDP: everything else is told apart without parsing.
    if packet.len() < 28 || packet[0] >> 4 != 4 || packet[9] != 17 {
        return None;
    }
    let headers = Headers::parse(packet).ok()?;
    let Content::Udp {
        source_port,
        destination_port,
        payload_start,
        payload_end,
    } = headers.content
    else {
        return None;
    };
    let (end, end_port) = if to_gateway {
        (headers.destination, destination_port)
    } else {
        (headers.source, source_port)
    };
    (end == IpAddr::V4(gateway) && end_port == port).then_some(ControlPacket {
        payload: payload_start..payload_end,
        source_port,
    })
}

/// Limits one peer's control datagrams, each direction by itself.
#[derive(Debug)]
pub(crate) struct ControlLimits {
    inbound: Bucket,
    outbound: Bucket,
}

impl ControlLimits {
    pub(crate) fn new(now: Instant) -> Self {
        let bucket = Bucket::new(RATE, BURST, now);
        Self {
            inbound: bucket.clone(),
            outbound: bucket,
        }
    }

    pub(crate) fn pass_inbound(&mut self, payload: usize, now: Instant) -> Result<(), DropReason> {
        pass(&mut self.inbound, payload, now)
    }

    pub(crate) fn pass_outbound(&mut self, payload: usize, now: Instant) -> Result<(), DropReason> {
        pass(&mut self.outbound, payload, now)
    }
}

fn pass(bucket: &mut Bucket, payload: usize, now: Instant) -> Result<(), DropReason> {
    if payload > MAX_CONTROL_PAYLOAD {
        return Err(DropReason::ControlSize);
    }
    if bucket.take(1, now) {
        Ok(())
    } else {
        Err(DropReason::ControlRate)
    }
}
