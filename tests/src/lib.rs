//! What must hold, seen from outside.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

pub mod conformance;
pub mod drift;
pub mod fuzz;
pub mod harness;
pub mod stores;
