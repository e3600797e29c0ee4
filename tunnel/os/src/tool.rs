//! The system's own programs that change the network: `nft` and `ip`.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::sys;

/// Where programs are looked for. The user's PATH is not asked: this process may hold a capability that its user does
/// not, and must lend it only to programs that the system's administrator put there.
const FOLDERS: [&str; 5] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/run/current-system/sw/bin",
];

/// Why one of the system's programs did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The program is not installed.
    #[error(
        "the program {program} is not installed: install the package {package} (`apt install {package}`)"
    )]
    Missing {
        /// Its name.
        program: &'static str,
        /// The package that has it, as Debian names it.
        package: &'static str,
    },
    /// The process may not change the network.
    #[error(
        "changing the network with {program} needs the capability CAP_NET_ADMIN: run this as root, or give it to the \
         program with `setcap cap_net_admin+ep`"
    )]
    Privilege {
        /// The program that was refused.
        program: &'static str,
    },
    /// The program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program refused.
    #[error("{program} refused: {said}")]
    Refused {
        /// Its name, with what it was asked.
        program: String,
        /// What it said.
        said: String,
    },
    /// The program's answer can't be read.
    #[error("cannot read what {program} answered: {source}")]
    Answer {
        /// Its name.
        program: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// A program and the package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

impl Tool {
    /// Runs it with `input` as standard input and returns what it printed. Blocks until it ends.
    pub(crate) fn run(self, words: &[&str], input: &str) -> Result<String, ToolError> {
        let path = self.find()?;
        // A capability of this process is not one of its children unless it is made so.
        sys::lend_net_admin();
        let failed = |source| ToolError::Run {
            program: path.clone(),
            source,
        };
        let mut child = Command::new(&path)
            .args(words)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // It says on standard error why it did not want to read on.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                other => other.map_err(failed)?,
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Operation not permitted") {
            return Err(ToolError::Privilege {
                program: self.program,
            });
        }
        let mut asked = self.program.to_owned();
        for word in words {
            let _ = write!(asked, " {word}");
        }
        Err(ToolError::Refused {
            program: asked,
            said: said.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    fn find(self) -> Result<PathBuf, ToolError> {
        FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(self.program))
            .find(|path| path.exists())
            .ok_or(ToolError::Missing {
                program: self.program,
                package: self.package,
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn says_what_to_install_and_what_was_refused() {
        let missing = Tool {
            program: "no-such-program",
            package: "no-such-package",
        };
        let error = missing.run(&[], "").unwrap_err().to_string();
        assert!(error.contains("apt install no-such-package"), "{error}");

        let cat = Tool {
            program: "cat",
            package: "coreutils",
        };
        assert_eq!(cat.run(&["-"], "echoed").unwrap(), "echoed");
        let error = cat.run(&["/no/such/file"], "").unwrap_err().to_string();
        assert!(
            error.starts_with("cat /no/such/file refused: ") && error.contains("No such file"),
            "{error}"
        );
    }
}
