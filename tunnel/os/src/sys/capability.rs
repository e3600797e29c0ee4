//! Handing a capability on to programs that this one runs.

/// `CAP_NET_ADMIN` of capabilities(7).
const NET_ADMIN: u32 = 12;

/// `_LINUX_CAPABILITY_VERSION_3` of capget(2): two words of 32 capabilities.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Lets the programs that this thread runs from now on have CAP_NET_ADMIN, if it has it itself. Root's programs have
/// it anyway; those of a program with file capabilities only if it is in the ambient set.
pub(crate) fn lend_net_admin() {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut words = [Word::default(); 2];
    // SAFETY: version 3 reads one header and writes two words, both of which live until the call returns; process id
    // 0 is the calling thread.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) };
    let bit = 1 << NET_ADMIN;
    if read != 0 || words[0].permitted & bit == 0 {
        return;
    }
    words[0].inheritable |= bit;
    // SAFETY: version 3 reads one header and two words, both of which live until the call returns.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    if set != 0 {
        return;
    }
    let zero: libc::c_ulong = 0;
    // SAFETY: the option takes its arguments by value. A refusal shows when the program is run.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(NET_ADMIN),
            zero,
            zero,
        )
    };
}
