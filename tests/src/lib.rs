//! What must hold, seen from outside.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

mod aftermath;
pub mod conformance;
pub mod consistency;
pub mod crash;
pub mod drift;
pub mod election;
pub mod fuzz;
pub mod harness;
pub mod search;
pub mod stores;
pub mod stumble;
