//! The embedded chain's file: a header, then one checksummed record per block.
//!
//! Each record is `length (4, big endian) ‖ checksum (8) ‖ payload`; the checksum is the start of
//! `keccak(checksum before ‖ payload)`, so that records can't be lost or exchanged unnoticed. A record that the file
//! ends within is what a crash leaves: it is cut off, because its transaction was never acknowledged.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, Keccak256, U256};
use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"ipsxevm1";
const CHECKSUM: usize = 8;
/// Longer than any transaction that fits into a block.
const MAX_RECORD: usize = 4 << 20;

/// The chain's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("{} is in use by another process. Stop it, or talk to it over JSON-RPC", .0.display())]
    InUse(PathBuf),
    /// A new chain can't take the place of one that is there.
    #[error("{} exists already. Open it, or choose another path for a new chain", .0.display())]
    Exists(PathBuf),
    /// Something in the middle of the file was changed.
    #[error(
        "{} is damaged at byte {offset}: {reason}. It is left as it is: restore it from a copy",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file system failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed before, and what the disk holds is not known.
    #[error("{} could not be written before. Free space on the disk, then restart", .0.display())]
    Broken(PathBuf),
}

/// What a chain starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) chain_id: u64,
    pub(crate) timestamp: UnixSeconds,
    pub(crate) base_fee: u64,
    pub(crate) accounts: Vec<(Address, U256)>,
}

/// One block: its time and its one transaction, as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) timestamp: UnixSeconds,
    pub(crate) transaction: Vec<u8>,
}

/// An open journal; the only one in the system.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    checksum: [u8; CHECKSUM],
    broken: bool,
}

impl Journal {
    /// Starts a journal at `path`, which must not exist. The file appears there when its header is on disk.
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Self, JournalError> {
        let folder = folder(path);
        let staged = tempfile::Builder::new()
            .prefix(".chain-")
            .tempfile_in(folder)
            .map_err(io_error("create a file in", folder))?;
        let file = staged.reopen().map_err(io_error("open", path))?;
        let mut journal = Self::locked(path, file)?;
        let payload = serde_json::to_vec(header).expect("numbers and addresses are JSON");
        let mut first = MAGIC.to_vec();
        let (record, checksum) = encode(&journal.checksum, &payload);
        first.extend_from_slice(&record);
        journal.write(&first)?;
        journal.checksum = checksum;
        staged
            .persist_noclobber(path)
            .map_err(|e| match e.error.kind() {
                io::ErrorKind::AlreadyExists => JournalError::Exists(path.to_path_buf()),
                _ => io_error("create", path)(e.error),
            })?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("write", folder))?;
        Ok(journal)
    }

    /// Opens a journal, cuts a torn tail off, and returns what it holds.
    pub(crate) fn open(path: &Path) -> Result<(Self, Header, Vec<Record>), JournalError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(io_error("open", path))?;
        let mut journal = Self::locked(path, file)?;
        let mut bytes = Vec::new();
        journal
            .file
            .read_to_end(&mut bytes)
            .map_err(io_error("read", path))?;
        if !bytes.starts_with(MAGIC) {
            return Err(journal.corrupt(0, "it does not start like a chain's journal"));
        }
        let mut at = MAGIC.len();
        let header = match next(&journal.checksum, &bytes[at..]) {
            Next::Good(payload, checksum, size) => {
                journal.checksum = checksum;
                at += size;
                serde_json::from_slice(payload).map_err(|e| journal.corrupt(8, &e.to_string()))?
            }
            _ => return Err(journal.corrupt(at, "its header is incomplete or changed")),
        };
        let mut records = Vec::new();
        loop {
            match next(&journal.checksum, &bytes[at..]) {
                Next::End => break,
                Next::Torn => {
                    tracing::warn!(path = %path.display(), at, "cutting off a block that was never acknowledged");
                    break;
                }
                Next::Bad => return Err(journal.corrupt(at, "a block does not match its checksum")),
                Next::Good(payload, checksum, size) => {
                    let Some((time, transaction)) = payload.split_first_chunk::<8>() else {
                        return Err(journal.corrupt(at, "a block is too short"));
                    };
                    records.push(Record {
                        timestamp: UnixSeconds(u64::from_be_bytes(*time)),
                        transaction: transaction.to_vec(),
                    });
                    journal.checksum = checksum;
                    at += size;
                }
            }
        }
        journal.length = at as u64;
        journal.cut().map_err(io_error("repair", path))?;
        Ok((journal, header, records))
    }

    /// Adds a block; on the disk when this returns.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken(self.path.clone()));
        }
        let mut payload = record.timestamp.0.to_be_bytes().to_vec();
        payload.extend_from_slice(&record.transaction);
        let (bytes, checksum) = encode(&self.checksum, &payload);
        self.write(&bytes)?;
        self.checksum = checksum;
        Ok(())
    }

    fn locked(path: &Path, file: File) -> Result<Self, JournalError> {
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => JournalError::InUse(path.to_path_buf()),
            TryLockError::Error(e) => io_error("lock", path)(e),
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            length: 0,
            checksum: [0; CHECKSUM],
            broken: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if let Err(e) = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_data())
        {
            // After a failed sync the system may have dropped the pages: what was written last must not be relied on.
            self.broken = self.cut().is_err();
            return Err(io_error("write", &self.path)(e));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.sync_data()
    }

    fn corrupt(&self, offset: usize, reason: &str) -> JournalError {
        JournalError::Corrupt {
            path: self.path.clone(),
            offset: offset as u64,
            reason: reason.into(),
        }
    }
}

enum Next<'a> {
    Good(&'a [u8], [u8; CHECKSUM], usize),
    End,
    Torn,
    Bad,
}

/// The record at the start of `bytes`. Only the last one can be torn: each is synced before the next is written.
fn next<'a>(before: &[u8; CHECKSUM], bytes: &'a [u8]) -> Next<'a> {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Next::Torn;
    };
    let length = u32::from_be_bytes(*length) as usize;
    let Some((expected, rest)) = rest.split_first_chunk::<CHECKSUM>() else {
        return Next::Torn;
    };
    if length > MAX_RECORD {
        return if rest.len() > MAX_RECORD {
            Next::Bad
        } else {
            Next::Torn
        };
    }
    let Some(payload) = rest.get(..length) else {
        return Next::Torn;
    };
    let checksum = chain_checksum(before, payload);
    if checksum != *expected {
        return if rest.len() == length {
            Next::Torn
        } else {
            Next::Bad
        };
    }
    Next::Good(payload, checksum, 4 + CHECKSUM + length)
}

fn encode(before: &[u8; CHECKSUM], payload: &[u8]) -> (Vec<u8>, [u8; CHECKSUM]) {
    let checksum = chain_checksum(before, payload);
    let mut record = Vec::with_capacity(4 + CHECKSUM + payload.len());
    record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    record.extend_from_slice(&checksum);
    record.extend_from_slice(payload);
    (record, checksum)
}

fn chain_checksum(before: &[u8; CHECKSUM], payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = Keccak256::new();
    hasher.update(before);
    hasher.update(payload);
    let hash = hasher.finalize();
    let mut checksum = [0; CHECKSUM];
    checksum.copy_from_slice(&hash[..CHECKSUM]);
    checksum
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn header() -> Header {
        Header {
            chain_id: 7,
            timestamp: UnixSeconds(1),
            base_fee: 0,
            accounts: vec![(Address::repeat_byte(1), U256::MAX)],
        }
    }

    fn record(byte: u8) -> Record {
        Record {
            timestamp: UnixSeconds(u64::from(byte)),
            transaction: vec![byte; 40],
        }
    }

    /// A journal of three blocks, closed; its bytes and the offsets where the records end.
    fn three(path: &Path) -> (Vec<u8>, Vec<usize>) {
        let mut journal = Journal::create(path, &header()).unwrap();
        let mut ends = vec![journal.length as usize];
        for byte in 1..=3 {
            journal.append(&record(byte)).unwrap();
            ends.push(journal.length as usize);
        }
        drop(journal);
        (fs::read(path).unwrap(), ends)
    }

    #[test]
    fn a_tail_torn_anywhere_is_cut_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let (bytes, ends) = three(&path);
        for cut in ends[0]..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let (mut journal, found, records) = Journal::open(&path).unwrap();
            assert_eq!(found, header());
            assert_eq!(records.len(), whole, "cut at {cut}");
            journal.append(&record(9)).unwrap();
            drop(journal);
            let (_, _, records) = Journal::open(&path).unwrap();
            assert_eq!(records.last(), Some(&record(9)));
        }
    }

    #[test]
    fn garbage_in_the_last_record_is_a_torn_tail_and_elsewhere_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let (bytes, ends) = three(&path);
        let mut last = bytes.clone();
        last[ends[2] + 20] ^= 1;
        fs::write(&path, &last).unwrap();
        assert_eq!(Journal::open(&path).unwrap().2.len(), 2);
        let mut middle = bytes.clone();
        middle[ends[0] + 20] ^= 1;
        fs::write(&path, &middle).unwrap();
        assert!(matches!(
            Journal::open(&path),
            Err(JournalError::Corrupt { offset, .. }) if offset == ends[0] as u64
        ));
        assert_eq!(fs::read(&path).unwrap(), middle, "nothing was repaired");
    }

    #[test]
    fn one_process_at_a_time_and_no_overwriting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let journal = Journal::create(&path, &header()).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse(_))));
        assert!(matches!(
            Journal::create(&path, &header()),
            Err(JournalError::Exists(_))
        ));
        drop(journal);
        assert!(Journal::open(&path).is_ok());
    }

    /// `/dev/full` takes no byte and can't be cut either: after that nothing is promised any more.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_write_that_fails_and_can_not_be_undone_ends_the_journal() {
        let path = Path::new("/dev/full");
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let mut journal = Journal::locked(path, file).unwrap();
        assert!(matches!(
            journal.append(&record(1)),
            Err(JournalError::Io { .. })
        ));
        assert!(matches!(
            journal.append(&record(1)),
            Err(JournalError::Broken(_))
        ));
    }
}
