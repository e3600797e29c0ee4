//! The provider's connection record: which connection was whose, sealed hour by hour, provable one by one.

pub(crate) mod disclose;
mod document;
mod files;
mod recorder;
mod seal;
#[cfg(test)]
pub(crate) mod tests;

pub use recorder::{Owners, Recorder};
pub use seal::{RecordKey, RecordSecret};
