//! The batonq broker as a library.
pub mod access;
pub mod broker;
pub mod clock;
pub mod door;
mod duties;
pub mod error;
pub mod group_commit;
pub mod job;
pub mod limits;
pub mod metrics;
pub mod store;
