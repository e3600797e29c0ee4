//! What the machine and single programs have used: from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use super::{Failure, interrupt};

/// Clock ticks per second in `/proc`: the same on every platform of Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// `PF_KTHREAD` of the kernel: work of its own, mostly for the packets that are measured.
const KERNEL_THREAD: u64 = 0x20_0000;

/// What the measurements were made on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Number of processors.
    pub processors: usize,
    /// Main memory, MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether it is a guest of a hypervisor.
    pub is_virtual: bool,
    /// Load average of the last minute at the start.
    pub load: String,
}

impl Machine {
    /// Reads what this machine says of itself.
    pub fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let value = |text: &str, key: &str| {
            text.lines()
                .find(|line| line.starts_with(key))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        Self {
            processor: value(&processors, "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            is_virtual: value(&processors, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Task {
    parent: u32,
    is_kernel: bool,
    /// Used by itself.
    own: u64,
    /// Used by itself and by children that have ended.
    with_ended: u64,
}

/// The counters of one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    busy: u64,
    stolen: u64,
    tasks: HashMap<u32, Task>,
}

impl Snapshot {
    /// Reads `/proc`.
    pub(super) fn take() -> Result<Self, Failure> {
        let stat =
            fs::read_to_string("/proc/stat").map_err(Failure::system("reading /proc/stat"))?;
        let (busy, stolen) = parse_machine(&stat)
            .ok_or_else(|| Failure::Said("/proc/stat has an unknown form".to_owned()))?;
        let mut tasks = HashMap::new();
        for entry in fs::read_dir("/proc")
            .map_err(Failure::system("reading /proc"))?
            .flatten()
        {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            // A process may end in between.
            if let (Some(id), Ok(text)) = (id, fs::read_to_string(entry.path().join("stat")))
                && let Some(task) = parse_task(&text)
            {
                tasks.insert(id, task);
            }
        }
        Ok(Self {
            busy,
            stolen,
            tasks,
        })
    }

    fn descends(&self, mut id: u32, root: u32) -> bool {
        for _ in 0..64 {
            if id == root {
                return true;
            }
            match self.tasks.get(&id) {
                Some(task) => id = task.parent,
                None => return false,
            }
        }
        false
    }

    fn ids_below(&self, root: u32) -> impl Iterator<Item = u32> {
        self.tasks
            .keys()
            .copied()
            .filter(move |&id| self.descends(id, root))
    }

    fn ticks_below(&self, root: u32) -> u64 {
        self.ids_below(root).map(|id| self.tasks[&id].own).sum()
    }

    /// What programs that the runner did not start have used so far. The time of a child that ends goes over to its
    /// parent, so the sum does not fall.
    fn foreign(&self) -> u64 {
        let me = std::process::id();
        self.tasks
            .iter()
            .filter(|&(&id, task)| !task.is_kernel && !self.descends(id, me))
            .map(|(_, task)| task.with_ended)
            .sum()
    }

    /// Sums a line of `status`, such as `VmRSS`, over a process and its children, MiB.
    pub(super) fn memory(&self, root: u32, line: &str) -> f64 {
        let kib: u64 = self
            .ids_below(root)
            .filter_map(|id| {
                let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
                let value = text.lines().find_map(|l| l.strip_prefix(line))?;
                value
                    .trim_start_matches(':')
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        kib as f64 / 1024.0
    }

    /// What was used from `earlier` until this moment, with the share of the processes below `requester` and `exit`.
    pub(super) fn since(
        &self,
        earlier: &Self,
        requester: Option<u32>,
        exit: Option<u32>,
        took: Duration,
    ) -> Spent {
        let tree = |root: Option<u32>| {
            root.map(|id| seconds(self.ticks_below(id).saturating_sub(earlier.ticks_below(id))))
        };
        let foreign = self.foreign().saturating_sub(earlier.foreign());
        let busy = self.busy.saturating_sub(earlier.busy);
        let disturbed = foreign + self.stolen.saturating_sub(earlier.stolen);
        let all =
            took.as_secs_f64() * std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Spent {
            requester: tree(requester),
            exit: tree(exit),
            machine: seconds(busy.saturating_sub(foreign)),
            foreign: seconds(disturbed) / all,
        }
    }
}

/// CPU time between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    /// Seconds of the requester's end of the tunnel.
    pub(super) requester: Option<f64>,
    /// Seconds of the exit.
    pub(super) exit: Option<f64>,
    /// Seconds of everything that belongs to the measurement, the kernel and iperf3 included.
    pub(super) machine: f64,
    /// What other programs and other guests of the hypervisor used, as a part of the whole machine.
    pub(super) foreign: f64,
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// Ticks in use and ticks stolen by the hypervisor, over all processors.
fn parse_machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let &[user, nice, system, _, _, irq, softirq, steal, ..] = fields.as_slice() else {
        return None;
    };
    Some((user + nice + system + irq + softirq, steal))
}

/// A line of `/proc/PID/stat`; the name in brackets may hold spaces and brackets itself.
fn parse_task(stat: &str) -> Option<Task> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let own = number(11)? + number(12)?;
    Some(Task {
        parent: fields.get(1)?.parse().ok()?,
        is_kernel: number(6)? & KERNEL_THREAD != 0,
        own,
        with_ended: own + number(13)? + number(14)?,
    })
}

/// Waits until other programs use less than a twentieth of the machine for a second; false if they never did in time.
pub(super) fn wait_for_calm(limit: Duration) -> Result<bool, Failure> {
    const SECOND: Duration = Duration::from_secs(1);
    let end = std::time::Instant::now() + limit;
    while std::time::Instant::now() < end {
        let before = Snapshot::take()?;
        interrupt::sleep(SECOND)?;
        if Snapshot::take()?.since(&before, None, None, SECOND).foreign < 0.05 {
            return Ok(true);
        }
    }
    Ok(limit.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_of_proc() {
        let stat = "cpu  10 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(parse_machine(stat), Some((73, 8)));
        let task =
            parse_task("77 (a) b (c) S 1 77 77 0 -1 4194304 1 2 3 4 100 50 20 10 20 0 1 0 5 6 7\n")
                .unwrap();
        assert_eq!((task.parent, task.own, task.with_ended), (1, 150, 180));
        assert!(!task.is_kernel);
        assert!(
            parse_task("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1")
                .unwrap()
                .is_kernel
        );
    }

    #[test]
    fn counts_its_own_work() {
        let before = Snapshot::take().unwrap();
        let begin = std::time::Instant::now();
        let mut sum = 0u64;
        while begin.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let after = Snapshot::take().unwrap();
        let me = std::process::id();
        let spent = after.since(&before, Some(me), None, begin.elapsed());
        // A busy machine gives less than the whole time.
        assert!(spent.requester.unwrap() > 0.01, "{spent:?}");
        assert_eq!(spent.exit, None);
        assert!(after.memory(me, "VmRSS") > 0.5);
        assert!(after.memory(me, "VmHWM") >= after.memory(me, "VmRSS"));
    }
}
