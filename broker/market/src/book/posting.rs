//! The rows of one value of an attribute: in the order of price, and once there are many as a bitmap too.

use roaring::RoaringBitmap;

use super::line::Line;
use super::row::{Rank, RowId, Rows};
use super::shared::ShareId;

/// From so many rows on there is a bitmap: fewer are looked at one by one. Tests have no time for that many.
const MANY: u32 = if cfg!(test) { 64 } else { 2_048 };

/// The rows of one value.
#[derive(Clone, Debug, Default)]
pub(super) struct Posting {
    line: Line<Rank>,
    count: u32,
    set: Option<Box<RoaringBitmap>>,
}

impl Posting {
    pub(super) fn insert(&mut self, at: RowId, rows: &Rows) {
        self.line.insert(rows.rank(at), at, |row| *rows.rank(row));
        self.count += 1;
        if let Some(set) = &mut self.set {
            set.insert(at);
        } else if self.count >= MANY {
            self.set = Some(Box::new(self.line.rows().collect()));
        }
    }

    pub(super) fn remove(&mut self, at: RowId, rows: &Rows) {
        let key_of = |row| *rows.rank(row);
        if !self.line.remove(rows.rank(at), at, key_of) {
            return;
        }
        self.count -= 1;
        // Some way below, or a row that comes and goes would make and drop it each time.
        if self.count < MANY / 2 {
            self.set = None;
        } else if let Some(set) = &mut self.set {
            set.remove(at);
        }
    }

    /// Moves a row that had another place in the order of price.
    pub(super) fn reposition(&mut self, at: RowId, was: &Rank, rows: &Rows) {
        self.line
            .reposition(was, rows.rank(at), at, |row| *rows.rank(row));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> u64 {
        self.count.into()
    }

    /// In the order of price.
    pub(super) fn line(&self) -> &Line<Rank> {
        &self.line
    }

    /// As a bitmap, if there are many.
    pub(super) fn set(&self) -> Option<&RoaringBitmap> {
        self.set.as_deref()
    }
}

/// Postings of values that rows share.
#[derive(Clone, Debug, Default)]
pub(super) struct Postings(Vec<Posting>);

impl Postings {
    /// Puts a row in; true when it is the value's first.
    pub(super) fn insert(&mut self, id: ShareId, at: RowId, rows: &Rows) -> bool {
        let index = id as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Posting::default);
        }
        let posting = &mut self.0[index];
        posting.insert(at, rows);
        posting.count == 1
    }

    /// Takes a row out; true when it was the value's last.
    pub(super) fn remove(&mut self, id: ShareId, at: RowId, rows: &Rows) -> bool {
        self.get_mut(id).is_some_and(|posting| {
            let had = !posting.is_empty();
            posting.remove(at, rows);
            had && posting.is_empty()
        })
    }

    pub(super) fn get(&self, id: ShareId) -> Option<&Posting> {
        self.0.get(id as usize)
    }

    pub(super) fn get_mut(&mut self, id: ShareId) -> Option<&mut Posting> {
        self.0.get_mut(id as usize)
    }
}
