//! Measurements that others can repeat, each side by side with its peers in one run.
//!
//! Every program in `src/bin` measures one thing and says at its top how to run it. Absolute figures belong to a
//! machine; what is compared was measured in the same run, in turns.

// Measuring is what clocks are for.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that fails has no figure to save"
)]

mod cpu;
pub mod peers;
pub mod questions;
mod samples;
pub mod spread;

pub use cpu::{cpu_time, thread_time_of, time_of_process};
pub use samples::{SCATTER_LIMIT, Samples};
