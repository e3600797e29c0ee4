//! What keeps keys in this process.

/// Makes sure that no crash writes this process's memory to a disk: no core dumps, and on Linux no other process of the
/// same user may read it. Called first by every program that opens a wallet.
///
/// Failing is no reason not to start: it is said in the log.
pub fn forbid_core_dumps() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        if let Err(error) = setrlimit(Resource::Core, none) {
            tracing::warn!(%error, "core dumps cannot be forbidden");
        }
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::warn!(%error, "this process's memory cannot be closed to others");
        }
    }
}
