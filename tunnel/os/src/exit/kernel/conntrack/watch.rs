//! Follows the flows of our leases in the kernel's list, for the connection record.
//!
//! The kernel tells of a flow when its first packet has been translated, and when it forgets it. What finds no room in
//! the socket's buffer is told late or not at all: then the list is read again.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::PeerId;
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use socket2::{SockFilter, Socket};

use super::{
    DATAGRAM, list,
    message::{Flow, FlowName, Message, messages},
    socket,
};
use crate::{
    exit::{FlowEvent, FlowLog, kernel::plan::AGENT_BITS},
    sys,
};

/// Bits of `NFNLGRP_CONNTRACK_NEW` and `NFNLGRP_CONNTRACK_DESTROY`.
const GROUPS: u32 = 1 | 1 << 2;

/// Room for what the kernel tells while we are not running: some ten thousand flows.
const BUFFER: usize = 16 << 20;

/// Between two tries to hand on events that found no room.
const RETRY: Duration = Duration::from_millis(50);

/// How long the reader has to take the last events.
const FAREWELL: Duration = Duration::from_secs(10);

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// A socket that the kernel tells of flows, all of this host's.
pub(in super::super) struct Listener(Socket);

impl Listener {
    /// Opens it. This has the kernel load what follows flows, if it is a module.
    pub(in super::super) fn open() -> io::Result<Self> {
        let socket = socket()?;
        socket.set_nonblocking(true)?;
        sys::enlarge_buffers(&socket, BUFFER);
        sys::listen_netlink(&socket, GROUPS)?;
        Ok(Self(socket))
    }

    /// Follows the flows whose marks begin with `marks`, on a thread of its own, and tells `log` of them.
    pub(in super::super) fn follow(self, marks: u32, log: FlowLog) -> io::Result<FlowWatch> {
        self.0.attach_filter(&of_agent(marks))?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let fd = self.0.as_raw_fd();
        (poll.registry()).register(&mut SourceFd(&fd), SOCKET, Interest::READABLE)?;
        let shared = Arc::new(Shared {
            ended: AtomicBool::new(false),
            state: Mutex::new(State {
                socket: self.0,
                datagram: vec![0; DATAGRAM],
                marks,
                log,
                leases: HashMap::new(),
                open: HashMap::new(),
                untold: VecDeque::new(),
            }),
        });
        let thread = std::thread::Builder::new().name("ipsx-flows".into());
        let of_thread = Arc::clone(&shared);
        let thread = thread.spawn(move || of_thread.run(poll))?;
        Ok(FlowWatch {
            shared,
            waker,
            thread: Some(thread),
        })
    }
}

/// Lets only messages through that have a mark with these high bits.
fn of_agent(marks: u32) -> [SockFilter; 10] {
    const fn step(code: u32, jump_if: u8, jump_else: u8, k: u32) -> SockFilter {
        SockFilter::new(code as u16, jump_if, jump_else, k)
    }
    /// `SKF_AD_OFF + SKF_AD_NLATTR` of linux/filter.h: the place of attribute X in what begins at A, or 0.
    const FIND: u32 = (-0x1000_i32 + 12) as u32;
    /// Behind the headers of netlink and nfnetlink.
    const ATTRIBUTES: u32 = 20;
    const CTA_MARK: u32 = 8;
    let immediate = libc::BPF_IMM;
    [
        step(libc::BPF_LDX | immediate, 0, 0, CTA_MARK),
        step(libc::BPF_LD | immediate, 0, 0, ATTRIBUTES),
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FIND),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 5, 0, 0),
        step(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, 4),
        step(
            libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
            0,
            0,
            AGENT_BITS,
        ),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, marks),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Follows the flows until it is dropped.
pub(in super::super) struct FlowWatch {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl FlowWatch {
    /// Flows with this mark are this peer's, from now on.
    pub(in super::super) fn begin(&self, mark: u32, peer: PeerId) {
        self.shared.lock().leases.insert(mark, peer);
    }

    /// Takes what the kernel has told so far: after its flows were forgotten, every one of a lease. Later ones with this
    /// mark are nobody's.
    pub(in super::super) fn end(&self, mark: u32) {
        let mut state = self.shared.lock();
        state.read(usize::MAX);
        state.leases.remove(&mark);
    }
}

impl Drop for FlowWatch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let woken = self.waker.wake();
        if let (Ok(()), Some(thread)) = (woken, self.thread.take()) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Shared {
    ended: AtomicBool,
    state: Mutex<State>,
}

struct State {
    socket: Socket,
    datagram: Vec<u8>,
    marks: u32,
    log: FlowLog,
    leases: HashMap<u32, PeerId>,
    /// The flows that were told, each with its number and peer.
    open: HashMap<FlowName, (u64, PeerId)>,
    /// What the reader had no room for yet.
    untold: VecDeque<FlowEvent>,
}

impl Shared {
    fn run(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(2);
        while !self.ended.load(Ordering::Relaxed) {
            // While the reader is behind, what the kernel tells waits in the socket.
            let behind = !self.lock().read(0);
            match poll.poll(&mut events, behind.then_some(RETRY)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the kernel's flows cannot be followed any longer");
                    return;
                }
                _ => {}
            }
        }
        let mut state = self.lock();
        state.read(usize::MAX);
        let deadline = Instant::now() + FAREWELL;
        while !state.hand_on() && Instant::now() < deadline {
            std::thread::sleep(RETRY);
        }
        if !state.untold.is_empty() {
            tracing::error!(
                events = state.untold.len(),
                "the connection record took too long; the last flows are missing from it"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left at most a flow untold.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes what waits in the socket, unless more than `most` events wait for the reader already; false if some did.
    fn read(&mut self, most: usize) -> bool {
        let mut overrun = false;
        let mut datagram = std::mem::take(&mut self.datagram);
        while self.hand_on() || self.untold.len() <= most {
            match self.socket.read(&mut datagram) {
                Ok(len) => messages(&datagram[..len]).for_each(|message| self.take(message)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => overrun = true,
                    _ => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            tracing::error!(%error, "the kernel does not tell of its flows");
                        }
                        break;
                    }
                },
            }
        }
        self.datagram = datagram;
        if overrun {
            self.look_again();
        }
        self.hand_on()
    }

    /// Hands events on; true if none is left.
    fn hand_on(&mut self) -> bool {
        while let Some(event) = self.untold.pop_front() {
            if let Err(event) = self.log.tell(event) {
                self.untold.push_front(event);
                return false;
            }
        }
        true
    }

    /// Finds the flows whose beginning was lost.
    fn look_again(&mut self) {
        self.untold.push_back(FlowEvent::Overrun);
        let mut found = Vec::new();
        if let Err(error) = list(self.marks, AGENT_BITS, |flow| found.push(flow)) {
            tracing::warn!(%error, "the kernel's list of flows cannot be read");
        }
        for flow in found {
            self.take(Message::New(flow));
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::New(flow) => {
                self.open(&flow);
            }
            Message::Destroyed(flow) => {
                // One whose beginning was lost is told as a whole.
                self.open(&flow);
                if let Some((number, peer)) = self.open.remove(&flow.name) {
                    self.untold.push_back(FlowEvent::Closed {
                        peer,
                        flow: number,
                        bytes_up: flow.bytes_up,
                        bytes_down: flow.bytes_down,
                    });
                }
            }
            Message::Malformed => self.untold.push_back(FlowEvent::Overrun),
            Message::Done | Message::Answer(_) | Message::Other => {}
        }
    }

    /// Tells of a flow that was not told yet, if it is a lease's.
    fn open(&mut self, flow: &Flow) {
        let Some(&peer) = self.leases.get(&flow.mark) else {
            return;
        };
        if self.open.contains_key(&flow.name) {
            return;
        }
        let number = self.log.number();
        self.open.insert(flow.name, (number, peer));
        self.untold.push_back(FlowEvent::Opened {
            peer,
            flow: number,
            protocol: flow.name.protocol,
            source_port: flow.source_port,
            destination: flow.destination,
        });
    }
}
