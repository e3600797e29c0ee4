//! A program of this project as a process: its lines, its exit, its death.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The built binary of this name, beside the test's own.
pub fn built(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built; ./tests/run builds it",
        path.display()
    );
    Command::new(path)
}

/// A figure of `/proc/PROCESS/status`, such as `VmRSS` in KiB.
pub fn status_figure(process: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A running process whose output is being read. It is killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Lines of standard output.
    pub stdout: Vec<String>,
    /// Standard error.
    pub stderr: String,
}

impl Program {
    /// Starts it with both outputs piped and no input.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| send.send(l))
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut pipe, sink) = (child.stderr.take().unwrap(), stderr.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                sink.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self {
            name: name.into(),
            child,
            lines,
            seen: Vec::new(),
            stderr,
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of output that contains `needle`; panics with everything said when it does not come in time.
    pub fn wait_for(&mut self, needle: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(needle) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.give_up(&format!("{needle:?} within {limit:?}"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.give_up(&format!("{needle:?} before it ended"))
                }
            }
        }
    }

    /// Waits until `ipsx connect` says where its local proxy listens.
    pub fn proxy(&mut self, limit: Duration) -> String {
        let line = self.wait_for("proxy ready on ", limit);
        let (_, at) = line.rsplit_once("proxy ready on ").unwrap();
        at.split_whitespace().next().unwrap().to_owned()
    }

    /// Whether a line of what it has printed so far contains `needle`.
    pub fn printed(&mut self, needle: &str) -> bool {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().any(|line| line.contains(needle))
    }

    fn give_up(&self, missing: &str) -> ! {
        panic!(
            "{} did not print {missing}\n-- stdout --\n{}\n-- stderr --\n{}",
            self.name,
            self.seen.join("\n"),
            self.stderr.lock().unwrap()
        );
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name, such as `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for it to end by itself; panics when it does not in time.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.give_up(&format!("anything more: it did not end within {limit:?}"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        // The pipe closes with the process, so this ends.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.seen.push(line);
        }
        let stderr = self.stderr.lock().unwrap().clone();
        Finished {
            code: status.code(),
            stdout: std::mem::take(&mut self.seen),
            stderr,
        }
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
