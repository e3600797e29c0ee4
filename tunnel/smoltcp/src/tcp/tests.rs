use super::timer::CLOSE_DELAY;
use super::*;
use crate::interface::Config;
use crate::wire::{ChecksumCapabilities, Ipv4Address, Ipv4Repr};
use crate::wire::{IpAddress, IpProtocol, IpRepr, TCP_HEADER_LEN, TcpControl, TcpRepr};
use core::num::NonZeroU16;
use core::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};

// Constants

const LOCAL_PORT: u16 = 80;
const REMOTE_PORT: u16 = 49500;
const LISTEN_END: IpListenEndpoint = IpListenEndpoint {
    addr: None,
    port: LOCAL_PORT,
};
const TUPLE: Tuple = Tuple {
    local: LOCAL_END,
    remote: REMOTE_END,
};
const LOCAL_SEQ: TcpSeqNumber = TcpSeqNumber(10000);
const REMOTE_SEQ: TcpSeqNumber = TcpSeqNumber(-10001);

const LOCAL_ADDR: Ipv4Address = Ipv4Address::new(192, 168, 1, 1);
const REMOTE_ADDR: Ipv4Address = Ipv4Address::new(192, 168, 1, 2);
const OTHER_ADDR: Ipv4Address = Ipv4Address::new(192, 168, 1, 3);

const BASE_MSS: u16 = 1460;

const LOCAL_END: IpEndpoint = IpEndpoint {
    addr: IpAddress::Ipv4(LOCAL_ADDR),
    port: LOCAL_PORT,
};
const REMOTE_END: IpEndpoint = IpEndpoint {
    addr: IpAddress::Ipv4(REMOTE_ADDR),
    port: REMOTE_PORT,
};

const SEND_IP_TEMPL: IpRepr = IpRepr::Ipv4(Ipv4Repr {
    src_addr: LOCAL_ADDR,
    dst_addr: REMOTE_ADDR,
    next_header: IpProtocol::Tcp,
    payload_len: 20,
    hop_limit: 64,
});
const SEND_TEMPL: TcpRepr<'static> = TcpRepr {
    src_port: REMOTE_PORT,
    dst_port: LOCAL_PORT,
    control: TcpControl::None,
    seq_number: TcpSeqNumber(0),
    ack_number: Some(TcpSeqNumber(0)),
    window_len: 256,
    window_scale: None,
    max_seg_size: None,
    sack_permitted: false,
    sack_ranges: [None, None, None],
    payload: &[],
};
const RECV_TEMPL: TcpRepr<'static> = TcpRepr {
    src_port: LOCAL_PORT,
    dst_port: REMOTE_PORT,
    control: TcpControl::None,
    seq_number: TcpSeqNumber(0),
    ack_number: Some(TcpSeqNumber(0)),
    window_len: 64,
    window_scale: None,
    max_seg_size: None,
    sack_permitted: false,
    sack_ranges: [None, None, None],
    payload: &[],
};

// Helper functions

struct TestSocket {
    socket: Socket,
    cx: Context,
}

impl Deref for TestSocket {
    type Target = Socket;
    fn deref(&self) -> &Self::Target {
        &self.socket
    }
}

impl DerefMut for TestSocket {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.socket
    }
}

#[track_caller]
fn send(socket: &mut TestSocket, timestamp: Instant, repr: &TcpRepr) -> Option<TcpRepr<'static>> {
    socket.cx.set_now(timestamp);

    let ip_repr = IpRepr::Ipv4(Ipv4Repr {
        src_addr: REMOTE_ADDR,
        dst_addr: LOCAL_ADDR,
        next_header: IpProtocol::Tcp,
        payload_len: repr.buffer_len(),
        hop_limit: 64,
    });

    assert!(socket.socket.accepts(&ip_repr, repr));

    let answer = socket.socket.process(&mut socket.cx, &ip_repr, repr);
    answer.map(|(_, repr)| repr)
}

#[track_caller]
fn recv<F>(socket: &mut TestSocket, timestamp: Instant, mut f: F)
where
    F: FnMut(TcpRepr),
{
    socket.cx.set_now(timestamp);

    let mut sent = 0;
    socket
        .socket
        .dispatch(&mut socket.cx, |_, ip_repr, tcp_repr| {
            assert_eq!(ip_repr.next_header(), IpProtocol::Tcp);
            assert_eq!(ip_repr.src_addr(), LOCAL_ADDR.into());
            assert_eq!(ip_repr.dst_addr(), REMOTE_ADDR.into());
            assert_eq!(ip_repr.payload_len(), tcp_repr.buffer_len());

            sent += 1;
            f(tcp_repr)
        });
    assert_eq!(sent, 1, "Exactly one packet should be sent");
}

#[track_caller]
fn recv_nothing(socket: &mut TestSocket, timestamp: Instant) {
    socket.cx.set_now(timestamp);

    let mut fail = false;
    socket
        .socket
        .dispatch(&mut socket.cx, |_, _, _| fail = true);
    assert!(!fail, "Should not send a packet");
}

#[collapse_debuginfo(yes)]
macro_rules! send {
    ($socket:ident, $repr:expr) =>
        (send!($socket, time 0, $repr));
    ($socket:ident, $repr:expr, $result:expr) =>
        (send!($socket, time 0, $repr, $result));
    ($socket:ident, time $time:expr, $repr:expr) =>
        (send!($socket, time $time, $repr, None));
    ($socket:ident, time $time:expr, $repr:expr, $result:expr) =>
        (assert_eq!(send(&mut $socket, Instant::from_millis($time), &$repr), $result));
}

#[collapse_debuginfo(yes)]
macro_rules! recv {
    ($socket:ident, [$( $repr:expr ),*]) => ({
        $( recv!($socket, Ok($repr)); )*
        recv_nothing!($socket)
    });
    ($socket:ident, time $time:expr, [$( $repr:expr ),*]) => ({
        $( recv!($socket, time $time, Ok($repr)); )*
        recv_nothing!($socket, time $time)
    });
    ($socket:ident, $result:expr) =>
        (recv!($socket, time 0, $result));
    ($socket:ident, time $time:expr, $result:expr) =>
        (recv(&mut $socket, Instant::from_millis($time), |result| {
            // Most of the time we don't care about the PSH flag.
            let mut repr = result;
            repr.control = repr.control.quash_psh();
            assert_eq!(Ok::<_, ()>(repr), $result)
        }));
    ($socket:ident, time $time:expr, $result:expr, exact) =>
        (recv(&mut $socket, Instant::from_millis($time), |repr| assert_eq!(Ok::<_, ()>(repr), $result)));
}

#[collapse_debuginfo(yes)]
macro_rules! recv_nothing {
    ($socket:ident) => (recv_nothing!($socket, time 0));
    ($socket:ident, time $time:expr) => (recv_nothing(&mut $socket, Instant::from_millis($time)));
}

#[collapse_debuginfo(yes)]
macro_rules! sanity {
    ($socket1:expr, $socket2:expr) => {{
        let (s1, s2) = ($socket1, $socket2);
        assert_eq!(s1.state, s2.state, "state");
        assert_eq!(s1.tuple, s2.tuple, "tuple");
        assert_eq!(s1.local_seq_no, s2.local_seq_no, "local_seq_no");
        assert_eq!(s1.remote_seq_no, s2.remote_seq_no, "remote_seq_no");
        assert_eq!(s1.remote_last_seq, s2.remote_last_seq, "remote_last_seq");
        assert_eq!(s1.remote_last_ack, s2.remote_last_ack, "remote_last_ack");
        assert_eq!(s1.remote_last_win, s2.remote_last_win, "remote_last_win");
        assert_eq!(s1.remote_win_len, s2.remote_win_len, "remote_win_len");
        assert_eq!(s1.timer, s2.timer, "timer");
    }};
}

fn socket() -> TestSocket {
    socket_with_buffer_sizes(64, 64)
}

fn context(offload: Option<NonZeroUsize>) -> Context {
    Context::new(&Config {
        address: LOCAL_ADDR.into(),
        mtu: 1500,
        offload,
        checksum: ChecksumCapabilities::default(),
        // The first number drawn is LOCAL_SEQ.
        random_seed: 0xefcef600029e1833,
    })
}

fn socket_with_buffer_sizes(tx_len: usize, rx_len: usize) -> TestSocket {
    let rx_buffer = SocketBuffer::new(vec![0; rx_len]);
    let tx_buffer = SocketBuffer::new(vec![0; tx_len]);
    let mut socket = Socket::new(rx_buffer, tx_buffer);
    socket.set_ack_delay(None);
    TestSocket {
        socket,
        cx: context(None),
    }
}

fn socket_syn_received_with_buffer_sizes(tx_len: usize, rx_len: usize) -> TestSocket {
    let mut s = socket_with_buffer_sizes(tx_len, rx_len);
    s.state = State::SynReceived;
    s.tuple = Some(TUPLE);
    s.local_seq_no = LOCAL_SEQ;
    s.remote_seq_no = REMOTE_SEQ + 1;
    s.remote_last_seq = LOCAL_SEQ;
    s.remote_win_len = 256;
    s
}

fn socket_syn_received() -> TestSocket {
    socket_syn_received_with_buffer_sizes(64, 64)
}

fn socket_syn_sent_with_buffer_sizes(tx_len: usize, rx_len: usize) -> TestSocket {
    let mut s = socket_with_buffer_sizes(tx_len, rx_len);
    s.state = State::SynSent;
    s.tuple = Some(TUPLE);
    s.local_seq_no = LOCAL_SEQ;
    s.remote_last_seq = LOCAL_SEQ;
    s
}

fn socket_syn_sent() -> TestSocket {
    socket_syn_sent_with_buffer_sizes(64, 64)
}

fn socket_established_with_buffer_sizes(tx_len: usize, rx_len: usize) -> TestSocket {
    let mut s = socket_syn_received_with_buffer_sizes(tx_len, rx_len);
    s.state = State::Established;
    s.local_seq_no = LOCAL_SEQ + 1;
    s.remote_last_seq = LOCAL_SEQ + 1;
    s.remote_last_ack = Some(REMOTE_SEQ + 1);
    s.remote_last_win = s.scaled_window();
    s
}

fn socket_established() -> TestSocket {
    socket_established_with_buffer_sizes(64, 64)
}

fn socket_fin_wait_1() -> TestSocket {
    let mut s = socket_established();
    s.state = State::FinWait1;
    s
}

fn socket_fin_wait_2() -> TestSocket {
    let mut s = socket_fin_wait_1();
    s.state = State::FinWait2;
    s.local_seq_no = LOCAL_SEQ + 1 + 1;
    s.remote_last_seq = LOCAL_SEQ + 1 + 1;
    s
}

fn socket_closing() -> TestSocket {
    let mut s = socket_fin_wait_1();
    s.state = State::Closing;
    s.remote_last_seq = LOCAL_SEQ + 1 + 1;
    s.remote_seq_no = REMOTE_SEQ + 1 + 1;
    s.timer = Timer::Retransmit {
        expires_at: Instant::from_millis(1000),
    };
    s
}

fn socket_time_wait(from_closing: bool) -> TestSocket {
    let mut s = socket_fin_wait_2();
    s.state = State::TimeWait;
    s.remote_seq_no = REMOTE_SEQ + 1 + 1;
    if from_closing {
        s.remote_last_ack = Some(REMOTE_SEQ + 1 + 1);
    }
    s.timer = Timer::Close {
        expires_at: Instant::from_secs(1) + CLOSE_DELAY,
    };
    s
}

fn socket_close_wait() -> TestSocket {
    let mut s = socket_established();
    s.state = State::CloseWait;
    s.remote_seq_no = REMOTE_SEQ + 1 + 1;
    s.remote_last_ack = Some(REMOTE_SEQ + 1 + 1);
    s
}

fn socket_last_ack() -> TestSocket {
    let mut s = socket_close_wait();
    s.state = State::LastAck;
    s
}

fn socket_recved() -> TestSocket {
    let mut s = socket_established();
    send!(
        s,
        TcpRepr {
            seq_number: REMOTE_SEQ + 1,
            ack_number: Some(LOCAL_SEQ + 1),
            payload: &b"abcdef"[..],
            ..SEND_TEMPL
        }
    );
    recv!(
        s,
        [TcpRepr {
            seq_number: LOCAL_SEQ + 1,
            ack_number: Some(REMOTE_SEQ + 1 + 6),
            window_len: 58,
            ..RECV_TEMPL
        }]
    );
    s
}

fn socket_listen() -> TestSocket {
    let mut s = socket();
    s.state = State::Listen;
    s.listen_endpoint = LISTEN_END;
    s
}

mod closed;
mod closing;
mod congestion;
mod connect;
mod delayed_ack;
mod established;
mod established_end;
mod fast_retransmit;
mod filtering;
mod flow_control;
mod listen;
mod nagle;
mod reassembly;
mod receive_end;
mod retransmission;
mod syn_received;
mod syn_sent;
mod timeouts;
mod timers;
mod transitions;
mod window;
mod zero_window;
