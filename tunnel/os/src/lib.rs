//! ipsx-tunnel-os
