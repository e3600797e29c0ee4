//! What a verification found.

use std::collections::BTreeMap;

use serde::Serialize;

/// Everything that was checked, and what could not be.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// Each thing that was computed again.
    pub(crate) checked: Vec<Finding>,
    /// Fields that nothing in the file proves, with the reason. `*` stands for each element of a list.
    pub(crate) unproven: BTreeMap<String, &'static str>,
}

/// One thing that was computed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about: `statement`, or a lease.
    pub(crate) of: String,
    /// What must hold.
    pub(crate) what: String,
    /// Whether it does.
    pub(crate) holds: bool,
}

impl Findings {
    /// Notes whether something holds.
    pub(super) fn check(&mut self, of: &str, what: impl Into<String>, holds: bool) {
        self.checked.push(Finding {
            of: of.into(),
            what: what.into(),
            holds,
        });
    }

    /// Notes a field that nothing proves.
    pub(super) fn unproven(&mut self, field: &str, why: &'static str) {
        self.unproven.insert(field.into(), why);
    }

    /// How many checks do not hold.
    pub(crate) fn failed(&self) -> usize {
        self.checked.iter().filter(|check| !check.holds).count()
    }
}
