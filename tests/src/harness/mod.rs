//! Starting the real program and talking to it.
//!
//! A [`Server`] is a process of its own on free ports and a temporary directory; it is gone when
//! the test is over, however that ends. [`Wire`] speaks frames byte by byte, [`FlashQ`] those of
//! flashQ, [`Http`] requests line by line, [`Socket`] what comes by itself; the Rust client is what
//! users have. [`Known`] tells whether an answer is as expected.

pub mod cluster;
mod expect;
pub mod flashq;
mod http;
mod live;
mod namespace;
mod nginx;
mod pooler;
mod postgres;
mod proxy;
mod receiver;
mod server;
mod socket;
mod wire;

pub use cluster::Cluster;
pub use expect::Known;
pub use flashq::FlashQ;
pub use http::{Http, Reply};
pub use live::{Live, Seen};
pub use nginx::Nginx;
pub use pooler::Pooler;
pub use postgres::{Postgres, free_port};
pub use proxy::{Cut, Proxy};
pub use receiver::{Received, Receiver};
pub use server::{Server, ServerBuilder, batonq, free_text};
pub use socket::Socket;
pub use wire::{Wire, frame, hello};

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

/// How long anything may take that must happen. Never waited for in full.
pub const SOON: Duration = Duration::from_secs(20);

/// Ends tasks that run on.
///
/// # Panics
///
/// If one of them has.
pub async fn stop_all(mut tasks: JoinSet<()>) {
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => {}
        }
    }
}

/// Waits until `look` finds something.
///
/// # Panics
///
/// If it finds nothing in [`SOON`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let until = tokio::time::Instant::now() + SOON;
    while tokio::time::Instant::now() < until {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}
