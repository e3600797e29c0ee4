//! Packets of one flow into one super-packet (GRO).

use std::ops::Range;

use super::{
    Gso, MAX_IP_PACKET, OffloadHeader, TCP_FLAGS, checksum,
    shape::{Flow, Payload, Shape},
    write_u16,
};

/// Most packets in a super-packet: the limit of Linux's UDP segmentation, and more than 64 kB of full packets.
const MAX_PIECES: usize = 64;

/// Flows that are looked at for the next packet; with more of them at once some are not continued.
const MAX_OPEN: usize = 32;

/// Ends the chain of a group's pieces.
const NO_PIECE: u32 = u32::MAX;

/// Joins the packets of a batch, which lie in one buffer (the arena) and stay there: a super-packet is a list of
/// ranges to be written one after the other.
///
/// Packets of a flow keep their order. Only packets with right checksums are joined; all others leave as they came.
#[derive(Debug)]
pub struct Merger {
    merges_udp: bool,
    groups: Vec<Group>,
    pieces: Vec<Piece>,
    /// Flows that may go on, as indices into `groups`.
    open: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Group {
    /// Where the first packet's payload was found; none for packets that go alone.
    payload: Option<Payload>,
    first: Range<usize>,
    first_piece: u32,
    last_piece: u32,
    count: usize,
    len: usize,
    /// Flags of all its packets together.
    flags: u8,
    verified: bool,
}

#[derive(Debug, Clone)]
struct Piece {
    range: Range<usize>,
    next: u32,
}

/// A packet to be written: the header, then every range of the arena in order.
#[derive(Debug)]
pub struct Merged<'m> {
    /// What goes in front.
    pub header: OffloadHeader,
    merger: &'m Merger,
    piece: u32,
}

impl Iterator for Merged<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let piece = self.merger.pieces.get(self.piece as usize)?;
        self.piece = piece.next;
        Some(piece.range.clone())
    }
}

impl Merger {
    /// A merger for TCP, and for UDP if the interface can cut it again.
    pub fn new(merges_udp: bool) -> Self {
        Self {
            merges_udp,
            groups: Vec::new(),
            pieces: Vec::new(),
            open: Vec::with_capacity(MAX_OPEN),
        }
    }

    /// Takes the packet at `range` of the arena.
    pub fn push(&mut self, arena: &[u8], range: Range<usize>) {
        let packet = &arena[range.clone()];
        match Shape::of(packet) {
            Shape::Payload(payload) if payload.flow.tcp || self.merges_udp => {
                self.push_payload(arena, range, payload);
            }
            Shape::Payload(Payload { flow, .. }) | Shape::Alone(flow) => {
                self.close(arena, packet, flow);
                self.start(range, None);
            }
            Shape::Unknown => {
                self.open.clear();
                self.start(range, None);
            }
            Shape::Foreign => {
                self.start(range, None);
            }
        }
    }

    /// Writes the headers of super-packets over those of their first packets. After this the batch is complete:
    /// write [`merged`](Self::merged), then [`clear`](Self::clear).
    pub fn finish(&mut self, arena: &mut [u8]) {
        self.open.clear();
        for group in self.groups.iter().filter(|group| group.count > 1) {
            if let Some(payload) = &group.payload {
                write_headers(&mut arena[group.first.clone()], payload, group);
            }
        }
    }

    /// The packets to write, in the order of their first parts.
    pub fn merged(&self) -> impl Iterator<Item = Merged<'_>> {
        self.groups.iter().map(|group| Merged {
            header: group.header(),
            merger: self,
            piece: group.first_piece,
        })
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Forgets the batch; its memory is kept for the next.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.pieces.clear();
        self.open.clear();
    }

    fn push_payload(&mut self, arena: &[u8], range: Range<usize>, payload: Payload) {
        let packet = &arena[range.clone()];
        let Some(at) = self.find(arena, packet, payload.flow) else {
            return self.open_group(range, payload);
        };
        let index = self.open[at];
        let group = &self.groups[index];
        if !group.goes_on_with(arena, packet, &payload) {
            self.open.swap_remove(at);
            return self.open_group(range, payload);
        }
        let first_is_right = group.verified || payload.flow.verify(&arena[group.first.clone()]);
        if !first_is_right {
            self.open.swap_remove(at);
            return self.open_group(range, payload);
        }
        self.groups[index].verified = true;
        if !payload.flow.verify(packet) {
            self.open.swap_remove(at);
            return self.start(range, None);
        }
        if self.append(index, &range, packet, &payload) {
            self.open.swap_remove(at);
        }
    }

    /// Adds a payload to a group; true if nothing may follow.
    fn append(
        &mut self,
        index: usize,
        range: &Range<usize>,
        packet: &[u8],
        payload: &Payload,
    ) -> bool {
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece {
            range: range.start + payload.headers..range.end,
            next: NO_PIECE,
        });
        let group = &mut self.groups[index];
        if let Some(last) = self.pieces.get_mut(group.last_piece as usize) {
            last.next = piece;
        }
        group.last_piece = piece;
        group.count += 1;
        group.len += payload.len;
        if payload.flow.tcp {
            group.flags |= packet[payload.flow.transport_start() + TCP_FLAGS];
        }
        let full = group.count == MAX_PIECES;
        let short = group.payload.is_some_and(|first| payload.len < first.len);
        payload.ends || short || full
    }

    fn open_group(&mut self, range: Range<usize>, payload: Payload) {
        let index = self.groups.len();
        self.start(range, Some(payload));
        if payload.ends {
            return;
        }
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(index);
    }

    fn start(&mut self, range: Range<usize>, payload: Option<Payload>) {
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece {
            range: range.clone(),
            next: NO_PIECE,
        });
        self.groups.push(Group {
            payload,
            len: range.len(),
            first: range,
            first_piece: piece,
            last_piece: piece,
            count: 1,
            flags: 0,
            verified: false,
        });
    }

    fn close(&mut self, arena: &[u8], packet: &[u8], flow: Flow) {
        if let Some(at) = self.find(arena, packet, flow) {
            self.open.swap_remove(at);
        }
    }

    /// Which open flow a packet belongs to. The last ones are the likeliest.
    fn find(&self, arena: &[u8], packet: &[u8], flow: Flow) -> Option<usize> {
        self.open.iter().rposition(|&index| {
            let group = &self.groups[index];
            group.payload.is_some_and(|first| {
                first.flow == flow && flow.name(&arena[group.first.clone()]) == flow.name(packet)
            })
        })
    }
}

impl Group {
    fn goes_on_with(&self, arena: &[u8], packet: &[u8], payload: &Payload) -> bool {
        let Some(first) = &self.payload else {
            return false;
        };
        let moved = (self.len - first.headers) as u32;
        first.headers == payload.headers
            && payload.len <= first.len
            && self.len + payload.len <= MAX_IP_PACKET
            && (!payload.flow.tcp || payload.sequence == first.sequence.wrapping_add(moved))
            && payload.flow.alike(
                &arena[self.first.clone()],
                packet,
                payload.headers,
                self.count,
            )
    }

    fn header(&self) -> OffloadHeader {
        let Some(payload) = self.payload.filter(|_| self.count > 1) else {
            return OffloadHeader::default();
        };
        let flow = payload.flow;
        OffloadHeader {
            needs_checksum: true,
            gso: match (flow.tcp, flow.v4) {
                (true, true) => Gso::TcpV4,
                (true, false) => Gso::TcpV6,
                (false, _) => Gso::Udp,
            },
            // All of these are less than the packet's length, which fits.
            header_len: payload.headers as u16,
            segment_size: payload.len as u16,
            checksum_start: flow.transport_start() as u16,
            checksum_offset: flow.checksum_offset() as u16,
        }
    }
}

fn write_headers(first: &mut [u8], payload: &Payload, group: &Group) {
    let flow = payload.flow;
    let start = flow.transport_start();
    let transport_len = group.len - start;
    let sum =
        checksum::pseudo_header(flow.addresses(first), flow.protocol()) + transport_len as u32;
    if flow.v4 {
        write_u16(first, 2, group.len as u16);
        write_u16(first, 10, 0);
        let header = checksum::sum(&first[..start]);
        write_u16(first, 10, checksum::finish(header));
    } else {
        write_u16(first, 4, transport_len as u16);
    }
    if flow.tcp {
        // Only PSH and FIN can differ, and only in the last.
        first[start + TCP_FLAGS] |= group.flags;
    } else {
        write_u16(first, start + 4, transport_len as u16);
    }
    write_u16(
        first,
        start + flow.checksum_offset(),
        checksum::fold(u64::from(sum)),
    );
}
