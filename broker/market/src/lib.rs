//! ipsx-market
