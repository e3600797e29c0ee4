//! ipsx-agent-core
