//! What becomes of a lease while it is held, told to those who want to know.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Shared by a job, which may wait for it, and the session, which learns of it.
///
/// Of most jobs nobody asks, so signals are made for those who do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Fires with [`Stage::Lost`].
    lost: Option<CancellationToken>,
    /// Fires with [`Stage::Cancelled`] and all after it.
    cancelled: Option<CancellationToken>,
}

/// How it stands with a lease; it only gets worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Held,
    /// Held, but somebody has asked for the job's end.
    Cancelled,
    Lost,
}

impl Fate {
    /// Somebody asks for the job's end.
    pub(crate) fn cancel(&self) {
        self.reach(Stage::Cancelled);
    }

    /// The lease is lost.
    pub(crate) fn lose(&self) {
        self.reach(Stage::Lost);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.0.lock().stage == Stage::Lost
    }

    /// Somebody has asked for the job's end, or the lease is lost.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.lock().stage >= Stage::Cancelled
    }

    /// Fires when the lease is lost.
    pub(crate) fn lost(&self) -> CancellationToken {
        let State { stage, lost, .. } = &mut *self.0.lock();
        signal(lost, *stage == Stage::Lost)
    }

    /// Fires when somebody asks for the job's end, or the lease is lost.
    pub(crate) fn cancelled(&self) -> CancellationToken {
        let State { stage, cancelled, .. } = &mut *self.0.lock();
        signal(cancelled, *stage >= Stage::Cancelled)
    }

    fn reach(&self, stage: Stage) {
        let (lost, cancelled) = {
            let state = &mut *self.0.lock();
            state.stage = state.stage.max(stage);
            let is_lost = state.stage == Stage::Lost;
            (state.lost.clone().filter(|_| is_lost), state.cancelled.clone())
        };
        // Whoever wakes up may ask at once.
        [lost, cancelled].into_iter().flatten().for_each(|signal| signal.cancel());
    }
}

fn signal(made: &mut Option<CancellationToken>, has_fired: bool) -> CancellationToken {
    let signal = made.get_or_insert_default();
    if has_fired {
        signal.cancel();
    }
    signal.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_fire_whether_they_were_asked_for_before_or_after() {
        let fate = Fate::default();
        let (lost, cancelled) = (fate.lost(), fate.cancelled());
        assert!(!lost.is_cancelled() && !cancelled.is_cancelled());

        fate.cancel();
        assert!(cancelled.is_cancelled() && fate.cancelled().is_cancelled());
        assert!(!lost.is_cancelled() && !fate.is_lost() && fate.is_cancelled());

        fate.lose();
        assert!(lost.is_cancelled() && fate.lost().is_cancelled() && fate.is_lost());
    }

    #[test]
    fn a_lost_lease_is_no_more_to_be_cancelled() {
        let fate = Fate::default();
        fate.lose();
        fate.cancel();
        assert!(fate.is_lost() && fate.cancelled().is_cancelled());
    }
}
