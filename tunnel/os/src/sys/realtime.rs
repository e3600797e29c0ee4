//! Threads that run ahead of others.

use std::{io, os::unix::thread::JoinHandleExt, thread::JoinHandle};

/// Makes a thread a real-time one of the lowest priority, which takes turns with others like it (`SCHED_RR` of sched(7)).
/// Needs the capability CAP_SYS_NICE.
pub(crate) fn run_ahead<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    // SAFETY: all of it is numbers, and some C libraries have more of them than `sched_priority`.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    // SAFETY: the handle has not been joined or dropped, so its thread can still be named; the parameters live until the call returns.
    let failed = unsafe {
        libc::pthread_setschedparam(thread.as_pthread_t(), libc::SCHED_RR, &raw const parameters)
    };
    match failed {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
