//! TUN interfaces with offloads, which the crate that opens them does not turn on.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
};

use tun::{AbstractDevice, Configuration};

/// What every kernel with TUN offloads takes: checksums, and TSO over both families, with ECN.
const TCP_OFFLOADS: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// USO over both families: since Linux 6.2.
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// An interface's queue: every packet has a 10-byte offload header before it.
pub(crate) struct TunFile {
    device: tun::Device,
    file: File,
    cuts_udp: bool,
}

/// Takes over a persistent interface that nobody uses.
fn open_tun(name: &str, mtu: u16) -> io::Result<TunFile> {
    let mut config = Configuration::default();
    config.tun_name(name).mtu(mtu).platform_config(|platform| {
        platform.vnet_hdr(true);
    });
    TunFile::new(tun::create(&config)?)
}

/// Makes an interface with several queues: the kernel keeps to one for each connection. A persistent interface that
/// exists is taken over as it is, with one.
pub(crate) fn open_tun_queues(name: &str, mtu: u16, count: usize) -> io::Result<Vec<TunFile>> {
    let mut queues: Vec<TunFile> = Vec::with_capacity(count);
    for _ in 0..count {
        // Any process could attach its queue to an interface with several: only the first may find none.
        let fd = match attach_queue(name, queues.is_empty()) {
            Err(error) if queues.is_empty() && error.raw_os_error() == Some(libc::EBUSY) => {
                return Ok(vec![open_tun(name, mtu)?]);
            }
            other => other?.into_raw_fd(),
        };
        let mut config = Configuration::default();
        config.tun_name(name).mtu(mtu).raw_fd(fd);
        let mut device = tun::Device::new(&config)?;
        if queues.is_empty() {
            device.configure(&config)?;
        }
        queues.push(TunFile::new(device)?);
    }
    Ok(queues)
}

fn attach_queue(name: &str, first: bool) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all zeros are an ifreq, without a name and without flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let flags = flags | if first { libc::IFF_TUN_EXCL } else { 0 };
    let flags = u16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    request.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: the request reads and writes an ifreq that lives until the call returns, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

impl TunFile {
    fn new(device: tun::Device) -> io::Result<Self> {
        let fd = device.as_raw_fd();
        // SAFETY: `device` keeps the descriptor open while it is borrowed here.
        let duplicate = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        let file = File::from(duplicate);
        set_nonblocking(fd)?;
        let cuts_udp = set_offload(fd, TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
        if !cuts_udp {
            set_offload(fd, TCP_OFFLOADS)?;
        }
        Ok(Self {
            device,
            file,
            cuts_udp,
        })
    }

    /// Whether UDP super-packets may be written.
    pub(crate) fn cuts_udp(&self) -> bool {
        self.cuts_udp
    }

    /// The interface's MTU; an error once the interface is gone.
    pub(crate) fn mtu(&self) -> io::Result<usize> {
        Ok(self.device.mtu().map(usize::from)?)
    }

    /// Reads one packet with its header.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet, header first, that lies in pieces.
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(pieces).map(drop)
    }
}

impl AsRawFd for TunFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn set_offload(fd: RawFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: the request takes its argument by value, and the descriptor is open.
    let result = unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the request reads one c_int that lives until the call returns, and the descriptor is open.
    let result = unsafe { libc::ioctl(fd, libc::FIONBIO, &raw const on) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
