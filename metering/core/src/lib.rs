//! ipsx-metering
