//! Every input that fuzzing kept, checked again.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::fs;
use std::path::Path;

use ipsx_properties::{SURFACES, check};

/// How many inputs each surface's corpus has at least.
const LEAST: usize = 10;

fn check_corpus(surface: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(surface);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= LEAST, "{} has {}", surface, inputs.len());
    for path in inputs {
        println!("{}", path.display());
        check(surface, &fs::read(&path).unwrap());
    }
}

macro_rules! surfaces {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check_corpus(stringify!($name)); })*

        #[test]
        fn every_surface_is_checked() {
            let names: Vec<_> = SURFACES.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

surfaces!(udp_input tun_input offload_raw offload_flows policy uapi messages market relay_input);
