//! The Rust client of batonq: hand jobs in, work on them, look at them.
//!
//! # Handing in
//!
//! ```no_run
//! use batonq_client::{Client, NewJob};
//!
//! # async fn run() -> Result<(), batonq_client::Error> {
//! let client = Client::builder().url("tcp://127.0.0.1:6789").token("s3cret").connect().await?;
//! let job = NewJob::json("mail", &serde_json::json!({ "to": "ada" }))?.max_attempts(3);
//! let pushed = client.push(job).await?;
//! println!("job {}", pushed.id);
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Working
//!
//! ```no_run
//! use batonq_client::{Client, JobContext, Worker};
//!
//! # async fn run() -> Result<(), batonq_client::Error> {
//! let client = Client::builder().url("tcp://127.0.0.1:6789").worker("mailer-1").connect().await?;
//! Worker::new(client, "mail")
//!     .concurrency(20)
//!     .run(|job: JobContext| async move {
//!         let mail: serde_json::Value = job.json()?;
//!         job.progress(50, "rendered").await?;
//!         Ok(format!("sent to {}", mail["to"]))
//!     })
//!     .await
//! # }
//! ```
//!
//! [`Worker`] settles by itself. Who wants to settle himself takes jobs with [`Client::subscribe`]
//! (the node sends as many as there is credit for) or [`Client::pull`] (one question, one answer).
//!
//! # When the connection is lost
//!
//! The client connects again by itself and takes up its session: subscriptions go on and leases
//! are kept, if it comes back in time. A lease that could not be kept fires [`Job::lost`], and
//! [`JobContext::aborted`] in a handler. Calls in flight end with an [`Error`] that says whether
//! something may have been done: [`Error::OutcomeUnknown`] if so, otherwise one of those that
//! [`Error::is_retryable`]. Calls made while there is no connection wait for one, within their
//! time.
//!
//! # Inside
//!
//! A call goes from [`Client`] through a channel to the one task of the client (`supervisor`),
//! which owns the socket (`connection`). What outlives a socket is the `session`: which leases
//! are held, and which subscriptions there are.

mod address;
mod change;
mod client;
mod config;
mod connection;
mod dial;
mod error;
mod failure;
mod fate;
mod heartbeat;
mod inspect;
mod job;
mod outbound;
mod pause;
mod pull;
mod push;
mod request;
mod schedules;
mod session;
mod settle;
mod settler;
mod subscription;
mod supervisor;
mod worker;

pub use batonq_protocol::ErrorCode;

pub use batonq_protocol::messages::{BulkDone, Decision, KeyUse, key_use};
pub use change::{Cancelled, Edit};
pub use client::Client;
pub use config::Config;
pub use error::Error;
pub use failure::Failure;
pub use inspect::{
    Attempt, Cause, ClusterNode, Explanation, JobDetail, JobEvent, JobFilter, JobPage, Limits,
    Queue, State, Stats, Timeline, WorkerInfo,
};
pub use job::{Job, JobId, Lease, Need};
pub use pull::PullOptions;
pub use push::{Backoff, NewJob, OnFailure, Outcome, Pushed};
pub use schedules::{Fire, Schedule, ScheduleDetail};
pub use session::NodeInfo;
pub use settle::Ack;
pub use subscription::Subscription;
pub use worker::{JobContext, Output, StopHandle, Worker};
