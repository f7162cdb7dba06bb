//! The batonq broker as a library: what the `batonq` program runs.
//!
//! ```text
//!   tcp flashq http    transports: decode, call the broker, encode
//!        \|/
//!    broker            what clients may ask for; duties: what happens by time
//!       |
//!     store            where jobs are kept: a contract, and those who fulfil it
//!       |
//!      job             what a job is and what may happen to it: pure
//! ```
//!
//! Arrows point down only; a test keeps it so. [`node`] wires everything together.

pub mod node;

mod flashq;
pub mod http;
pub mod tcp;

pub mod access;
pub mod door;
pub mod explain;

pub mod broker;
mod duties;
pub mod group_commit;
pub mod webhooks;

pub mod store;

pub mod job;

pub mod clock;
pub mod cluster;
pub mod config;
pub mod error;
pub mod leader;
pub mod limits;
pub mod metrics;
pub mod mutants;
pub mod origins;
pub mod secrets;
