//! Measurements that others can repeat, each side by side with its peers in one run.
//!
//! Every program in `src/bin` measures one thing and says at its top how to run it. Absolute figures belong to a
//! machine; what is compared was measured in the same run, in turns.

mod cpu;
pub mod peers;
pub mod questions;
mod samples;
pub mod spread;

pub use cpu::{cpu_time, thread_time_of, time_of_process};
pub use samples::{SCATTER_LIMIT, Samples};
