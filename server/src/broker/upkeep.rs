//! What every node does by itself: look after its sessions and its store.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Core, Loop};
use crate::store::SESSION_LEASE;

/// How often sessions are looked at: what it adds to their patience at most.
const SESSIONS_EVERY: Duration = Duration::from_millis(500);

/// Three renewals may fail before a lease ends.
const RENEWAL_EVERY: Duration = Duration::from_secs(SESSION_LEASE.as_secs() / 4);

/// How often the store is tried.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// Gives back the jobs of workers that are gone.
pub(super) fn sessions(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(every(SESSIONS_EVERY, stop, move || {
        let core = Arc::clone(&core);
        async move {
            for session in core.sessions.take_gone() {
                match core.store.give_back(session).await {
                    Ok(effects) => {
                        if !effects.is_empty() {
                            tracing::info!(count = effects.len(), "worker gone, jobs given back");
                        }
                        core.announce(&effects);
                    }
                    // Nobody renews the leases of a forgotten session: they run out.
                    Err(error) => tracing::warn!(%error, "jobs could not be given back"),
                }
            }
        }
    }))
}

/// Keeps the leases of living sessions.
pub(super) fn renewal(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(every(RENEWAL_EVERY, stop, move || {
        let core = Arc::clone(&core);
        async move {
            let alive = core.sessions.alive();
            if !alive.is_empty()
                && let Err(error) = core.health.watch(core.store.renew(alive).await)
            {
                tracing::warn!(%error, "leases could not be renewed");
            }
        }
    }))
}

/// Tries the store, so that a node that nobody asks for anything knows how it is.
pub(super) fn health(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(every(HEALTH_EVERY, stop, move || {
        let core = Arc::clone(&core);
        async move {
            // The monitor has the error; there is nobody else to tell.
            core.health.watch(core.store.check().await).ok();
        }
    }))
}

async fn every<F: Future<Output = ()>>(
    pause: Duration,
    stop: CancellationToken,
    mut work: impl FnMut() -> F,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => work().await,
            () = stop.cancelled() => return,
        }
    }
}
