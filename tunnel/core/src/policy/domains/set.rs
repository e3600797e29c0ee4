//! Domains, exactly and in little memory.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{DomainError, names};

/// Names in a block. The first of a block is whole; of the others only what differs from the one before.
const BLOCK: usize = 16;

/// Ends every label of a key: less than all that a name may have, so that a domain comes right before those below it.
const END: u8 = 0;

/// Bytes that all keys may have together.
const MAX_KEYS: usize = 1 << 31;

/// A set of domains, each with everything below it.
///
/// A name's key is its labels from the last to the first, each with a zero at its end. So a domain is above another
/// exactly if its key begins the other's. Domains below others of the set are left out, which makes the one that may be
/// above a name the last that sorts before it: one binary search finds it, whatever the name looks like.
#[derive(Clone, PartialEq, Eq)]
pub struct DomainSet {
    /// For each key: how many bytes it shares with the one before, how many follow, and these.
    bytes: Box<[u8]>,
    /// Where the blocks begin.
    blocks: Box<[u32]>,
    len: usize,
    digest: [u8; 32],
}

impl DomainSet {
    /// Whether `name` is one of the domains, or below one. Any spelling of a name will do, escapes included.
    pub fn covers(&self, name: &str) -> bool {
        let mut key = Vec::with_capacity(name.len() + 1);
        push_key(&mut key, name);
        let after = self
            .blocks
            .partition_point(|&start| self.first(start) <= key.as_slice());
        let Some(block) = after.checked_sub(1) else {
            return false;
        };
        let mut known = Vec::with_capacity(key.len());
        self.keys_of(block, |rest, shared| {
            known.truncate(shared);
            known.extend_from_slice(rest);
            key.starts_with(&known)
        })
    }

    /// How many domains it holds, without those below others.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that the domains take.
    pub fn size(&self) -> usize {
        self.bytes.len() + std::mem::size_of_val(&*self.blocks)
    }

    /// SHA-256 of the domains, each followed by a line feed, without those below others; sorted by their labels from
    /// the last to the first.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn first(&self, start: u32) -> &[u8] {
        let start = start as usize;
        &self.bytes[start + 2..][..usize::from(self.bytes[start + 1])]
    }

    /// Gives the keys of a block to `found`, as what each adds to how much of the one before, until it is true.
    fn keys_of(&self, block: usize, mut found: impl FnMut(&[u8], usize) -> bool) -> bool {
        let mut at = self.blocks[block] as usize;
        let end = self
            .blocks
            .get(block + 1)
            .map_or(self.bytes.len(), |&next| next as usize);
        while at < end {
            let (shared, len) = (self.bytes[at], usize::from(self.bytes[at + 1]));
            if found(&self.bytes[at + 2..][..len], usize::from(shared)) {
                return true;
            }
            at += 2 + len;
        }
        false
    }
}

impl Default for DomainSet {
    fn default() -> Self {
        Self {
            bytes: Box::default(),
            blocks: Box::default(),
            len: 0,
            digest: Sha256::new().finalize().into(),
        }
    }
}

impl fmt::Debug for DomainSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainSet({} domains)", self.len)
    }
}

/// Takes the lines of domain files, in any order.
#[derive(Debug, Default)]
pub struct DomainSetBuilder {
    keys: Vec<u8>,
    /// Where each key begins, and its length.
    spans: Vec<(u32, u8)>,
}

impl DomainSetBuilder {
    /// Takes one line of a plain list or of a hosts file; from a `#` on it is a comment.
    pub fn add_line(&mut self, line: &str) -> Result<(), DomainError> {
        for name in names(line)? {
            let start = self.keys.len() as u32;
            if self.keys.len() > MAX_KEYS {
                return Err(DomainError::TooLong);
            }
            push_key(&mut self.keys, &name);
            // A name has at most 253 bytes, its key one more.
            let len = self.keys.len() - start as usize;
            self.spans.push((start, len as u8));
        }
        Ok(())
    }

    /// The set of what the lines named.
    pub fn build(self) -> DomainSet {
        let Self { keys, mut spans } = self;
        let key = |(start, len): (u32, u8)| &keys[start as usize..][..usize::from(len)];
        spans.sort_unstable_by(|&one, &other| key(one).cmp(key(other)));
        let mut set = DomainSet::default();
        let (mut bytes, mut blocks) = (Vec::new(), Vec::new());
        let mut digest = Sha256::new();
        let mut before: &[u8] = &[];
        for key in spans.iter().map(|&span| key(span)) {
            if set.len > 0 && key.starts_with(before) {
                continue;
            }
            let shared = if set.len.is_multiple_of(BLOCK) {
                // A key has two bytes at least and takes two more: below 4 GiB, by the limit of all keys.
                blocks.push(bytes.len() as u32);
                0
            } else {
                before.iter().zip(key).take_while(|(a, b)| a == b).count()
            };
            // A key has at most 254 bytes.
            bytes.extend([shared as u8, (key.len() - shared) as u8]);
            bytes.extend_from_slice(&key[shared..]);
            add_name(&mut digest, key);
            before = key;
            set.len += 1;
        }
        set.bytes = bytes.into_boxed_slice();
        set.blocks = blocks.into_boxed_slice();
        set.digest = digest.finalize().into();
        set
    }
}

/// Writes the key of a name, in lower case.
fn push_key(key: &mut Vec<u8>, name: &str) {
    let name = name.strip_suffix('.').unwrap_or(name);
    for label in name.rsplit('.') {
        key.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        key.push(END);
    }
}

fn add_name(digest: &mut Sha256, key: &[u8]) {
    let labels = key[..key.len() - 1].rsplit(|&byte| byte == END);
    for (number, label) in labels.enumerate() {
        if number > 0 {
            digest.update(b".");
        }
        digest.update(label);
    }
    digest.update(b"\n");
}
