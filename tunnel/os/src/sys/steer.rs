//! A filter by which the kernel gives each datagram to one of several sockets on a port.

use std::{io, os::fd::AsFd, os::fd::AsRawFd};

const fn step(code: u32, jump_if: u8, jump_else: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: jump_if,
        jf: jump_else,
        k,
    }
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_ACCUMULATOR: u32 = libc::BPF_RET | libc::BPF_A;

/// Steers WireGuard datagrams among the `count` sockets that share this one's port, in the order in which they were
/// bound: by the second byte of the receiver's session index. Handshake initiations, which have none, go to the first.
pub(crate) fn steer_by_session(socket: &impl AsFd, count: u8) -> io::Result<()> {
    let mut program = [
        // The type of the message.
        step(LOAD_BYTE, 0, 0, 0),
        step(JUMP_IF_EQUAL, 6, 0, 1),
        step(JUMP_IF_EQUAL, 2, 0, 2),
        // A cookie or data: the index lies at offset 4.
        step(LOAD_BYTE, 0, 0, 5),
        step(JUMP, 0, 0, 1),
        // A handshake response: at offset 8.
        step(LOAD_BYTE, 0, 0, 9),
        step(MODULO, 0, 0, count.max(1).into()),
        step(RETURN_ACCUMULATOR, 0, 0, 0),
        // An initiation.
        step(RETURN, 0, 0, 0),
    ];
    let attached = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open while `socket` is borrowed; the kernel copies the program, which lives until the
    // call returns, and checks it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const attached).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{net::UdpSocket, time::Duration};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn datagrams_go_where_their_index_says() {
        let bind = |port: u16| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            socket.bind(&address.into()).unwrap();
            let socket = UdpSocket::from(socket);
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let mut sockets = vec![bind(0)];
        let to = sockets[0].local_addr().unwrap();
        sockets.extend((1..3).map(|_| bind(to.port())));
        steer_by_session(&sockets[0], 3).unwrap();
        // The type, the byte that says it, and where it is expected.
        for (kind, offset, byte, expected) in [
            (4u8, 5, 0, 0),
            (4, 5, 1, 1),
            (4, 5, 5, 2),
            (4, 5, 255, 0),
            (3, 5, 2, 2),
            (2, 9, 1, 1),
            (2, 9, 200, 2),
            (1, 5, 1, 0),
            (1, 9, 2, 0),
            (7, 5, 1, 1),
        ] {
            // From other ports each time: without the filter they would spread.
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut datagram = [0; 32];
            datagram[0] = kind;
            datagram[offset] = byte;
            sender.send_to(&datagram, to).unwrap();
            let (_, from) = sockets[expected].recv_from(&mut [0; 64]).unwrap();
            assert_eq!(from, sender.local_addr().unwrap());
        }
        // Too short for any index.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[4], to).unwrap();
        assert_eq!(sockets[0].recv_from(&mut [0; 64]).unwrap().0, 1);
    }
}
