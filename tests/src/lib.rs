//! What must hold, seen from outside.

pub mod conformance;
pub mod drift;
pub mod harness;
pub mod stores;
