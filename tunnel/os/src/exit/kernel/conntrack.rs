//! The kernel's list of flows (conntrack), spoken to by netlink: which flows a lease opens and ends, and forgetting those of
//! a lease that is over, so that the next one with its inner address gets none of their packets.

mod message;
mod watch;

use std::io::{self, Read, Write};

use socket2::{Domain, Protocol, Socket, Type};

use message::{Message, Question, messages, question};
pub(super) use watch::{FlowWatch, Listener};

/// `NETLINK_NETFILTER` of netlink(7).
const NETFILTER: i32 = 12;

/// Longest datagram of the kernel: lists come in pieces of up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

fn socket() -> io::Result<Socket> {
    Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETFILTER)),
    )
}

/// Makes the kernel forget every flow whose connection mark is `mark` in the bits of `mask`.
pub(super) fn forget(mark: u32, mask: u32) -> io::Result<()> {
    ask(Question::Forget, mark, mask, drop)
}

/// Every flow whose connection mark is `mark` in the bits of `mask`.
fn list(mark: u32, mask: u32, mut found: impl FnMut(message::Flow)) -> io::Result<()> {
    ask(Question::List, mark, mask, |message| {
        if let Message::New(flow) = message {
            found(flow);
        }
    })
}

/// Asks and takes what comes until the answer has ended.
fn ask(what: Question, mark: u32, mask: u32, mut take: impl FnMut(Message)) -> io::Result<()> {
    let mut socket = socket()?;
    // A socket that is bound to nothing talks to the kernel, which answers before the call returns.
    socket.write_all(&question(what, mark, mask))?;
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let len = socket.read(&mut datagram)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in messages(&datagram[..len]) {
            match message {
                Message::Done | Message::Answer(0) => return Ok(()),
                Message::Answer(code) => return Err(io::Error::from_raw_os_error(code)),
                Message::Malformed => return Err(io::ErrorKind::InvalidData.into()),
                message => take(message),
            }
        }
    }
}
