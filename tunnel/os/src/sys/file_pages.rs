//! Giving back the pages of files that only starting needed.

use std::fs;
use std::ops::Range;

/// Takes what is mapped from files, and only read, out of this process's page tables: code, constants, tables for
/// unwinding. It stays in the system's cache, and what is needed from now on is mapped again as it is reached. Returns
/// the bytes of address space concerned.
///
/// Linux maps whole runs of neighbouring pages at each first touch, so that a start that reached into every part of a
/// program leaves nearly all of it resident, for as long as it runs.
pub(crate) fn unmap_read_only() -> usize {
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    let mut concerned = 0;
    for range in unchanged(&maps) {
        // SAFETY: the range is one private mapping of a file that cannot be written and holds no page that ever was: all
        // are the file's, and a touch brings the same bytes back. Nothing is unmapped between reading the list and this
        // call but by `dlclose`, which this program does not use, and what has to be written first (relocations) was
        // written before `main`.
        let gone = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(range.start),
                range.len(),
                libc::MADV_DONTNEED,
            )
        };
        if gone == 0 {
            concerned += range.len();
        }
    }
    concerned
}

/// The private mappings of proc_pid_smaps(5) that are of files, can't be written, and have no page of their own.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        // A figure's name ends in a colon, the addresses that begin a mapping don't.
        match line.split_ascii_whitespace().next() {
            Some("Anonymous:") => {
                let own = line.split_ascii_whitespace().nth(1) != Some("0");
                found.extend(candidate.take().filter(|_| !own));
            }
            Some(name) if name.ends_with(':') => {}
            _ => candidate = read_only(line),
        }
    }
    found
}

/// Where a mapping is, if it is private, of a file, and not to be written.
fn read_only(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let range = words.next()?;
    let permissions = words.next()?;
    // Offset and device stand in between.
    let inode = words.nth(2)?;
    if !matches!(permissions, "r-xp" | "r--p") || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smaps(mapping: &str, own: u32) -> String {
        format!(
            "{mapping}\nSize:  64 kB\nRss:  60 kB\nAnonymous:  {own} kB\nVmFlags: rd ex mr mw me \n"
        )
    }

    #[test]
    fn only_what_is_never_written_is_concerned() {
        let code = "55d0c8a00000-55d0c9600000 r-xp 00200000 fe:00 131 /usr/bin/ipsx";
        let constants = "55d0c8800000-55d0c8a00000 r--p 00000000 fe:00 131 /usr/bin/a name";
        let mut all = smaps(code, 0) + &smaps(constants, 0);
        let both = [
            0x55d0_c8a0_0000..0x55d0_c960_0000,
            0x55d0_c880_0000..0x55d0_c8a0_0000,
        ];
        assert_eq!(unchanged(&all), both);
        // Relocated, then protected; written by a debugger.
        all += &smaps(constants, 8);
        all += &smaps(code, 4);
        for other in [
            "55d0c8a00000-55d0c9600000 rw-p 00200000 fe:00 131 /usr/bin/ipsx",
            "55d0c8a00000-55d0c9600000 rwxp 00200000 fe:00 131 /usr/bin/ipsx",
            "55d0c8a00000-55d0c9600000 ---p 00200000 fe:00 131 /usr/bin/ipsx",
            "55d0c8a00000-55d0c9600000 r-xs 00200000 fe:00 131 /usr/bin/ipsx",
            "7ffd1b5f0000-7ffd1b5f2000 r-xp 00000000 00:00 0 [vdso]",
            "55d0c9600000-55d0c8a00000 r-xp 00200000 fe:00 131 /usr/bin/ipsx",
            "x-y r-xp 00200000 fe:00 131 /usr/bin/ipsx",
            "55d0c8a00000-55d0c9600000 r-xp",
            "",
        ] {
            all += &smaps(other, 0);
        }
        assert_eq!(unchanged(&all), both);
    }

    #[test]
    fn what_runs_goes_on() {
        let fib = std::hint::black_box(fib as fn(u64) -> u64);
        let before = (fib(20), "constants stay".to_owned());
        assert!(unmap_read_only() > 0);
        assert_eq!((fib(20), "constants stay".to_owned()), before);
    }

    fn fib(n: u64) -> u64 {
        if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
    }
}
