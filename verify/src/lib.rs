//! Decides from a history of calls whether a broker kept its promises.
//!
//! A run has clients that push, pull and settle while faults are injected. Each call, each fault
//! and, at the end, what the database holds becomes a [`history::Record`]. The checker reads
//! nothing else: a history that was written to a file can be judged again, by anyone.
//!
//! The ground of a run is a [`field`]: a throw-away cluster that can be broken in many ways, or one
//! that is there already. What is broken when is up to the [`nemesis`]. A [`report`] tells what came
//! of it all.

pub mod check;
pub mod clock;
mod database;
pub mod ending;
pub mod field;
pub mod history;
pub mod load;
pub mod nemesis;
pub mod record;
pub mod report;
pub mod run;
pub mod summary;
