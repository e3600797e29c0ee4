//! TUN interfaces with offloads, which the crate that opens them does not turn on.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
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

/// Makes an interface, or takes over a persistent one that nobody uses.
pub(crate) fn open_tun(name: &str, mtu: u16) -> io::Result<TunFile> {
    let mut config = Configuration::default();
    config.tun_name(name).mtu(mtu).platform_config(|platform| {
        platform.vnet_hdr(true);
    });
    let device = tun::create(&config)?;
    let fd = device.as_raw_fd();
    // SAFETY: `device` keeps the descriptor open while it is borrowed here.
    let duplicate = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    let file = File::from(duplicate);
    set_nonblocking(fd)?;
    let cuts_udp = set_offload(fd, TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
    if !cuts_udp {
        set_offload(fd, TCP_OFFLOADS)?;
    }
    Ok(TunFile {
        device,
        file,
        cuts_udp,
    })
}

impl TunFile {
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
