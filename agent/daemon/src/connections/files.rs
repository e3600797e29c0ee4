//! The record on disk: for each hour and start of the program a file of sealed records, and one of their leaves.
//!
//! `connections/START-RANDOM.sealed`: magic, sealed hourly key, then records of one size, each sealed under its number.
//! `connections/START-RANDOM.leaves`: deal, index and leaf of each, in the clear: they tell how many there were, and
//! outlive the records for as long as a lease can last, because proofs of later ones need them.
//!
//! `connections/gaps`: a line for each second in which connections may have been missed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ipsx_market::offer::LONGEST_LEASE;
use ipsx_metering::{B256, CONNECTION_BYTES, Connection, DealId, UnixSeconds, connection_leaf};
use rand::Rng;

use super::seal::{HourKey, RecordKey, RecordSecret, SEALED_KEY, TAG};

const MAGIC: &[u8; 8] = b"ipsxcr-1";
/// Index, blinding, record.
const ENTRY: usize = 8 + 32 + CONNECTION_BYTES;
/// Deal, index, leaf.
const LEAF: usize = 32 + 8 + 32;
/// Says when connections may have been missed.
const GAPS: &str = "gaps";
/// One file holds so many seconds.
const HOUR: u64 = 3_600;

/// One record with what proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) index: u64,
    pub(super) blinding: B256,
    pub(super) record: Connection,
}

impl Entry {
    pub(super) fn leaf(&self) -> B256 {
        connection_leaf(self.blinding, &self.record)
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.index.to_be_bytes());
        bytes[8..40].copy_from_slice(self.blinding.as_slice());
        bytes[40..].copy_from_slice(&self.record.encode());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (index, rest) = bytes.split_first_chunk::<8>()?;
        let (blinding, rest) = rest.split_first_chunk::<32>()?;
        Some(Self {
            index: u64::from_be_bytes(*index),
            blinding: B256::new(*blinding),
            record: Connection::decode(rest.try_into().ok()?)?,
        })
    }
}

/// The folder of the record in a data folder.
pub(super) fn folder(data: &Path) -> PathBuf {
    data.join("connections")
}

/// Appends to the files of the hour.
pub(super) struct Writer {
    folder: PathBuf,
    key: RecordKey,
    /// Seconds that records are kept.
    retention: u64,
    hour: Option<Hour>,
}

struct Hour {
    start: u64,
    key: HourKey,
    sealed: File,
    leaves: File,
    written: u64,
}

impl Writer {
    pub(super) fn new(data: &Path, key: RecordKey, retention: u64) -> Self {
        Self {
            folder: folder(data),
            key,
            retention,
            hour: None,
        }
    }

    /// Writes records. All are on disk when it returns; after an error the same may be handed over again.
    pub(super) fn append(&mut self, entries: &[Entry], now: UnixSeconds) -> io::Result<()> {
        let start = now.0 / HOUR * HOUR;
        if self.hour.as_ref().is_none_or(|hour| hour.start != start) {
            self.hour = None;
            self.hour = Some(self.open(start)?);
            forget(&self.folder, self.retention, now)?;
        }
        let Some(hour) = &mut self.hour else {
            return Ok(());
        };
        let written = hour.write(entries);
        if written.is_err() {
            // A part may have been written: what comes next goes to new files.
            self.hour = None;
        }
        written
    }

    /// Writes down when connections may have been missed.
    pub(super) fn note_gaps(&self, at: &[UnixSeconds]) -> io::Result<()> {
        make_private(&self.folder)?;
        let lines: String = at.iter().map(|at| format!("{at}\n")).collect();
        let mut file = private().create(true).open(self.folder.join(GAPS))?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()
    }

    fn open(&self, start: u64) -> io::Result<Hour> {
        make_private(&self.folder)?;
        let name = format!("{start}-{:08x}", rand::thread_rng().r#gen::<u32>());
        let (key, sealed_key) = self
            .key
            .new_hour()
            .ok_or_else(|| io::Error::other("the hour's key cannot be sealed"))?;
        let mut sealed = create(&self.folder.join(format!("{name}.sealed")))?;
        let leaves = create(&self.folder.join(format!("{name}.leaves")))?;
        sealed.write_all(&[MAGIC.as_slice(), &sealed_key].concat())?;
        sealed.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Hour {
            start,
            key,
            sealed,
            leaves,
            written: 0,
        })
    }
}

impl Hour {
    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut sealed = Vec::with_capacity(entries.len() * (ENTRY + TAG));
        let mut leaves = Vec::with_capacity(entries.len() * LEAF);
        for entry in entries {
            let text = self.key.seal(self.written, &entry.encode());
            sealed.extend(text.ok_or_else(|| io::Error::other("a record cannot be sealed"))?);
            self.written += 1;
            leaves.extend_from_slice(entry.record.deal_id.0.as_slice());
            leaves.extend_from_slice(&entry.index.to_be_bytes());
            leaves.extend_from_slice(entry.leaf().as_slice());
        }
        self.sealed.write_all(&sealed)?;
        self.leaves.write_all(&leaves)?;
        self.sealed.sync_data()?;
        self.leaves.sync_data()
    }
}

/// Removes records older than the retention, and leaves that no running lease can need any more.
pub(super) fn forget(folder: &Path, retention: u64, now: UnixSeconds) -> io::Result<()> {
    for (path, start) in list(folder)? {
        let end = start + HOUR;
        let kept = if extension(&path) == Some("sealed") {
            retention
        } else {
            retention + u64::from(LONGEST_LEASE)
        };
        if end.saturating_add(kept) <= now.0 {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Every record that `secret` opens, of hours that had begun by `until`; and how many files it does not open.
pub(super) fn read(
    folder: &Path,
    secret: &RecordSecret,
    until: UnixSeconds,
) -> io::Result<(Vec<Entry>, usize)> {
    let (mut entries, mut closed) = (Vec::new(), 0);
    for (path, start) in list(folder)? {
        if extension(&path) != Some("sealed") || start > until.0 {
            continue;
        }
        match read_file(&path, secret)? {
            Some(found) => entries.extend(found),
            None => closed += 1,
        }
    }
    Ok((entries, closed))
}

fn read_file(path: &Path, secret: &RecordSecret) -> io::Result<Option<Vec<Entry>>> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    let opened = content
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_first_chunk::<SEALED_KEY>())
        .and_then(|(sealed, rest)| Some((secret.open(sealed)?, rest)));
    let Some((key, rest)) = opened else {
        return Ok(None);
    };
    // A torn last record was never in a root that was signed.
    let texts = rest.chunks_exact(ENTRY + TAG).zip(0..);
    let entry = |(text, number)| Entry::decode(&key.unseal(number, text)?);
    Ok(Some(texts.map_while(entry).collect()))
}

/// The seconds in which connections may have been missed.
pub(super) fn gaps(folder: &Path) -> io::Result<Vec<UnixSeconds>> {
    let text = match fs::read_to_string(folder.join(GAPS)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let seconds = text.lines().filter_map(|line| line.parse().ok());
    Ok(seconds.map(UnixSeconds).collect())
}

/// The leaves of a lease, in order, as far as none is missing.
pub(super) fn leaves(folder: &Path, deal: DealId) -> io::Result<Vec<B256>> {
    let mut found = BTreeMap::new();
    for (path, _) in list(folder)? {
        if extension(&path) != Some("leaves") {
            continue;
        }
        let content = fs::read(&path)?;
        for line in content.chunks_exact(LEAF) {
            let (of, rest) = line.split_at(32);
            let (index, leaf) = rest.split_at(8);
            if let (true, Ok(index)) = (of == deal.0.as_slice(), index.try_into()) {
                found.insert(u64::from_be_bytes(index), B256::from_slice(leaf));
            }
        }
    }
    let whole = found
        .into_iter()
        .zip(0..)
        .map_while(|((index, leaf), wanted)| (index == wanted).then_some(leaf));
    Ok(whole.collect())
}

/// The record's files with the second that each begins at.
fn list(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let start = path
            .file_stem()
            .and_then(|name| name.to_str()?.split('-').next()?.parse().ok());
        found.extend(start.map(|start| (path, start)));
    }
    found.sort();
    Ok(found)
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

fn create(path: &Path) -> io::Result<File> {
    private().create_new(true).open(path)
}

/// For appending to files that nobody else reads.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
