//! What must hold for any input, one function per surface that strangers can reach.
//!
//! Each function takes bytes, makes of them whatever its surface takes, and panics when a promise is broken. The
//! fuzzers in `tests/fuzz` call them with bytes that they invent; the test `corpus` calls them with the bytes that
//! were kept, so that every ordinary test run checks those again.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a broken promise panics; that is how a fuzzer sees it"
)]

mod bytes;
mod market;
mod messages;
mod offload;
mod pair;
mod policy;
mod relay;
mod tun;
mod uapi;
mod udp;

/// A surface by its name, which is also the name of its fuzz target and of its corpus.
pub type Surface = (&'static str, fn(&[u8]));

/// All surfaces.
pub const SURFACES: [Surface; 9] = [
    ("udp_input", udp::check),
    ("tun_input", tun::check),
    ("offload_raw", offload::check_raw),
    ("offload_flows", offload::check_flows),
    ("policy", policy::check),
    ("uapi", uapi::check),
    ("messages", messages::check),
    ("market", market::check),
    ("relay_input", relay::check),
];

/// Checks one input of a surface.
pub fn check(surface: &str, input: &[u8]) {
    let (_, check) = SURFACES
        .iter()
        .find(|(name, _)| *name == surface)
        .unwrap_or_else(|| panic!("there is no surface {surface}"));
    check(input);
}
