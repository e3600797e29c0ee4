//! Forgetting the flows of a lease that is over, so that the next one with its inner address gets none of their
//! packets: a message of nfnetlink's conntrack subsystem.

use std::io::{self, Read, Write};

use socket2::{Domain, Protocol, Socket, Type};

/// `NETLINK_NETFILTER` of netlink(7).
const NETFILTER: i32 = 12;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const DELETE: u16 = 1 << 8 | 2;

/// `NLM_F_REQUEST | NLM_F_ACK` of netlink(7).
const FLAGS: u16 = 1 | 4;

/// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;

/// Length of a netlink header, and of the part of an answer that holds its error code.
const HEADER: usize = 16;

/// Makes the kernel forget every flow whose connection mark is `mark` in the bits of `mask`.
pub(super) fn forget(mark: u32, mask: u32) -> io::Result<()> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETFILTER)),
    )?;
    // A socket that is bound to nothing talks to the kernel, which answers before the call returns.
    socket.write_all(&message(mark, mask))?;
    let mut answer = [0; 512];
    let len = socket.read(&mut answer)?;
    match answer.get(HEADER..HEADER + 4).filter(|_| len >= HEADER + 4) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn message(mark: u32, mask: u32) -> Vec<u8> {
    // Any family; version 0; resource 0.
    let mut body = vec![0; 4];
    for (kind, value) in [(CTA_MARK, mark), (CTA_MARK_MASK, mask)] {
        body.extend_from_slice(&8_u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value.to_be_bytes());
    }
    let len = (HEADER + body.len()) as u32;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&DELETE.to_ne_bytes());
    message.extend_from_slice(&FLAGS.to_ne_bytes());
    // Sequence number and sender: there is one message and one socket.
    message.extend_from_slice(&[0; 8]);
    message.extend(body);
    message
}
