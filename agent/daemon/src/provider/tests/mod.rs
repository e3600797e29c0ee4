//! Against the real broker, tunnel and chain.
