//! What is wrong with a configuration, and how to put it right.

/// A key has a value that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One key's value.
    #[error("{key} = {value}{}: it must be {allowed}. Example: {key} = {example}", in_source(.source_name))]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Where it was set, if known.
        source_name: Option<String>,
        /// What is allowed.
        allowed: String,
        /// A value that is.
        example: String,
    },
    /// No such key.
    #[error("{key}{} is no key of this program; ipsx-broker --help lists them all", in_source(.source_name))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it was set, if known.
        source_name: Option<String>,
    },
    /// A key that another one needs.
    #[error("{key} is missing: {because}. Example: {key} = {example}")]
    Missing {
        /// The key.
        key: String,
        /// Why it is needed.
        because: String,
        /// A value.
        example: String,
    },
    /// The file can't be read.
    #[error("can't read the configuration {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn in_source(name: &Option<String>) -> String {
    name.as_ref()
        .map_or_else(String::new, |name| format!(" (in {name})"))
}
