//! Programs under measurement and programs that measure: started in a process group of their own, ended with it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{Failure, interrupt};

/// How long a program has to end by itself when it is told to: it takes its interface and rules away.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running program. It and its children end when dropped.
pub(super) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts it without input, its outputs in files of `folder`.
    pub(super) fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self, Failure> {
        let [output, errors] = ["out", "err"].map(|kind| folder.join(format!("{name}.{kind}")));
        let create =
            |path: &Path| File::create(path).map_err(Failure::system(path.display().to_string()));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&errors)?)
            // Ctrl-C at the terminal reaches the runner alone.
            .process_group(0)
            .spawn()
            .map_err(Failure::system(format!("starting {name}")))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
            errors,
        })
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with its last words if it has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Failure> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(self.complaint(&format!("ended with {status}"))),
        }
    }

    /// Its name, what happened, and the last it said.
    pub(super) fn complaint(&self, what: &str) -> Failure {
        let said = [&self.output, &self.errors].map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(4).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
        });
        Failure::Said(format!("{} {what}: {}", self.name, said.join(" ").trim()))
    }

    /// Waits for its end and gives what it printed, whatever its exit code: iperf3 explains failures on its output.
    pub(super) fn finish(mut self, limit: Duration) -> Result<(ExitStatus, String), Failure> {
        let Some(status) = interrupt::wait(limit, || self.status())? else {
            return Err(self.complaint(&format!("did not end within {limit:?}")));
        };
        let text = fs::read_to_string(&self.output)
            .map_err(Failure::system(self.output.display().to_string()))?;
        Ok((status, text))
    }

    /// Like [`Self::finish`], for a program that must succeed.
    pub(super) fn succeed(mut self, limit: Duration) -> Result<String, Failure> {
        match interrupt::wait(limit, || self.status())? {
            Some(status) if status.success() => fs::read_to_string(&self.output)
                .map_err(Failure::system(self.output.display().to_string())),
            Some(status) => Err(self.complaint(&format!("ended with {status}"))),
            None => Err(self.complaint(&format!("did not end within {limit:?}"))),
        }
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.child
            .try_wait()
            .map_err(Failure::system(format!("waiting for {}", self.name)))
    }

    fn signal_group(&self, signal: &str) {
        let _ = Command::new("kill")
            .args([signal, "--", &format!("-{}", self.id())])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal_group("-TERM");
            let end = std::time::Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // The program may be gone and children of it not.
        self.signal_group("-KILL");
        let _ = self.child.wait();
    }
}
