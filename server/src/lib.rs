//! The batonq broker as a library.
pub mod clock;
pub mod error;
pub mod job;
pub mod limits;
pub mod store;
