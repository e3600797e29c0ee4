//! The files with the domains that an exit denies, or answers in spite of that.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipsx_agent_core::provider::ProviderEvent;
use ipsx_tunnel_core::{DomainError, DomainList, DomainSetBuilder, ExitPolicy};
use tokio::sync::mpsc;

use super::io::Happening;

/// How often the files are looked at. One that changes is read when it has stayed the same from one look to the next.
const LOOK: Duration = Duration::from_secs(5);

/// The longest category.
const MAX_CATEGORY: usize = 64;

/// One file, written `CATEGORY=FILE` or `FILE`, whose name without its ending is then the category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainFile {
    category: String,
    path: PathBuf,
}

impl FromStr for DomainFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (category, path) = match text.split_once('=') {
            Some((category, path)) if !category.contains('/') => (Some(category), path),
            _ => (None, text),
        };
        let path = PathBuf::from(path);
        let stem = || path.file_stem().and_then(|stem| stem.to_str());
        let category = category.or_else(stem).unwrap_or_default().to_owned();
        let length = category.chars().count();
        if !(1..=MAX_CATEGORY).contains(&length) || category.chars().any(char::is_control) {
            return Err(format!(
                "its category must have 1 to {MAX_CATEGORY} characters. Example: gambling=/etc/ipsx/gambling.txt"
            ));
        }
        Ok(Self { category, path })
    }
}

/// A domain file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DomainFileError {
    /// It can't be read.
    #[error("the domain file {} can't be read: {source}; correct its name or its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line names no domain.
    #[error("{} line {line}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: DomainError,
    },
    /// A download that went wrong looks like this, and would open what the list closes.
    #[error("the domain file {} names no domain; leave it out if that is meant", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// By what a file's change is noticed: when it was written, how long it is, and which one it is.
type Stamp = Option<(SystemTime, u64, u64)>;

/// The files of one exit policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainFiles {
    allow: Vec<DomainFile>,
    deny: Vec<DomainFile>,
    /// The files as they were when they were read.
    read: Vec<Stamp>,
}

impl DomainFiles {
    /// Files with exceptions, and files with names that are denied.
    pub fn new(allow: Vec<DomainFile>, deny: Vec<DomainFile>) -> Self {
        Self {
            allow,
            deny,
            read: Vec::new(),
        }
    }

    /// Reads the files into a policy, which is left as it was if one of them can't be used. Blocks.
    pub fn read_into(&mut self, policy: &mut ExitPolicy) -> Result<(), DomainFileError> {
        // What is written from here on is read again.
        let stamps = self.stamps();
        let [allow, deny] = [&self.allow, &self.deny]
            .map(|files| files.iter().map(read).collect::<Result<Vec<_>, _>>());
        (policy.allow_domains, policy.deny_domains) = (allow?, deny?);
        self.read = stamps;
        Ok(())
    }

    /// Looks at the files for as long as the provider runs, and tells of the policy that they make when one changes.
    pub(super) async fn watch(
        mut self,
        mut policy: ExitPolicy,
        told: mpsc::UnboundedSender<Happening>,
    ) {
        if self.allow.is_empty() && self.deny.is_empty() {
            return;
        }
        let mut last = self.read.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.stamps();
            let settled = std::mem::replace(&mut last, now.clone()) == now;
            if !settled || now == self.read {
                continue;
            }
            let (files, result) = match self.read_again(policy.clone()).await {
                Ok(read) => read,
                // The program ends.
                Err(_) => return,
            };
            self = files;
            let happening = match result {
                Ok(changed) if changed == policy => continue,
                Ok(changed) => {
                    policy = changed.clone();
                    Happening::Policy(Box::new(changed))
                }
                Err(error) => {
                    // Told once, and tried again when it has changed once more.
                    self.read = now;
                    let text = format!("{error}. The domains of before hold on");
                    Happening::Tell(ProviderEvent::Warning { text })
                }
            };
            if told.send(happening).is_err() {
                return;
            }
        }
    }

    async fn read_again(
        &self,
        mut policy: ExitPolicy,
    ) -> Result<(Self, Result<ExitPolicy, DomainFileError>), tokio::task::JoinError> {
        let mut files = self.clone();
        tokio::task::spawn_blocking(move || {
            let result = files.read_into(&mut policy);
            (files, result.map(|()| policy))
        })
        .await
    }

    fn stamps(&self) -> Vec<Stamp> {
        let files = self.allow.iter().chain(&self.deny);
        files.map(|file| stamp(&file.path)).collect()
    }
}

#[cfg(unix)]
fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

#[cfg(not(unix))]
fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), 0))
}

fn read(file: &DomainFile) -> Result<DomainList, DomainFileError> {
    let path = || file.path.clone();
    let failed = |source| DomainFileError::Read {
        path: path(),
        source,
    };
    let lines = BufReader::new(File::open(&file.path).map_err(failed)?).lines();
    let mut names = DomainSetBuilder::default();
    for (number, line) in (1..).zip(lines) {
        let wrong = |source| DomainFileError::Line {
            path: path(),
            line: number,
            source,
        };
        names.add_line(&line.map_err(failed)?).map_err(wrong)?;
    }
    let names = names.build();
    if names.is_empty() {
        return Err(DomainFileError::Empty { path: path() });
    }
    Ok(DomainList {
        category: file.category.clone(),
        names: Arc::new(names),
    })
}

#[cfg(test)]
mod tests;
