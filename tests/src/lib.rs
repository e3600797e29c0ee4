//! ipsx-tests
