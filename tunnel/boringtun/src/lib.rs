// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! The Noise protocol of WireGuard: boringtun 0.7.1 without its device, and with the changes in `PATCHES.md`.
#![forbid(unsafe_code)]
#![allow(
    clippy::all,
    clippy::unwrap_used,
    deprecated,
    missing_docs,
    unreachable_pub,
    reason = "kept close to where it comes from, so that later versions can be compared"
)]

pub mod noise;

/// Re-export of the x25519 types
pub mod x25519 {
    pub use x25519_dalek::{
        EphemeralSecret, PublicKey, ReusableSecret, SharedSecret, StaticSecret,
    };
}
