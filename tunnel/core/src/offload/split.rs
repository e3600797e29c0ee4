//! One packet of the kernel's into packets of the interface's MTU (TSO, USO).

use super::{
    CWR, FIN, Gso, OffloadError, OffloadHeader, PSH, TCP, TCP_CHECKSUM, TCP_FLAGS, UDP,
    UDP_CHECKSUM, checksum, read_u16, read_u32, write_u16,
};

/// A packet read from the interface, and how it is to be cut. Segments are written one at a time to wherever they
/// are needed.
#[derive(Debug)]
pub struct Segments<'p> {
    packet: &'p [u8],
    /// How to cut; none, if the packet goes as it is.
    cut: Option<Cut>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    tcp: bool,
    v4: bool,
    transport_start: usize,
    headers: usize,
    size: usize,
    count: usize,
    /// Sum of the pseudo-header without its length.
    pseudo: u32,
}

impl<'p> Segments<'p> {
    /// Reads an IP packet that came with `header`. A packet that is not to be cut gets its checksum finished in place.
    pub fn new(header: OffloadHeader, packet: &'p mut [u8]) -> Result<Self, OffloadError> {
        let start = usize::from(header.checksum_start);
        let field = start + usize::from(header.checksum_offset);
        if header.needs_checksum && packet.len() < field + 2 {
            return Err(OffloadError::Short(packet.len()));
        }
        if header.gso == Gso::None {
            if header.needs_checksum {
                let sum = checksum::sum(&packet[start..]);
                write_u16(packet, field, checksum::finish_udp(sum));
            }
            return Ok(Self { packet, cut: None });
        }
        let cut = Cut::new(header, packet)?;
        Ok(Self {
            packet,
            cut: Some(cut),
        })
    }

    /// A TCP packet without IP options whose checksum is not filled in, to be cut into payloads of `size` bytes. One that
    /// needs no cut gets its checksum in place.
    pub fn of_tcp(packet: &'p mut [u8], size: u16) -> Result<Self, OffloadError> {
        let (gso, start) = match packet.first().map_or(0, |byte| byte >> 4) {
            4 => (Gso::TcpV4, 20),
            6 => (Gso::TcpV6, 40),
            _ => return Err(OffloadError::Mismatch),
        };
        let Some(&offset) = packet.get(start + 12) else {
            return Err(OffloadError::Short(packet.len()));
        };
        let headers = start + usize::from(offset >> 4) * 4;
        if packet.len() < headers.max(start + TCP_CHECKSUM + 2) {
            return Err(OffloadError::Short(packet.len()));
        }
        let addresses = if gso == Gso::TcpV4 { 12..20 } else { 8..40 };
        let sum = checksum::pseudo_header(&packet[addresses], TCP) + (packet.len() - start) as u32;
        write_u16(packet, start + TCP_CHECKSUM, checksum::fold(u64::from(sum)));
        let cut = packet.len() - headers > usize::from(size);
        let header = OffloadHeader {
            needs_checksum: true,
            gso: if cut { gso } else { Gso::None },
            header_len: headers as u16,
            segment_size: size,
            checksum_start: start as u16,
            checksum_offset: TCP_CHECKSUM as u16,
        };
        Self::new(header, packet)
    }

    /// The whole packet, whose IP header is that of every segment but for lengths, checksum and IPv4 id.
    pub fn packet(&self) -> &'p [u8] {
        self.packet
    }

    /// How many segments there are: at least one.
    pub fn count(&self) -> usize {
        self.cut.map_or(1, |cut| cut.count)
    }

    /// Length of a segment, in bytes; none is longer than the first.
    pub fn len_of(&self, index: usize) -> usize {
        match self.cut {
            None => self.packet.len(),
            Some(cut) => {
                let from = (cut.headers + index * cut.size).min(self.packet.len());
                cut.headers + (self.packet.len() - from).min(cut.size)
            }
        }
    }

    /// Writes a segment to the start of `buffer`, which must hold [`len_of`](Self::len_of) bytes, and returns its length.
    pub fn write(&self, index: usize, buffer: &mut [u8]) -> usize {
        let len = self.len_of(index);
        let buffer = &mut buffer[..len];
        match self.cut {
            None => buffer.copy_from_slice(self.packet),
            Some(cut) => {
                let from = cut.headers + index * cut.size;
                buffer[..cut.headers].copy_from_slice(&self.packet[..cut.headers]);
                buffer[cut.headers..]
                    .copy_from_slice(&self.packet[from..from + (len - cut.headers)]);
                cut.finish(index, buffer);
            }
        }
        len
    }
}

impl Cut {
    fn new(header: OffloadHeader, packet: &[u8]) -> Result<Self, OffloadError> {
        let (tcp, version) = match (header.gso, packet.first().map_or(0, |byte| byte >> 4)) {
            (Gso::TcpV4, 4) => (true, 4),
            (Gso::TcpV6, 6) => (true, 6),
            (Gso::Udp, version @ (4 | 6)) => (false, version),
            _ => return Err(OffloadError::Mismatch),
        };
        if !header.needs_checksum {
            return Err(OffloadError::Mismatch);
        }
        let start = usize::from(header.checksum_start);
        let offset = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let size = usize::from(header.segment_size);
        let right_place = if version == 4 {
            start >= 20
                && usize::from(packet[0] & 15) * 4 == start
                && packet[9] == if tcp { TCP } else { UDP }
        } else {
            start >= 40
        };
        if !right_place || usize::from(header.checksum_offset) != offset || size == 0 {
            return Err(OffloadError::Mismatch);
        }
        let transport = if tcp {
            usize::from(packet[start + 12] >> 4) * 4
        } else {
            8
        };
        let headers = start + transport;
        if transport < offset + 2 || packet.len() < headers {
            return Err(OffloadError::Short(packet.len()));
        }
        // What the kernel left in the checksum field is the pseudo-header's sum, with the length of the whole. Taking
        // that length out again also holds where the final destination is in a routing header.
        let whole = u16::try_from(packet.len() - start).map_err(|_| OffloadError::Mismatch)?;
        let pseudo = u32::from(read_u16(packet, start + offset)) + u32::from(!whole);
        Ok(Self {
            tcp,
            v4: version == 4,
            transport_start: start,
            headers,
            size,
            count: (packet.len() - headers).div_ceil(size).max(1),
            pseudo,
        })
    }

    /// Turns the headers of the whole packet into those of one segment.
    fn finish(&self, index: usize, segment: &mut [u8]) {
        let (start, len) = (self.transport_start, segment.len());
        // Lengths fit: a segment is no longer than the packet, which is no longer than 64 kB.
        if self.v4 {
            write_u16(segment, 2, len as u16);
            let id = read_u16(segment, 4).wrapping_add(index as u16);
            write_u16(segment, 4, id);
            write_u16(segment, 10, 0);
            let sum = checksum::sum(&segment[..start]);
            write_u16(segment, 10, checksum::finish(sum));
        } else {
            write_u16(segment, 4, (len - 40) as u16);
        }
        let transport = &mut segment[start..];
        let base = self.pseudo + (len - start) as u32;
        if self.tcp {
            let sequence = read_u32(transport, 4).wrapping_add((index * self.size) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if index > 0 {
                transport[TCP_FLAGS] &= !CWR;
            }
            if index + 1 < self.count {
                transport[TCP_FLAGS] &= !(FIN | PSH);
            }
            write_u16(transport, TCP_CHECKSUM, 0);
            let sum = base + checksum::sum(transport);
            write_u16(transport, TCP_CHECKSUM, checksum::finish(sum));
        } else {
            write_u16(transport, 4, (len - start) as u16);
            write_u16(transport, UDP_CHECKSUM, 0);
            let sum = base + checksum::sum(transport);
            write_u16(transport, UDP_CHECKSUM, checksum::finish_udp(sum));
        }
    }
}
