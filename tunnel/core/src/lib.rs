//! ipsx-tunnel-core
