//! ipsx-broker
