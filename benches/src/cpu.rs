//! How long this program has kept processors busy.

use std::path::Path;
use std::time::Duration;

/// Time that all threads now alive have run, from `/proc/self/task/*/schedstat` (Linux); `None` elsewhere.
///
/// Unlike the clock on the wall it leaves out what other programs took, and what was spent waiting for a disk.
pub fn cpu_time() -> Option<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        nanoseconds += thread_time(&thread.ok()?.path()).unwrap_or(0);
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// The same for the threads of one name alone, of which the system keeps the first 15 bytes.
pub fn thread_time_of(name: &str) -> Option<Duration> {
    let (mut nanoseconds, mut found) = (0, false);
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let thread = thread.ok()?.path();
        let own = std::fs::read_to_string(thread.join("comm")).unwrap_or_default();
        if own.trim_end() == name {
            nanoseconds += thread_time(&thread).unwrap_or(0);
            found = true;
        }
    }
    found.then(|| Duration::from_nanos(nanoseconds))
}

/// The processor time of another process, all its threads', in steps of 10 ms (Linux).
///
/// # Panics
///
/// If there is no such process.
pub fn time_of_process(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in parentheses may hold anything.
    let (_, rest) = text.rsplit_once(')').unwrap();
    let times = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// A thread may end while it is looked at.
fn thread_time(thread: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A thread of its own: the other tests' threads work, and end, meanwhile.
    #[test]
    fn work_counts_and_sleep_does_not() {
        let measure = || {
            let before = thread_time_of("cpu-time-test").unwrap();
            std::thread::sleep(Duration::from_millis(200));
            let idle = thread_time_of("cpu-time-test").unwrap() - before;
            let begin = Instant::now();
            let mut sum = 0_u64;
            while begin.elapsed() < Duration::from_millis(400) {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
            let busy = thread_time_of("cpu-time-test").unwrap() - before - idle;
            assert!(cpu_time().unwrap() >= busy);
            (idle, busy)
        };
        let thread = std::thread::Builder::new().name("cpu-time-test".into());
        let (idle, busy) = thread.spawn(measure).unwrap().join().unwrap();
        assert!(busy > idle, "busy {busy:?}, idle {idle:?}");
        assert!(busy > Duration::from_millis(10), "{busy:?}");
    }
}
