//! Values of which each is kept once, for as long as somebody has it.

use std::collections::HashMap;
use std::hash::Hash;

/// Names a value that several have.
pub(super) type ShareId = u32;

/// The values.
#[derive(Clone, Debug)]
pub(super) struct Shared<T> {
    values: Vec<(T, u32)>,
    vacant: Vec<ShareId>,
    by_value: HashMap<T, ShareId>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            vacant: Vec::new(),
            by_value: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Shared<T> {
    /// One more has this value.
    pub(super) fn add(&mut self, value: T) -> ShareId {
        if let Some(&at) = self.by_value.get(&value) {
            self.values[at as usize].1 += 1;
            return at;
        }
        let at = if let Some(at) = self.vacant.pop() {
            self.values[at as usize] = (value.clone(), 1);
            at
        } else {
            self.values.push((value.clone(), 1));
            (self.values.len() - 1) as ShareId
        };
        self.by_value.insert(value, at);
        at
    }

    /// One less has it.
    pub(super) fn drop_one(&mut self, at: ShareId) {
        let (value, count) = &mut self.values[at as usize];
        *count -= 1;
        if *count == 0 {
            self.by_value.remove(value);
            self.vacant.push(at);
        }
    }

    /// The value.
    pub(super) fn get(&self, at: ShareId) -> &T {
        &self.values[at as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_value_goes_with_its_last_holder() {
        let mut shared = Shared::default();
        let a = shared.add('a');
        assert_eq!((shared.add('a'), shared.add('b')), (a, 1));
        shared.drop_one(a);
        assert_eq!(shared.by_value.len(), 2);
        shared.drop_one(a);
        assert_eq!(shared.add('c'), a);
        assert_eq!(shared.get(1), &'b');
    }
}
