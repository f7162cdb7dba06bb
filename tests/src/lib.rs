//! What must hold, seen from outside.

pub mod harness;
