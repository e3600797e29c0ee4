//! ipsx-settlement
