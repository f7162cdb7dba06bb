//! What every node does by itself: look after its sessions and its store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Core, Loop};
use crate::store::{Effect, SESSION_LEASE};

/// How often sessions are looked at: what it adds to their patience at most.
const SESSIONS_EVERY: Duration = Duration::from_millis(500);

/// Three renewals may fail before a lease ends.
const RENEWAL_EVERY: Duration = Duration::from_secs(SESSION_LEASE.as_secs() / 4);

/// How often the store is tried.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// How often it is tried while it fails.
const HEALTH_EVERY_ILL: Duration = Duration::from_millis(250);

/// How often it is asked what others have done that somebody here waits for: what it costs if
/// nobody tells.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Gives back the jobs of workers that are gone. What the store could not do is tried again until
/// their leases, which nobody renews, have run out.
pub(super) fn sessions(core: Arc<Core>, stop: CancellationToken) -> Loop {
    let gone = Arc::new(Mutex::new(Vec::new()));
    Box::pin(every(SESSIONS_EVERY, stop, move || {
        let (core, gone) = (Arc::clone(&core), Arc::clone(&gone));
        async move {
            let until = Instant::now() + SESSION_LEASE;
            let mut all = std::mem::take(&mut *gone.lock());
            all.extend(core.sessions.take_gone().into_iter().map(|session| (session, until)));
            all.retain(|(_, until)| Instant::now() < *until);
            while let Some((session, _)) = all.last() {
                match core.store.give_back(*session).await {
                    Ok(effects) => tell_given_back(&core, &effects),
                    Err(error) => {
                        tracing::warn!(%error, "jobs could not be given back");
                        break;
                    }
                }
                all.pop();
            }
            gone.lock().extend(all);
        }
    }))
}

fn tell_given_back(core: &Core, effects: &[Effect]) {
    if !effects.is_empty() {
        tracing::info!(count = effects.len(), "worker gone, jobs given back");
    }
    core.announce(effects);
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
    Box::pin(async move {
        loop {
            // The monitor has the error; there is nobody else to tell.
            core.health.watch(core.store.check().await).ok();
            let pause = match core.health.failure() {
                None => HEALTH_EVERY,
                Some(_) => HEALTH_EVERY_ILL,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = core.health.is_time() => {}
                () = stop.cancelled() => return,
            }
        }
    })
}

/// Wakes those who wait for jobs that a rate has held up.
pub(super) fn gates(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(async move {
        loop {
            tokio::select! {
                due = core.gates.due() => {
                    due.iter().for_each(|queue| core.waiters.hint(queue, 1));
                }
                () = stop.cancelled() => return,
            }
        }
    })
}

/// Looks, for all who wait, whether there is something that nobody has told.
pub(super) fn poll(core: Arc<Core>, stop: CancellationToken) -> Loop {
    // Nodes that started together do not look together.
    let every_so_often = POLL_EVERY.mul_f64(0.9 + 0.2 * rand::random::<f64>());
    Box::pin(every(every_so_often, stop, move || {
        let core = Arc::clone(&core);
        async move {
            let queues = core.waiters.waited_for();
            let jobs = core.ending_bells.waited_for();
            if queues.is_empty() && jobs.is_empty() && core.sessions.is_empty() {
                return;
            }
            match core.health.watch(core.store.poll(queues, jobs).await) {
                Ok(news) => {
                    news.ready.iter().for_each(|queue| core.waiters.hint_all(queue));
                    for (session, lease) in news.cancelled {
                        core.tell_cancelled(session, lease);
                    }
                    core.tell_lost(news.lost);
                    news.ended.iter().for_each(|job| core.ending_bells.ring_all(job));
                }
                Err(error) => tracing::debug!(%error, "poll failed"),
            }
        }
    }))
}

/// Looks for the same where that takes long: nobody waits for it.
pub(super) fn look(core: Arc<Core>, stop: CancellationToken) -> Loop {
    Box::pin(every(POLL_EVERY, stop, move || {
        let core = Arc::clone(&core);
        async move {
            match core.store.look(core.waiters.waited_for()).await {
                Ok(ready) => ready.iter().for_each(|queue| core.waiters.hint_all(queue)),
                Err(error) => tracing::debug!(%error, "look failed"),
            }
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
