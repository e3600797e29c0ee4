//! Socket options and limits that no dependency wraps.

use std::{io, net::SocketAddr, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

/// Asks for send and receive buffers of `bytes`: past the system's limit if we are privileged, up to it if not.
pub(crate) fn enlarge_buffers(socket: &Socket, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    #[cfg(target_os = "linux")]
    if set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value)
        && set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value)
    {
        return;
    }
    // The kernel clamps these by itself; a refusal only costs speed.
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
}

/// Has datagrams that are longer than the way takes cut to pieces: by the system as far as it knows what the way takes,
/// else by routers. Only IPv4 ones do that.
pub(crate) fn allow_pieces(socket: &Socket) {
    keep_whole(socket, false);
    // Where an option is missing, or is of the other IP version, the system's default holds.
    #[cfg(target_os = "linux")]
    for (level, option, value) in [
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_WANT,
        ),
        (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0),
    ] {
        set(socket, level, option, value);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// Whether what is sent from now on is lost rather than cut to pieces; routers then say what they take, which the system
/// remembers for all sockets.
pub(crate) fn keep_whole(socket: &Socket, whole: bool) {
    #[cfg(target_os = "linux")]
    {
        let value = if whole {
            libc::IP_PMTUDISC_DO
        } else {
            libc::IP_PMTUDISC_DONT
        };
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, whole);
}

/// The longest IP packet that the way to `destination` takes, as far as the system knows.
#[cfg(target_os = "linux")]
pub(crate) fn path_mtu(destination: SocketAddr) -> io::Result<usize> {
    let socket = Socket::new(Domain::for_address(destination), Type::DGRAM, None)?;
    // Nothing is sent: this chooses the route.
    socket.connect(&destination.into())?;
    let (level, option) = match destination {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and value and length are written to live variables of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(mtu).map_err(io::Error::other)
}

/// Elsewhere nobody asks.
#[cfg(not(target_os = "linux"))]
pub(crate) fn path_mtu(_: SocketAddr) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Leaves the choice of a bound socket's port to connect(), so that ports are only scarce per destination.
pub(crate) fn defer_port(socket: &Socket) {
    // Where the option is missing, bind() chooses a port, which is as good until there are thousands.
    #[cfg(target_os = "linux")]
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
}

#[cfg(target_os = "linux")]
fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> bool {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option's value is one c_int that
    // lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    result == 0
}

/// Raises the process's limit of open files as far as it may go, and returns the limit that then holds.
pub(crate) fn raise_file_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is written to a live structure of the right type.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let raised = libc::rlimit {
        rlim_cur: limit.rlim_max,
        rlim_max: limit.rlim_max,
    };
    // SAFETY: the limit is read from a live structure of the right type.
    let now = if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        raised
    } else {
        limit
    };
    usize::try_from(now.rlim_cur).unwrap_or(usize::MAX)
}
